//! Several broker processes of this build that are one cluster, on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use riverrun_client::{BrokerPresence, Client, QuorumRole, Topic};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    broker::{AS_BROKER, DataDir},
    error::{BenchError, Result},
    lines::Lines,
    peers::server::free_ports,
    process::{self, Process},
    workload::{CLUSTER_NODES_MAX, CLUSTER_NODES_MIN},
};

/// Longest time until a cluster is what it should be.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Which brokers, and with which settings.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Broker processes
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(CLUSTER_NODES_MIN)..=i64::from(CLUSTER_NODES_MAX)))]
    pub nodes: u32,

    /// A `riverrun` binary to start instead of this build
    #[arg(long, value_name = "FILE")]
    pub broker_binary: Option<PathBuf>,

    /// A key of the brokers' configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub broker_set: Vec<String>,

    /// A key of the topic's configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub topic_set: Vec<String>,

    /// Where its data is.
    #[command(flatten)]
    pub dir: DataDir,
}

/// Nodes 1, 2, …, all of which vote. Killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    args: ClusterArgs,
    /// Addresses for clients, for HTTP and for other nodes.
    ports: Vec<[u16; 3]>,
    processes: Vec<Option<Process>>,
    /// What lies between its nodes, if it is to be made slow.
    lines: Option<Lines>,
    dir: TempDir,
}

// === impl Cluster ===

impl Cluster {
    /// Starts it and waits until all vote and take part.
    ///
    /// # Errors
    /// It does not start; with what a broker said.
    pub async fn start(args: &ClusterArgs) -> Result<Self> {
        let ports = ports(args.nodes as usize)?;
        Self::start_on(args, ports, None).await
    }

    /// The same over lines that can be made slow.
    ///
    /// # Errors
    /// As [`Cluster::start`]; and this machine has no such lines.
    pub async fn start_on_lines(args: &ClusterArgs) -> Result<Self> {
        let ports = ports(args.nodes as usize)?;
        let internal: Vec<u16> = ports.iter().map(|[.., internal]| *internal).collect();
        Self::start_on(args, ports, Some(Lines::to(&internal)?)).await
    }

    async fn start_on(
        args: &ClusterArgs,
        ports: Vec<[u16; 3]>,
        lines: Option<Lines>,
    ) -> Result<Self> {
        let nodes = args.nodes as usize;
        let dir = args.dir.make()?;
        let processes = (0..nodes).map(|_| None).collect();
        let mut cluster = Self { args: args.clone(), ports, processes, lines, dir };
        // The first founds the cluster when all others are there: together.
        let starting: Vec<_> = (1..=nodes)
            .map(|node| Process::begin("a broker", cluster.command(node)?))
            .collect::<Result<_>>()?;
        for (node, starting) in starting.into_iter().enumerate() {
            cluster.processes[node] = Some(starting.ready()?.0);
        }
        let admin = cluster.client().await?.admin();
        until("all vote and take part", async || {
            admin.describe_cluster().await.is_ok_and(|described| {
                let votes = described.nodes.iter().filter(|n| n.role == QuorumRole::Voter).count();
                let active = |broker: &riverrun_client::BrokerState| {
                    broker.presence == BrokerPresence::Active
                };
                votes == nodes && described.brokers.iter().filter(|b| active(b)).count() == nodes
            })
        })
        .await?;
        Ok(cluster)
    }

    fn command(&self, node: usize) -> Result<Command> {
        let mut command = match &self.args.broker_binary {
            Some(binary) => Command::new(binary),
            None => process::this_program([AS_BROKER])?,
        };
        let [grpc, http, internal] = self.ports[node - 1];
        let dialled: Vec<u16> = match &self.lines {
            Some(lines) => lines.ports().to_vec(),
            None => self.ports.iter().map(|[.., internal]| *internal).collect(),
        };
        let seeds: Vec<_> = dialled.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let data = self.dir.path().join(format!("node-{node}"));
        fs::create_dir_all(&data).map_err(BenchError::io(format!("making {}", data.display())))?;
        command.arg("serve");
        for setting in [
            format!("network.grpc.listen=127.0.0.1:{grpc}"),
            format!("network.http.listen=127.0.0.1:{http}"),
            format!("network.internal.listen=127.0.0.1:{internal}"),
            format!("network.internal.advertised.port={}", dialled[node - 1]),
            format!("broker.data.dir={}", data.display()),
            format!("broker.node.id={node}"),
            format!("controller.quorum.bootstrap.servers={}", seeds.join(",")),
            "controller.quorum.auto.join.enable=true".to_owned(),
            "telemetry.log.filter=warn".to_owned(),
            // At the default of five minutes what is written would fill the disk.
            "log.retention.check.interval.ms=1s".to_owned(),
        ]
        .iter()
        .chain(&self.args.broker_set)
        {
            command.args(["--set", setting]);
        }
        Ok(command)
    }

