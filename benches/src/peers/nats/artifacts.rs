//! The NATS server and the `nats` program with its `bench`: those that are named, or installed, or
//! else built from their published Go modules into the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{BenchError, Result},
    peers::{
        cache::{Cache, checked_version},
        tool::{Tool, find, find_in, of_peer},
    },
};

/// Server that is built if none is installed and no version is said.
pub const VERSION: &str = "v2.15.2";

/// Module of the server, and of the program that loads it.
const SERVER_MODULE: &str = "github.com/nats-io/nats-server/v2";
const CLI_MODULE: &str = "github.com/nats-io/natscli/nats";

/// Of the latter.
const CLI_VERSION: &str = "v0.4.0";

/// Longest build of a module and all it needs.
const BUILD_MAX: Duration = Duration::from_secs(30 * 60);

/// Longest answer of a program that only tells its version.
const TELL_MAX: Duration = Duration::from_secs(60);

/// Longest wait of `nats` for an acknowledgement: its default of five seconds is less than a full
/// window takes on a slow disk where every record is synced by itself.
const ACK_MAX: &str = "60s";

/// What may be missing, and what to do about it.
const INSTALL_GO: &str = "it builds the NATS server and its nats program. Install Go 1.25 or later, \
                          or have nats-server and nats in PATH, or name them with --nats-server \
                          and --nats-cli";

/// Where the programs are to be taken from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The server.
    pub server: Option<PathBuf>,
    /// The `nats` program.
    pub cli: Option<PathBuf>,
    /// Build this version of the server, whatever is installed.
    pub version: Option<String>,
}

/// Both programs.
#[derive(Clone, Debug)]
pub struct Artifacts {
    server: PathBuf,
    cli: PathBuf,
    /// Versions of both.
    pub version: String,
}

// === impl Artifacts ===

impl Artifacts {
    /// Finds or builds them.
    ///
    /// # Errors
    /// Go is missing and they are too, or they cannot be built.
    pub async fn get(cache: &Cache, sources: &Sources) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = || find_in(&path, "nats-server").filter(|_| sources.version.is_none());
        let server = match sources.server.clone().or_else(installed) {
            Some(file) => file,
            None => {
                let version = checked_version(sources.version.as_deref().unwrap_or(VERSION))?;
                build(cache, SERVER_MODULE, "nats-server", version).await?
            }
        };
        let cli = match sources.cli.clone().or_else(|| find_in(&path, "nats")) {
            Some(file) => file,
            None => build(cache, CLI_MODULE, "nats", CLI_VERSION).await?,
        };
        let version = format!("{}, nats {}", version_of(&server).await?, version_of(&cli).await?);
        Ok(Self { server, cli, version })
    }

    /// The server.
    ///
    /// # Errors
    /// The system does not say where this program is.
    pub fn server(&self, file: &Path) -> Result<Command> {
        let mut command = of_peer(&self.server)?;
        command.arg("-c").arg(file);
        Ok(command)
    }

    /// The `nats` program, with `home` in place of the user's configuration.
    ///
    /// # Errors
    /// The system does not say where this program is.
    pub fn cli(&self, home: &Path, address: &str) -> Result<Command> {
        let mut command = of_peer(&self.cli)?;
        command.env("HOME", home).args(["--no-context", "--server", address, "--timeout", ACK_MAX]);
        Ok(command)
    }
}

/// Builds `module` into the cache.
async fn build(cache: &Cache, module: &str, program: &str, version: &str) -> Result<PathBuf> {
    let fill = async |dir: &Path| {
        let go = find("go", INSTALL_GO)?;
        eprintln!("building {program} {version} with Go");
        let mut command = Command::new(go);
        command.env("GOBIN", dir).args(["install", &format!("{module}@{version}")]);
        Tool::new("go install", command, BUILD_MAX)
            .run()
            .await
            .map_err(|e| not_built(program, &e))?;
        Ok(())
    };
    let dir = cache.entry(&format!("{program}-{version}"), fill).await?;
    Ok(dir.join(program))
}

fn not_built(program: &str, error: &BenchError) -> BenchError {
    let flag = if program == "nats" { "--nats-cli" } else { "--nats-server" };
    BenchError::Failed(format!(
        "{error}\n{program} could not be built from its published module. Install it, or build it \
         from its sources, and name it with {flag} FILE"
    ))
}

/// What a program says about its version, in one line.
async fn version_of(program: &Path) -> Result<String> {
    let mut command = of_peer(program)?;
    command.arg("--version");
    let said =
        Tool::new("asking a program of NATS for its version", command, TELL_MAX).run().await?;
    Ok(said.lines.join(" ").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_built_can_be_named() {
        let because = BenchError::Failed("go install ended with 1".into());
        for (program, flag) in [("nats", "--nats-cli"), ("nats-server", "--nats-server")] {
            let text = not_built(program, &because).to_string();
            assert!(text.contains(flag) && text.contains("ended with 1"), "{text}");
        }
        assert!(INSTALL_GO.contains("--nats-cli"));
    }

    #[test]
    fn the_users_configuration_is_not_read() {
        let artifacts = Artifacts {
            server: "/b/nats-server".into(),
            cli: "/b/nats".into(),
            version: "1".into(),
        };
        let command = artifacts.cli(Path::new("/h"), "127.0.0.1:1").unwrap();
        let environment: Vec<_> = command.get_envs().collect();
        assert_eq!(environment, [("HOME".as_ref(), Some("/h".as_ref()))]);
        assert!(command.get_args().any(|argument| argument == "--no-context"));
    }
}
