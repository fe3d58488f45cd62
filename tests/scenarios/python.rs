//! Other languages need no code of ours: a script in Python with stubs made from the `.proto` files
//! and nothing else does all that a client does.

use std::{
    env,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use riverrun_tests::{
    certificates::{Authority, replace},
    process::BrokerProcess,
};

use crate::{broker, data_dir};

/// The Python to use, if it has what stubs need.
fn python() -> Result<String, String> {
    let python = env::var("RIVERRUN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let tried = Command::new(&python)
        .args(["-c", "import grpc, grpc_tools"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{python}: {error}"))?;
    if tried.status.success() {
        return Ok(python);
    }
    let text = String::from_utf8_lossy(&tried.stderr);
    Err(format!("{python}: {}", text.lines().last().unwrap_or("it failed")))
}

/// Runs the script against a broker, unless there is no Python for it.
fn stubs_alone(broker: &BrokerProcess, tls: &[(&str, &Path)]) {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            // Past the capture of output: `.ci/run` looks for it.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: python: {why}; pip install grpcio grpcio-tools, or say where with \
                 RIVERRUN_TEST_PYTHON"
            );
            return;
        }
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command
        .arg(here.join("python/stubs_alone.py"))
        .args(["--broker", &broker.address()])
        .arg("--protos")
        .arg(here.join("../proto"));
    for (name, file) in tls {
        command.arg(name).arg(file);
    }
    let script = command.stdin(Stdio::null()).output().expect("it was tried");
    let (out, err) = (&script.stdout, &script.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(script.status.success(), "{said}");
    assert!(said.contains("OK"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_stubs_alone_does_it_all() {
    let data = data_dir();
    stubs_alone(&broker(data.path()).start(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn and_with_tls_and_a_certificate_of_its_own() {
    let (data, files) = (data_dir(), data_dir());
    let ca = Authority::new("ca");
    ca.signs(&["127.0.0.1"]).write(files.path());
    replace(&files.path().join("ca.pem"), &ca.pem());
    let file = |name: &str| files.path().join(name);
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let broker = broker(data.path())
        .set("tls.grpc.cert.file", &cert.display().to_string())
        .set("tls.grpc.key.file", &key.display().to_string())
        .set("tls.grpc.client.ca.file", &ca.display().to_string())
        .start();
    stubs_alone(&broker, &[("--ca", &ca), ("--cert", &cert), ("--key", &key)]);
}