    /// A client that knows all of them.
    ///
    /// # Errors
    /// An address is none.
    pub async fn client(&self) -> Result<Client> {
        Client::builder()
            .bootstrap_servers(self.addresses())
            .client_id("riverrun-bench")
            .build()
            .await
            .map_err(BenchError::client("connecting"))
    }

    /// Where its brokers listen for clients, in the order of their ids.
    pub fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|[grpc, ..]| format!("127.0.0.1:{grpc}")).collect()
    }

    /// Where a node tells its metrics.
    pub fn http_address(&self, node: usize) -> String {
        let [_, http, _] = self.ports[node - 1];
        format!("127.0.0.1:{http}")
    }

    /// What lies between its nodes, where it was started on that.
    pub fn lines(&self) -> Option<&Lines> {
        self.lines.as_ref()
    }

    /// The directory that has the data of all.
    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// The processes that run.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().flatten().map(Process::id).collect()
    }

    /// Creates a topic of one partition on `replicas` of them, and waits until all are in sync.
    ///
    /// # Errors
    /// It exists, or a setting is wrong.
    pub async fn create_topic(
        &self,
        client: &Client,
        name: &str,
        replicas: u32,
        settings: &[(&str, &str)],
    ) -> Result<Topic> {
        let admin = client.admin();
        let mut create = admin.create_topic(name).partitions(1).replication_factor(replicas);
        for (key, value) in settings {
            create = create.config(*key, *value);
        }
        for setting in &self.args.topic_set {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| BenchError::Usage(format!("{setting:?} is not KEY=VALUE")))?;
            create = create.config(key, value);
        }
        create.send().await.map_err(BenchError::client(format!("creating topic {name}")))?;
        self.in_sync(client, name, replicas as usize).await
    }

    /// Waits until so many replicas of each partition of `name` are in sync, and it is led.
    ///
    /// # Errors
    /// They do not get there.
    pub async fn in_sync(&self, client: &Client, name: &str, replicas: usize) -> Result<Topic> {
        let admin = client.admin();
        let mut found = None;
        until("all replicas are in sync", async || {
            found = admin.topic(name).await.ok().filter(|topic| {
                topic.partitions.iter().all(|partition| {
                    partition.leader.is_some() && partition.in_sync_replicas.len() == replicas
                })
            });
            found.is_some()
        })
        .await?;
        found.ok_or_else(|| BenchError::Failed("the topic went away".into()))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self, node: usize) {
        self.processes[node - 1] = None;
    }

    /// Starts a node again and waits until it serves, on this very thread.
    ///
    /// # Errors
    /// It does not come back; with what it said.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        let (process, _) = Process::start("a broker", self.command(node)?)?;
        self.processes[node - 1] = Some(process);
        Ok(())
    }

    /// The process of a node, for those who stop it and let it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self, node: usize) -> Result<Pid> {
        let process = self.processes[node - 1].as_ref();
        let id = process.and_then(|process| i32::try_from(process.id()).ok());
        id.and_then(Pid::from_raw)
            .ok_or_else(|| BenchError::Failed(format!("node {node} does not run")))
    }
}

/// SIGSTOP or SIGCONT for one of them. One that is gone needs neither.
pub fn signal(process: Pid, signal: Signal) {
    let _ = kill_process(process, signal);
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let held = async {
        while !condition().await {
            sleep(LOOK).await;
        }
    };
    let waited = timeout(SETTLE_MAX, held).await;
    waited.map_err(|_| BenchError::Failed(format!("waited {SETTLE_MAX:?} in vain until {what}")))
}

/// Ports nobody listens on now. They are told before anybody listens, so the system cannot choose.
fn ports(nodes: usize) -> Result<Vec<[u16; 3]>> {
    let ports = free_ports(3 * nodes)?;
    Ok(ports.chunks_exact(3).map(|chunk| [chunk[0], chunk[1], chunk[2]]).collect())
}
