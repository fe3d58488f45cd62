//! Other languages need no code of ours: a script in Python with stubs made from the `.proto` files
//! and nothing else does all that a client does.

use std::{
    env,
    io::Write,
    path::Path,
    process::{Command, Stdio},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_stubs_alone_does_it_all() {
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
    let data = data_dir();
    let broker = broker(data.path()).start();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = Command::new(python)
        .arg(here.join("python/stubs_alone.py"))
        .args(["--broker", &broker.address()])
        .arg("--protos")
        .arg(here.join("../proto"))
        .stdin(Stdio::null())
        .output()
        .expect("it was tried");
    let (out, err) = (&script.stdout, &script.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(script.status.success(), "{said}");
    assert!(said.contains("OK"), "{said}");
}
