//! Brokers that are one cluster, on links that can be cut: started, killed, paused, stopped in order,
//! their disks filled, their logs compared.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use riverrun_client::{Admin, BrokerPresence, Client, ClusterDescription};
use riverrun_proto::rpc::v1;
use rustix::process::Signal;
use tokio::{task::spawn_blocking, time::timeout};
use v1::{broker_state::Presence, quorum_node::Role};

use crate::{
    disk::{Filling, SmallDisk},
    files,
    links::Links,
    load,
    process::{BrokerOptions, BrokerProcess, Starting},
    raw::Raw,
    wait,
};

/// How long one node may take to say what it knows; others are believed then.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A cluster of nodes 1, 2, …; the first founded it, and all vote.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    links: Links,
}

/// One broker.
#[derive(Debug)]
struct Member {
    options: BrokerOptions,
    state: State,
    filling: Option<Filling>,
    /// Unmounted when the broker is gone.
    disk: Option<SmallDisk>,
}

#[derive(Debug)]
enum State {
    Down,
    Starting(Starting),
    Up(BrokerProcess),
    Paused(BrokerProcess),
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The broker.
    pub binary: PathBuf,
    /// Where everything is kept: a directory `node-N` and a log `node-N.log` each.
    pub dir: PathBuf,
    /// How many.
    pub nodes: usize,
    /// Configuration of all.
    pub settings: Vec<(String, String)>,
    /// This node has a disk of its own, of so many MiB, that can be filled.
    pub small_disk: Option<(usize, u64)>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts it and waits until all vote and take part.
    ///
    /// # Errors
    /// This machine has no way to cut links.
    pub async fn start(blueprint: &Blueprint) -> Result<Self, String> {
        let mut members = Vec::new();
        for node in 1..=blueprint.nodes {
            let (disk, data) = match blueprint.small_disk {
                Some((at, mib)) if at == node => {
                    let disk = SmallDisk::new(mib)?;
                    let data = disk.path().join("data");
                    (Some(disk), data)
                }
                _ => (None, blueprint.dir.join(format!("node-{node}"))),
            };
            let log = blueprint.dir.join(format!("node-{node}.log"));
            let options = BrokerOptions::new(&blueprint.binary, data).log_to(log);
            members.push(Member { options, state: State::Down, filling: None, disk });
        }
        let listens = |member: &Member| -> SocketAddr {
            member.options.internal_address().parse().expect("it is an address")
        };
        let links = Links::to(&members.iter().map(listens).collect::<Vec<_>>())?;
        let all: Vec<_> = (1..=blueprint.nodes).map(|node| links.address(node)).collect();
        for (at, member) in members.iter_mut().enumerate() {
            let mut options = std::mem::replace(&mut member.options, BrokerOptions::new("", ""));
            for (key, value) in &blueprint.settings {
                options = options.set(key, value);
            }
            member.options = options
                .set("broker.node.id", &(at + 1).to_string())
                .set("network.internal.advertised.port", &links.port(at + 1).to_string())
                .set("controller.quorum.bootstrap.servers", &all.join(","))
                .set("controller.quorum.auto.join.enable", "true");
        }
        let mut cluster = Self { members, links };
        cluster.start_down().await;
        cluster.settle().await;
        cluster.until_all_take_part().await;
        Ok(cluster)
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// A cluster has nodes.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What lies between the nodes.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Where clients find all of them.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.options.address()).collect()
    }

    /// A client that knows all of them.
    pub async fn client(&self) -> Client {
        let client = Client::builder().bootstrap_servers(self.addresses()).build().await;
        client.expect("valid settings")
    }

    /// Its administration, by whoever answers.
    pub async fn admin(&self) -> Admin {
        self.client().await.admin()
    }

    /// Stubs of one node.
    pub fn raw(&self, node: usize) -> Raw {
        Raw::lazy(&self.members[node - 1].options.address())
    }

    /// Stubs of each.
    pub fn raws(&self) -> Vec<Raw> {
        (1..=self.len()).map(|node| self.raw(node)).collect()
    }

    /// Where a node keeps its data.
    pub fn data(&self, node: usize) -> &Path {
        self.members[node - 1].options.data()
    }

    /// The process of a node that serves.
    pub fn process(&self, node: usize) -> &BrokerProcess {
        match &self.members[node - 1].state {
            State::Up(process) | State::Paused(process) => process,
            _ => panic!("node {node} does not serve"),
        }
    }

