//! The broker under load: a process of its own that is started here, on a directory of its own which
//! is removed afterwards, or brokers that run already.
//!
//! The process started here is this program as `riverrun serve`: the product's command line out of
//! the same build, so that no stale binary is ever measured. Another binary can be named, to compare
//! versions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use riverrun_client::{Client, Topic};
use tempfile::TempDir;

use crate::{
    accounting::Accounts,
    clock::Moment,
    error::{BenchError, Result},
    process::{self, Process},
    workload::{Durability, Volume, Workload, name_of},
};

/// The hidden command that is `riverrun`.
pub const AS_BROKER: &str = "as-riverrun";

/// Bytes of a sustained run that stay on the disk.
const SUSTAINED_KEPT_BYTES: u64 = 8 << 30;
/// So often retention looks. At the default of five minutes a sustained run would fill the disk first.
const RETENTION_CHECK: (&str, &str) = ("log.retention.check.interval.ms", "1s");

/// Which broker, and with which settings.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Broker")]
pub struct BrokerArgs {
    /// Brokers that run already, instead of one that is started here
    #[arg(short, long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    pub brokers: Vec<String>,

    /// Process of such a broker on this machine, for its CPU seconds and memory
    #[arg(long, value_name = "PID", requires = "brokers")]
    pub broker_pid: Option<u32>,

    /// A `riverrun` binary to start instead of this build
    #[arg(long, value_name = "FILE", conflicts_with = "brokers")]
    pub broker_binary: Option<PathBuf>,

    /// A key of the broker's configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "brokers")]
    pub broker_set: Vec<String>,

    /// A key of the topic's configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub topic_set: Vec<String>,

    /// Where its data is.
    #[command(flatten)]
    pub dir: DataDir,
}

/// Where temporary directories are made.
#[derive(Args, Clone, Debug, Default)]
pub struct DataDir {
    /// Where to make the temporary data directory [default: TMPDIR, or /var/tmp, which is on a
    /// disk]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A broker that can be loaded.
#[derive(Debug)]
pub struct Broker {
    args: BrokerArgs,
    addresses: Vec<String>,
    process: Option<Process>,
    /// Removed when dropped.
    dir: Option<TempDir>,
}

/// How a broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM.
    Orderly,
    /// SIGKILL.
    Kill,
}

/// A topic made for one run.
#[derive(Clone, Debug)]
pub struct RunTopic {
    /// As the broker told it.
    pub topic: Topic,
    /// What was set, for the report.
    pub settings: BTreeMap<String, String>,
}

// === impl DataDir ===

impl DataDir {
    /// Makes a temporary directory on a disk if possible: /tmp is memory on many machines, /var/tmp
    /// is not.
    ///
    /// # Errors
    /// The place cannot be written to.
    pub fn make(&self) -> Result<TempDir> {
        let var_tmp = Path::new("/var/tmp");
        let parent = match &self.dir {
            Some(dir) => {
                fs::create_dir_all(dir)
                    .map_err(BenchError::io(format!("making {}", dir.display())))?;
                dir.clone()
            }
            None if std::env::var_os("TMPDIR").is_none() && var_tmp.is_dir() => var_tmp.to_owned(),
            None => std::env::temp_dir(),
        };
        let doing = format!("making a directory in {}", parent.display());
        tempfile::Builder::new()
            .prefix("riverrun-bench-")
            .tempdir_in(&parent)
            .map_err(BenchError::io(doing))
    }
}

// === impl BrokerArgs ===

impl BrokerArgs {
    /// # Errors
    /// It is one that runs already, which nobody may end.
    pub fn must_be_started_here(&self) -> Result<()> {
        if self.brokers.is_empty() {
            return Ok(());
        }
        Err(BenchError::Usage(
            "a restart needs a broker that is started here: leave --brokers out".into(),
        ))
    }

    fn settings<'a>(&'a self, of: &'a [String]) -> Result<Vec<(&'a str, &'a str)>> {
        let pair = |text: &'a String| {
            text.split_once('=')
                .ok_or_else(|| BenchError::Usage(format!("{text:?} is not KEY=VALUE")))
        };
        of.iter().map(pair).collect()
    }
}

// === impl Broker ===

impl Broker {
    /// Starts one, or takes those that were named.
    ///
    /// # Errors
    /// It does not start; with what it said.
    pub fn start(args: &BrokerArgs) -> Result<Self> {
        let args = args.clone();
        args.settings(&args.broker_set)?;
        args.settings(&args.topic_set)?;
        if !args.brokers.is_empty() {
            let addresses = args.brokers.clone();
            return Ok(Self { args, addresses, process: None, dir: None });
        }
        let dir = args.dir.make()?;
        let mut broker = Self { args, addresses: Vec::new(), process: None, dir: Some(dir) };
        broker.start_process()?;
        Ok(broker)
    }

