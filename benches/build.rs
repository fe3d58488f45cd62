//! Tells the program which commit it was built from, as `RIVERRUN_COMMIT`; nothing where there is no
//! git. A result without it cannot be checked. And by which compiler, as `RIVERRUN_COMPILER`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src");
    // The commit, and what is staged.
    for file in ["HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]) {
        println!("cargo:rustc-env=RIVERRUN_COMMIT={commit}");
    }
    let rustc = std::env::var("RUSTC").expect("cargo sets RUSTC for build scripts");
    let compiler = output(&rustc, &["--version"]).expect("it compiled this");
    println!("cargo:rustc-env=RIVERRUN_COMPILER={compiler}");
}

fn git(arguments: &[&str]) -> Option<String> {
    output("git", arguments)
}

/// What a program prints, if there is one and it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