    /// Nodes that serve and are not paused.
    pub fn up(&self) -> Vec<usize> {
        (1..=self.len()).filter(|node| self.is_up(*node)).collect()
    }

    /// Whether a node serves and is not paused.
    pub fn is_up(&self, node: usize) -> bool {
        matches!(self.members[node - 1].state, State::Up(_))
    }

    /// SIGKILL, whatever state it is in; nothing if it is down.
    pub fn kill(&mut self, node: usize) {
        match std::mem::replace(&mut self.members[node - 1].state, State::Down) {
            State::Down => return,
            State::Starting(starting) => drop(starting),
            State::Up(process) | State::Paused(process) => process.kill(),
        }
        self.links.close(node);
    }

    /// SIGKILL for all of them, before any of them can notice.
    pub fn kill_all(&mut self) {
        for member in &self.members {
            if let State::Up(process) | State::Paused(process) = &member.state {
                process.signal(Signal::KILL);
            }
        }
        for node in 1..=self.len() {
            self.kill(node);
        }
    }

    /// Starts a node if it is down; [`Cluster::settle`] waits until it serves.
    pub async fn spawn(&mut self, node: usize) {
        let member = &mut self.members[node - 1];
        if matches!(member.state, State::Down) {
            let starting = member.options.spawn();
            self.links.open(node, starting.id()).await;
            member.state = State::Starting(starting);
        }
    }

    /// Starts all that are down.
    pub async fn start_down(&mut self) {
        for node in 1..=self.len() {
            self.spawn(node).await;
        }
    }

    /// Looks who of those that were started serves by now.
    pub fn look(&mut self) {
        for member in &mut self.members {
            if let State::Starting(starting) = &mut member.state
                && let Some(process) = starting.try_ready()
            {
                member.state = State::Up(process);
            }
        }
    }

    /// Waits until all that were started serve.
    pub async fn settle(&mut self) {
        wait::until("all that were started serve", async || {
            self.look();
            !self.members.iter().any(|member| matches!(member.state, State::Starting(_)))
        })
        .await;
    }

    /// SIGSTOP for a node that serves.
    pub fn pause(&mut self, node: usize) {
        let state = &mut self.members[node - 1].state;
        *state = match std::mem::replace(state, State::Down) {
            State::Up(process) => {
                process.signal(Signal::STOP);
                State::Paused(process)
            }
            other => other,
        };
    }

    /// SIGCONT for a node that is paused.
    pub fn go_on(&mut self, node: usize) {
        let state = &mut self.members[node - 1].state;
        *state = match std::mem::replace(state, State::Down) {
            State::Paused(process) => {
                process.signal(Signal::CONT);
                State::Up(process)
            }
            other => other,
        };
    }

    /// SIGTERM for a node that serves, and waits for its end.
    ///
    /// # Panics
    /// If it does not end in order.
    pub async fn stop(&mut self, node: usize) {
        let state = std::mem::replace(&mut self.members[node - 1].state, State::Down);
        let State::Up(process) = state else { panic!("node {node} does not serve") };
        let stopping = spawn_blocking(move || process.stop());
        let (status, _) = wait::soon("a stop", stopping).await.expect("it does not panic");
        assert!(status.success(), "node {node} stops in order: {status}");
        self.links.close(node);
    }

    /// Which node has a disk that can be filled.
    pub fn small_disk(&self) -> Option<usize> {
        self.members.iter().position(|member| member.disk.is_some()).map(|at| at + 1)
    }

    /// Leaves no room on the disk of a node.
    pub fn fill(&mut self, node: usize) {
        let member = &mut self.members[node - 1];
        let disk = member.disk.as_ref().expect("it has a disk of its own");
        member.filling.get_or_insert_with(|| disk.fill());
    }

    /// Gives the room back.
    pub fn make_room(&mut self, node: usize) {
        self.members[node - 1].filling = None;
    }

    /// Waits until all vote and take part.
    pub async fn until_all_take_part(&self) {
        let count = self.len();
        wait::until("all vote and take part", async || {
            let Some(cluster) = self.described().await else { return false };
            let voters = cluster.nodes.iter().filter(|node| node.role() == Role::Voter).count();
            let active = |broker: &&v1::BrokerState| broker.presence() == Presence::Active;
            voters == count && cluster.brokers.iter().filter(active).count() == count
        })
        .await;
    }