    fn start_process(&mut self) -> Result<()> {
        let dir = self.dir.as_ref().expect("only a broker of ours is started");
        let mut command = match &self.args.broker_binary {
            Some(binary) => Command::new(binary),
            None => process::this_program([AS_BROKER])?,
        };
        let data = dir.path().display();
        command.arg("serve");
        for setting in [
            "network.grpc.listen=127.0.0.1:0",
            "network.http.listen=127.0.0.1:0",
            "network.internal.listen=127.0.0.1:0",
            &format!("broker.data.dir={data}"),
            "telemetry.log.filter=warn",
        ] {
            command.args(["--set", setting]);
        }
        let (key, value) = RETENTION_CHECK;
        command.args(["--set", &format!("{key}={value}")]);
        for setting in &self.args.broker_set {
            command.args(["--set", setting]);
        }
        let (process, said) = Process::start("the broker", command)?;
        let address = said.split(' ').find_map(|part| part.strip_prefix("grpc="));
        let address = address
            .ok_or_else(|| BenchError::Failed(format!("the broker said {said:?} when ready")))?;
        self.addresses = vec![address.to_owned()];
        self.process = Some(process);
        Ok(())
    }

    /// Ends it and starts it again on the same data. Gives the time from the start of the process
    /// until it serves.
    ///
    /// # Errors
    /// It is not ours, does not end in order where it should, or does not come back.
    pub fn restart(
        &mut self,
        end: End,
        between: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Duration> {
        self.args.must_be_started_here()?;
        let dir = self.dir.as_ref().expect("a broker that is started here has one");
        let process = self.process.take();
        match end {
            End::Orderly => process.map_or(Ok(()), Process::stop)?,
            End::Kill => drop(process),
        }
        between(dir.path())?;
        let started = Moment::now();
        self.start_process()?;
        Ok(Moment::now().since(started))
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A client of it.
    ///
    /// # Errors
    /// An address is none.
    pub async fn client(&self) -> Result<Client> {
        Client::builder()
            .bootstrap_servers(&self.addresses)
            .client_id("riverrun-bench")
            .build()
            .await
            .map_err(BenchError::client("connecting"))
    }

    /// Where its process and its device are looked at.
    pub fn accounts(&self) -> Accounts {
        let process = self.process.as_ref().map(Process::id).or(self.args.broker_pid);
        Accounts::of(process, self.data())
    }

    /// Its data directory, if it is ours.
    pub fn data(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }

    /// What was set.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let ours = self.args.brokers.is_empty().then_some(RETENTION_CHECK);
        let given = self.args.settings(&self.args.broker_set).unwrap_or_default();
        let settings = ours.into_iter().chain(given);
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Creates a topic for a run of `workload`.
    ///
    /// # Errors
    /// It exists, or a setting is wrong.
    pub async fn create_topic(
        &self,
        client: &Client,
        name: &str,
        workload: &Workload,
    ) -> Result<RunTopic> {
        let mut settings = BTreeMap::from([(
            "durability".to_owned(),
            match workload.durability {
                Durability::Disk => "disk".to_owned(),
                Durability::Memory => "memory".to_owned(),
            },
        )]);
        if workload.volume == Volume::Sustained {
            let kept = SUSTAINED_KEPT_BYTES / u64::from(workload.partitions);
            settings.insert("retention.bytes".to_owned(), kept.to_string());
        }
        for (key, value) in self.args.settings(&self.args.topic_set)? {
            settings.insert(key.to_owned(), value.to_owned());
        }
        let admin = client.admin();
        let mut create = admin.create_topic(name).partitions(workload.partitions);
        for (key, value) in &settings {
            create = create.config(key, value);
        }
        let topic =
            create.send().await.map_err(BenchError::client(format!("creating topic {name}")))?;
        settings = settings.into_iter().map(|(k, v)| (format!("topic.{k}"), v)).collect();
        settings.extend(self.settings());
        settings.insert("acks".to_owned(), name_of(workload.acks));
        Ok(RunTopic { topic, settings })
    }

    /// Stops it in order, if it is ours, and removes its data.
    ///
    /// # Errors
    /// It did not stop cleanly, which a figure of it may be owed to.
    pub fn stop(mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_pairs() {
        let args = BrokerArgs { broker_set: vec!["a=b=c".into()], ..BrokerArgs::default() };
        assert_eq!(args.settings(&args.broker_set).unwrap(), [("a", "b=c")]);
        let args = BrokerArgs { topic_set: vec!["a".into()], ..BrokerArgs::default() };
        assert!(Broker::start(&args).unwrap_err().to_string().contains("KEY=VALUE"));
    }

    #[test]
    fn the_directory_is_made_where_it_is_wanted_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let wanted = parent.path().join("a/b");
        let dir = DataDir { dir: Some(wanted.clone()) }.make().unwrap();
        assert!(dir.path().starts_with(&wanted));
        drop(dir);
        assert_eq!(fs::read_dir(&wanted).unwrap().count(), 0);
    }

    #[test]
    fn a_binary_that_is_none_is_named() {
        let args = BrokerArgs { broker_binary: Some("/no/such".into()), ..BrokerArgs::default() };
        let error = Broker::start(&args).unwrap_err().to_string();
        assert!(error.contains("/no/such"), "{error}");
    }
}
