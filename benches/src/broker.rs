//! The broker under load: a process of its own that is started here, on a directory of its own which
//! is removed afterwards; a cluster of several; or brokers that run already.
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
    cluster::{Cluster, ClusterArgs},
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

/// A broker that can be loaded, or several that are one cluster.
#[derive(Debug)]
pub struct Broker {
    args: BrokerArgs,
    addresses: Vec<String>,
    /// One that was started here.
    process: Option<Process>,
    /// Its directory, removed when dropped.
    dir: Option<TempDir>,
    /// Several that were started here.
    cluster: Option<Cluster>,
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

    fn cluster(&self, nodes: u32) -> ClusterArgs {
        let Self { broker_binary, broker_set, topic_set, dir, .. } = self.clone();
        ClusterArgs { nodes, broker_binary, broker_set, topic_set, dir }
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
    /// Starts one, or a cluster of so many; or takes those that were named.
    ///
    /// # Errors
    /// It does not start, with what it said; `nodes` are asked for, and others were named.
    pub async fn start(args: &BrokerArgs, nodes: u32) -> Result<Self> {
        let args = args.clone();
        args.settings(&args.broker_set)?;
        args.settings(&args.topic_set)?;
        let nobody = Vec::new();
        let mut broker = Self { args, addresses: nobody, process: None, dir: None, cluster: None };
        let args = &broker.args;
        if nodes > 1 {
            if !args.brokers.is_empty() {
                return Err(BenchError::Usage(format!(
                    "{nodes} nodes are started for the run: leave --brokers out, or say --nodes 1"
                )));
            }
            let cluster = Cluster::start(&args.cluster(nodes)).await?;
            broker.addresses = cluster.addresses();
            broker.cluster = Some(cluster);
        } else if args.brokers.is_empty() {
            broker.dir = Some(args.dir.make()?);
            broker.start_process()?;
        } else {
            broker.addresses.clone_from(&args.brokers);
        }
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
        let Some(dir) = self.dir.as_ref() else {
            return Err(BenchError::Usage("a restart is of one broker: say --nodes 1".into()));
        };
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

    /// Where the leader of the only partition of `topic` listens, for those who talk to one broker.
    pub fn address_of_leader(&self, topic: &Topic) -> &str {
        let leader = self.cluster.as_ref().and_then(|_| topic.partitions.first()?.leader);
        let node = leader.map_or(1, |leader| leader.0 as usize);
        &self.addresses[node - 1]
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

    /// Where its processes and its device are looked at.
    pub fn accounts(&self) -> Accounts {
        if let Some(cluster) = &self.cluster {
            return Accounts::of(cluster.process_ids(), self.data());
        }
        let process = self.process.as_ref().map(Process::id).or(self.args.broker_pid);
        Accounts::of(process, self.data())
    }

    /// The directory of its data, if it is ours; of all brokers of a cluster.
    pub fn data(&self) -> Option<&Path> {
        let of_cluster = self.cluster.as_ref().map(Cluster::data);
        of_cluster.or_else(|| self.dir.as_ref().map(TempDir::path))
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
        if self.cluster.is_some() {
            let min = workload.min_insync_replicas.to_string();
            settings.insert("min.insync.replicas".to_owned(), min);
            create = create.replication_factor(workload.replication_factor);
        }
        for (key, value) in &settings {
            create = create.config(key, value);
        }
        let mut topic =
            create.send().await.map_err(BenchError::client(format!("creating topic {name}")))?;
        if let Some(cluster) = &self.cluster {
            topic = cluster.in_sync(client, name, workload.replication_factor as usize).await?;
            settings
                .insert("replication.factor".to_owned(), workload.replication_factor.to_string());
        }
        settings = settings.into_iter().map(|(k, v)| (format!("topic.{k}"), v)).collect();
        settings.extend(self.settings());
        settings.insert("acks".to_owned(), name_of(workload.acks));
        Ok(RunTopic { topic, settings })
    }

    /// Stops it in order, if it is ours, and removes its data. The brokers of a cluster are killed:
    /// how all of them end at once is no part of a figure.
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

    #[tokio::test]
    async fn settings_are_pairs() {
        let args = BrokerArgs { broker_set: vec!["a=b=c".into()], ..BrokerArgs::default() };
        assert_eq!(args.settings(&args.broker_set).unwrap(), [("a", "b=c")]);
        let args = BrokerArgs { topic_set: vec!["a".into()], ..BrokerArgs::default() };
        let error = Broker::start(&args, 1).await.unwrap_err().to_string();
        assert!(error.contains("KEY=VALUE"), "{error}");
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

    #[tokio::test]
    async fn a_binary_that_is_none_is_named() {
        let args = BrokerArgs { broker_binary: Some("/no/such".into()), ..BrokerArgs::default() };
        for nodes in [1, 3] {
            let error = Broker::start(&args, nodes).await.unwrap_err().to_string();
            assert!(error.contains("/no/such"), "{error}");
        }
    }

    #[tokio::test]
    async fn nodes_that_run_already_are_not_started() {
        let args = BrokerArgs { brokers: vec!["127.0.0.1:1".into()], ..BrokerArgs::default() };
        assert!(Broker::start(&args, 1).await.is_ok());
        let error = Broker::start(&args, 3).await.unwrap_err().to_string();
        assert!(error.contains("leave --brokers out"), "{error}");
    }
}