    /// Waits until all partitions of `topic` have a leader and so many members in their ISR, and none
    /// moves.
    pub async fn until_in_sync(&self, topic: &str, members: usize) {
        let mut last = Vec::new();
        let in_sync = wait::within_a_hang(async || {
            last = self.registered(topic).await;
            let settled = |p: &v1::PartitionDescription| {
                p.leader.is_some()
                    && p.in_sync_replicas.len() == members
                    && p.reassignment.is_none()
            };
            !last.is_empty() && last.iter().all(settled)
        })
        .await;
        assert!(in_sync, "{topic} never has {members} in sync everywhere: {last:#?}");
    }

    /// Who leads a partition; waits until somebody does.
    pub async fn leader_of(&self, topic: &str, partition: u32) -> usize {
        let mut leader = None;
        wait::until("somebody leads", async || {
            let registered = self.registered(topic).await;
            let at = registered.into_iter().find(|p| p.partition.cast_unsigned() == partition);
            leader = at.and_then(|partition| partition.leader);
            leader.is_some()
        })
        .await;
        leader.expect("it was waited for") as usize
    }

    /// The partitions of `topic`, each as whoever knows most of it tells: who was cut off tells old news.
    /// Nobody commits anything by news that nobody tells, as a leader knows its own.
    async fn registered(&self, topic: &str) -> Vec<v1::PartitionDescription> {
        let told = self.ask(async |node| node.partitions(topic).await).await;
        let mut newest: BTreeMap<i32, v1::PartitionDescription> = BTreeMap::new();
        for partition in told.into_iter().flatten() {
            match newest.entry(partition.partition) {
                Entry::Vacant(place) => _ = place.insert(partition),
                Entry::Occupied(mut known) => {
                    if known.get().partition_epoch < partition.partition_epoch {
                        known.insert(partition);
                    }
                }
            }
        }
        newest.into_values().collect()
    }

    /// The cluster, as whoever knows most of it tells.
    async fn described(&self) -> Option<v1::DescribeClusterResponse> {
        let told = self.ask(async |node| node.cluster().await).await;
        told.into_iter().max_by_key(|cluster| cluster.metadata_offset)
    }

    /// What those say that serve, and are not paused.
    async fn ask<T>(&self, question: impl AsyncFn(Raw) -> Option<T>) -> Vec<T> {
        let asked = self.up().into_iter().map(|node| timeout(ANSWER_MAX, question(self.raw(node))));
        join_all(asked).await.into_iter().filter_map(|told| told.ok().flatten()).collect()
    }

    /// Compares what the replicas of `topic` have on their disks, byte for byte, up to the high
    /// watermark. All must be in sync, and nobody may write.
    ///
    /// # Panics
    /// If they differ.
    pub async fn assert_replicas_equal(&self, topic: &v1::Topic) {
        let (brokers, registered) = (self.raws(), self.registered(&topic.name).await);
        for partition in &topic.partitions {
            let index = partition.partition;
            let leader = load::leader(&brokers, topic, index).await;
            let end = leader.latest(topic, index).await.expect("it leads");
            assert!(end > 0, "something was written");
            let registered = registered.iter().find(|p| p.partition == index);
            let logs: BTreeMap<u32, Vec<(i64, Vec<u8>)>> = registered
                .expect("it has this partition")
                .replicas
                .iter()
                .map(|id| (*id, self.log(*id, topic, index, end)))
                .collect();
            let (first, expected) = logs.first_key_value().expect("it has replicas");
            for (other, log) in &logs {
                let bases =
                    |log: &[(i64, Vec<u8>)]| log.iter().map(|(o, _)| *o).collect::<Vec<_>>();
                let which =
                    format!("partition {index} of {}, nodes {first} and {other}", topic.name);
                assert_eq!(bases(log), bases(expected), "{which}");
                assert!(log == expected, "{which}: alike in offsets, not in bytes");
            }
        }
    }

    /// The batches of a replica below `end`.
    fn log(&self, node: u32, topic: &v1::Topic, partition: i32, end: i64) -> Vec<(i64, Vec<u8>)> {
        let dir = files::partition_dir(self.data(node as usize), topic, partition);
        let mut batches = files::batches(&dir);
        batches.retain(|(base, _)| *base < end);
        batches
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whoever is paused keeps its disk mounted until it is gone.
        self.kill_all();
    }
}

/// Whether a broker takes part, as the cluster sees it.
pub fn presence(cluster: &ClusterDescription, id: usize) -> Option<BrokerPresence> {
    cluster.brokers.iter().find(|broker| broker.id.0 as usize == id).map(|b| b.presence)
}
