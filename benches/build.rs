//! Tells the program which commit it was built from, as `RIVERRUN_COMMIT`; nothing where there is no
//! git. A result without it cannot be checked.

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
}

/// What git prints, if there is one and it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
