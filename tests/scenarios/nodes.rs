//! Several processes that are one cluster.

use std::{path::Path, process::Command};

use riverrun_client::{Admin, BrokerPresence, Client, ClusterDescription, QuorumRole};
use riverrun_tests::{
    process::{BrokerOptions, BrokerProcess},
    wait,
};
use tempfile::TempDir;

use crate::{broker, data_dir};

/// Nodes 1, 2, … that know of one another; the first founds the cluster.
pub(crate) struct Nodes {
    pub(crate) options: Vec<BrokerOptions>,
    pub(crate) running: Vec<Option<BrokerProcess>>,
    data: Vec<TempDir>,
}

// === impl Nodes ===

impl Nodes {
    /// Started together, all voting.
    pub(crate) fn voting(count: usize) -> Self {
        Self::voting_with(count, &[])
    }

    /// With these settings beside.
    pub(crate) fn voting_with(count: usize, settings: &[(&str, &str)]) -> Self {
        let all: Vec<_> = settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Self::voting_each(count, |_| all.clone())
    }

    /// With settings of its own beside, for each.
    pub(crate) fn voting_each<'a>(
        count: usize,
        settings: impl Fn(usize) -> Vec<(&'a str, String)>,
    ) -> Self {
        Self::voting_as(count, |n, options| {
            let own = settings(n).into_iter();
            own.fold(options, |options, (key, value)| options.set(key, &value))
        })
    }

    /// Each made ready by `prepare`.
    pub(crate) fn voting_as(
        count: usize,
        prepare: impl Fn(usize, BrokerOptions) -> BrokerOptions,
    ) -> Self {
        let data: Vec<_> = (0..count).map(|_| data_dir()).collect();
        let options: Vec<_> =
            data.iter().enumerate().map(|(n, data)| node(n + 1, data.path())).collect();
        let all: Vec<_> = options.iter().map(BrokerOptions::internal_address).collect();
        let configured = |(n, options): (usize, BrokerOptions)| {
            let options = options
                .set("controller.quorum.bootstrap.servers", &all.join(","))
                .set("controller.quorum.auto.join.enable", "true");
            prepare(n + 1, options)
        };
        let options: Vec<_> = options.into_iter().enumerate().map(configured).collect();
        let starting: Vec<_> = options.iter().map(BrokerOptions::spawn).collect();
        let running = starting.into_iter().map(|starting| Some(starting.ready())).collect();
        Self { options, running, data }
    }

    pub(crate) async fn admin(&self, node: usize) -> Admin {
        self.node(node).client().await.admin()
    }

    /// Waits until `condition` holds of the cluster, as `node` sees it.
    pub(crate) async fn until(
        &self,
        node: usize,
        what: &str,
        condition: impl Fn(&ClusterDescription) -> bool,
    ) -> ClusterDescription {
        let admin = self.admin(node).await;
        let mut last = None;
        wait::until(what, async || {
            last = admin.describe_cluster().await.ok();
            last.as_ref().is_some_and(&condition)
        })
        .await;
        last.expect("it was waited for")
    }

    /// Waits until all vote and take part.
    pub(crate) async fn until_all_take_part(&self) {
        let count = self.options.len();
        self.until(1, "all vote and take part", |cluster| {
            voters(cluster).len() == count
                && (1..=count).all(|id| presence(cluster, id) == Some(BrokerPresence::Active))
        })
        .await;
    }

    /// What `riverrun cluster health` finds, asked of `node`.
    pub(crate) fn health(&self, node: usize) -> Vec<String> {
        let ran = Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
            .args(["-b", &self.options[node - 1].address(), "cluster", "health", "-o", "json"])
            .output()
            .expect("the binary under test exists");
        let found: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("it prints JSON");
        let problems = found["problems"].as_array().expect("a list").iter();
        problems.filter_map(|problem| problem.as_str().map(str::to_owned)).collect()
    }

    pub(crate) fn node(&self, node: usize) -> &BrokerProcess {
        self.running[node - 1].as_ref().expect("it runs")
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.running[node - 1].take().expect("it runs").kill();
    }

    /// SIGKILL for all of them, before any of them can notice.
    pub(crate) fn kill_all(&mut self) {
        for node in self.running.iter().flatten() {
            node.signal(rustix::process::Signal::KILL);
        }
        for node in self.running.iter_mut().filter_map(Option::take) {
            node.kill();
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        self.running[node - 1] = Some(self.options[node - 1].start());
    }

    pub(crate) fn start_all(&mut self) {
        let starting: Vec<_> = self.options.iter().map(BrokerOptions::spawn).collect();
        self.running = starting.into_iter().map(|starting| Some(starting.ready())).collect();
    }

    /// SIGTERM for all that run.
    pub(crate) fn stop_all(&mut self) {
        for node in self.running.iter_mut().filter_map(Option::take) {
            assert!(node.stop().0.success(), "a stop is in order");
        }
    }

    pub(crate) fn up(&self) -> Vec<usize> {
        (1..=self.running.len()).filter(|node| self.running[node - 1].is_some()).collect()
    }

    /// Where clients find all of them.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.options.iter().map(BrokerOptions::address).collect()
    }

    /// A client that knows all of them.
    pub(crate) async fn client(&self) -> Client {
        let client = Client::builder().bootstrap_servers(self.addresses()).build().await;
        client.expect("valid settings")
    }

    pub(crate) fn data(&self, node: usize) -> &Path {
        self.data[node - 1].path()
    }
}

pub(crate) fn node(id: usize, data: &Path) -> BrokerOptions {
    broker(data).set("broker.node.id", &id.to_string())
}

pub(crate) fn voters(cluster: &ClusterDescription) -> Vec<u32> {
    let voting = cluster.nodes.iter().filter(|node| node.role == QuorumRole::Voter);
    voting.map(|node| node.id.0).collect()
}

pub(crate) fn presence(cluster: &ClusterDescription, id: usize) -> Option<BrokerPresence> {
    cluster.brokers.iter().find(|broker| broker.id.0 as usize == id).map(|b| b.presence)
}
