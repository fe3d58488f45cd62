//! Kafka's published jars, brought by Maven into the cache, and the Java that runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{BenchError, Result},
    peers::{
        cache::{Cache, checked_version},
        tool::{Tool, find, of_peer},
    },
};

/// What is taken if nothing is said.
pub const VERSION: &str = "4.3.1";

/// Longest download.
const FETCH_MAX: Duration = Duration::from_secs(15 * 60);

/// Longest answer of a program that only tells its version.
const TELL_MAX: Duration = Duration::from_secs(60);

/// What may be missing, and what to do about it.
const INSTALL_JAVA: &str = "Kafka needs Java 17 or later; install a JRE (Debian: \
                            openjdk-17-jre-headless)";
const INSTALL_MAVEN: &str = "Kafka's jars are fetched with it; install Maven (Debian: maven)";

/// Jars, and what runs them.
#[derive(Clone, Debug)]
pub struct Artifacts {
    java: PathBuf,
    jars: PathBuf,
    /// Versions of both.
    pub version: String,
}

// === impl Artifacts ===

impl Artifacts {
    /// Takes them from the cache, or fetches them into it.
    ///
    /// # Errors
    /// Java or Maven is missing, or Maven cannot fetch them.
    pub async fn get(cache: &Cache, version: &str) -> Result<Self> {
        let version = checked_version(version)?;
        let java = find("java", INSTALL_JAVA)?;
        let entry = format!("kafka-{version}");
        let dir = cache.entry(&entry, async |dir: &Path| fetch(dir, version).await).await?;
        let java_version = java_version(&java).await?;
        Ok(Self { java, jars: dir.join("jars"), version: format!("{version}, {java_version}") })
    }

    /// A Java program out of the jars.
    ///
    /// # Errors
    /// The system does not say where this program is.
    pub fn program(&self, jvm: &[&str], class: &str) -> Result<Command> {
        let mut command = of_peer(&self.java)?;
        command.args(jvm);
        // Numbers are parsed: 1.5 must not become 1,5.
        command.args(["-Duser.language=en", "-Duser.country=US"]);
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        command.arg("-cp").arg(self.jars.join("*")).arg(class);
        Ok(command)
    }
}

async fn fetch(dir: &Path, version: &str) -> Result<()> {
    let maven = find("mvn", INSTALL_MAVEN)?;
    let project = dir.join("pom.xml");
    fs::write(&project, project_file(version))
        .map_err(BenchError::io("writing a Maven project"))?;
    eprintln!("fetching Kafka {version} with Maven");
    let mut command = Command::new(maven);
    command.args(["-B", "-q", "-f"]).arg(&project).arg("dependency:copy-dependencies");
    command.arg("-DincludeScope=runtime");
    command.arg(format!("-DoutputDirectory={}", dir.join("jars").display()));
    Tool::new("Maven", command, FETCH_MAX).run().await?;
    Ok(())
}

/// A project that has nothing but what Kafka's server and tools need; and a logger, so that their
/// errors are seen.
fn project_file(version: &str) -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    let dependencies = [
        dependency("org.apache.kafka", "kafka_2.13", version),
        dependency("org.apache.kafka", "kafka-server", version),
        dependency("org.apache.kafka", "kafka-clients", version),
        dependency("org.apache.kafka", "kafka-tools", version),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    ]
    .concat();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n\
         <modelVersion>4.0.0</modelVersion>\n\
         <groupId>bench</groupId><artifactId>peer</artifactId><version>1</version>\n\
         <packaging>pom</packaging>\n<dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

/// `OpenJDK 17.0.15` or the like.
async fn java_version(java: &Path) -> Result<String> {
    let mut command = Command::new(java);
    command.arg("--version");
    let said = Tool::new("Java", command, TELL_MAX).run().await?;
    Ok(said.lines.first().map_or_else(|| "Java".to_owned(), |line| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_asks_for_one_version_of_server_and_tools() {
        let text = project_file("9.8.7");
        assert_eq!(text.matches("<version>9.8.7</version>").count(), 4);
        for artifact in ["kafka_2.13", "kafka-clients", "kafka-server", "kafka-tools"] {
            assert!(text.contains(&format!("<artifactId>{artifact}</artifactId>")), "{artifact}");
        }
        assert_eq!(text.matches('<').count(), text.matches('>').count());
    }

    #[test]
    fn programs_have_their_heap_and_class_path() {
        let artifacts = Artifacts {
            java: "/usr/bin/java".into(),
            jars: "/c/kafka-1/jars".into(),
            version: String::new(),
        };
        let command = artifacts.program(&["-Xmx1G"], "kafka.Kafka").unwrap();
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        assert_eq!(arguments[1..3], ["/usr/bin/java", "-Xmx1G"]);
        assert_eq!(arguments[arguments.len() - 3..], ["-cp", "/c/kafka-1/jars/*", "kafka.Kafka"]);
    }
}
