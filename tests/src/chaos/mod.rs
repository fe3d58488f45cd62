//! Random faults under load, for as long as one likes.
//!
//! A run goes from epoch to epoch. Each makes topics of its own, puts load on them, strikes a number of
//! times ([`storm`]; several faults may hold at once, majorities included), undoes all of it, and then
//! asks for everything that was promised: all are in sync again by themselves, producers get on, the
//! history is sound ([`crate::checker`]), and replicas are equal byte for byte. Whatever is not so ends
//! the run, with its directory kept.
//!
//! The seed decides which faults strike in which order, whom, and for how long; threads, sockets and the
//! processor are real and are not repeated.

pub mod deck;
pub mod storm;
pub mod watcher;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use deck::{Deck, Kind};
use riverrun_client::{Acks, Admin};
use riverrun_proto::rpc::v1;
use storm::Storm;
use watcher::{Counts, Watcher};

use crate::{
    checker, clock,
    cluster::{Blueprint, Cluster},
    history::{History, Outcome},
    load::{Load, Shape},
    wait,
};

/// Records acknowledged in each topic before the first fault and after the last.
const SETTLED_RECORDS: usize = 50;

/// Of each topic.
const PARTITIONS: u32 = 2;

/// The node whose disk can be filled, and how large that is. Large enough for an epoch.
const SMALL_DISK: (usize, u64) = (1, 192);

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The broker.
    pub binary: PathBuf,
    /// Where data and logs of the nodes go; emptied first, kept if the run fails.
    pub dir: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// What happens.
    pub seed: u64,
    /// No epoch begins after that.
    pub lasts: Duration,
    /// Faults in an epoch.
    pub strikes: usize,
    /// The longest that a fault holds.
    pub hold_max: Duration,
    /// How long a producer pauses after each record.
    pub pace: Duration,
    /// Configuration of all nodes.
    pub settings: Vec<(String, String)>,
}

/// What happened in a run that found nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Epochs.
    pub epochs: usize,
    /// Faults by kind.
    pub struck: Vec<(Kind, usize)>,
    /// Kinds that cannot be had on this machine, and why.
    pub not_here: Option<String>,
    /// What became of partitions.
    pub counts: Counts,
    /// Leaders of the metadata quorum that were elected.
    pub quorum_elections: u64,
    /// Records handed to producers.
    pub sent: usize,
    /// Of these, acknowledged.
    pub acked: usize,
    /// Of these, neither acknowledged nor refused.
    pub unknown: usize,
    /// Records that readers were given.
    pub read: usize,
}

/// What brokers of a run are configured with: as little of the machine as they need, and `more`.
pub fn settings(more: &[(String, String)]) -> Vec<(String, String)> {
    let small = [
        ("broker.memory.budget", "64MiB"),
        ("log.reserve.bytes", "4MiB"),
        ("log.window.bytes.max", "1MiB"),
        ("network.max.connections", "200"),
    ];
    let small = small.map(|(key, value)| (key.to_owned(), value.to_owned()));
    small.into_iter().chain(more.iter().cloned()).collect()
}

/// Runs it.
///
/// # Errors
/// This machine has no way to cut links.
///
/// # Panics
/// If anything that was promised is not so.
pub async fn run(plan: &Plan) -> Result<Report, String> {
    fresh_dir(&plan.dir);
    let began = clock::now();
    let (cluster, not_here) = start(plan).await?;
    let mut kinds = Kind::ALL.to_vec();
    if not_here.is_some() {
        kinds.retain(|kind| *kind != Kind::FullDisk);
    }
    let mut report = Report { not_here, ..Report::default() };
    let mut storm = Storm::new(cluster, Deck::new(plan.seed, kinds.clone()), plan.hold_max);
    storm.say(&format!("seed {}, {} nodes, {}", plan.seed, plan.nodes, plan.dir.display()));
    while report.epochs == 0 || began.elapsed() < plan.lasts {
        epoch(plan, &mut storm, &mut report).await;
    }
    report.struck = kinds.iter().map(|k| (*k, storm.struck.get(k).copied().unwrap_or(0))).collect();
    storm.say(&report.to_string());
    drop(storm);
    let _ = fs::remove_dir_all(&plan.dir);
    Ok(report)
}

/// The cluster; without a disk that can be filled where there is none to be had, and why.
async fn start(plan: &Plan) -> Result<(Cluster, Option<String>), String> {
    let mut blueprint = Blueprint {
        binary: plan.binary.clone(),
        dir: plan.dir.clone(),
        nodes: plan.nodes,
        settings: plan.settings.clone(),
        small_disk: Some(SMALL_DISK),
    };
    match crate::disk::SmallDisk::new(SMALL_DISK.1) {
        Ok(_) => Ok((Cluster::start(&blueprint).await?, None)),
        Err(why) => {
            blueprint.small_disk = None;
            Ok((Cluster::start(&blueprint).await?, Some(why)))
        }
    }
}

async fn epoch(plan: &Plan, storm: &mut Storm, report: &mut Report) {
    report.epochs += 1;
    let admin = storm.cluster.admin().await;
    let topics = make_topics(&admin, report.epochs, storm).await;
    let term = term(&admin).await;
    let watcher = Watcher::on(topics.iter().map(|t| t.name.clone()).collect(), admin.clone());
    let mut loads = Vec::new();
    for topic in &topics {
        let shape = Shape { topic: topic.clone(), producers: 2, readers: 2, acks: Acks::All };
        loads.push(Load::start_paced(storm.cluster.addresses(), shape, plan.pace).await);
    }
    progress(&loads).await;
    let enough = storm.struck.values().sum::<usize>() + plan.strikes;
    while storm.struck.values().sum::<usize>() < enough {
        storm.strike().await;
    }
    storm.clear().await;
    storm.say("everything is undone");
    let cleared = clock::now();
    storm.until_all_in_sync().await;
    storm.cluster.until_all_take_part().await;
    storm.say(&format!("all in sync after {:?}", cleared.elapsed()));
    progress(&loads).await;
    for (load, topic) in loads.into_iter().zip(&topics) {
        let history = load.finish().await.history();
        judge(plan, topic, &history, report);
    }
    for topic in &topics {
        storm.cluster.until_in_sync(&topic.name, topic.replication_factor as usize).await;
        storm.cluster.assert_replicas_equal(topic).await;
    }
    let counts = watcher.counts();
    report.counts.elections += counts.elections;
    report.counts.isr_changes += counts.isr_changes;
    report.quorum_elections += self::term(&admin).await - term;
    for topic in topics {
        admin.delete_topic(topic.name.as_str()).await.expect("all are there");
    }
    storm.say(&format!(
        "epoch {}: sound; {counts:?}, {} of {} acknowledged so far",
        report.epochs, report.acked, report.sent
    ));
}

/// Topics of an epoch: one a durability, and with five nodes one that is on all of them.
async fn make_topics(admin: &Admin, epoch: usize, storm: &mut Storm) -> Vec<v1::Topic> {
    let mut kinds = vec![("disk", 3, "2"), ("memory", 3, "2")];
    if storm.cluster.len() >= 5 {
        kinds.push(("memory", 5, "3"));
    }
    let mut topics = Vec::new();
    for (durability, replicas, min_isr) in kinds {
        let name = format!("epoch-{epoch}-{durability}-{replicas}");
        let topic =
            admin.create_topic(name.as_str()).partitions(PARTITIONS).replication_factor(replicas);
        // Small segments, so that rolls and cuts at their edges happen.
        let configs = [
            ("durability", durability),
            ("min.insync.replicas", min_isr),
            ("segment.bytes", "1MiB"),
            ("max.message.bytes", "64KiB"),
        ];
        let topic = configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
        topic.send().await.expect("all are there");
        storm.cluster.until_in_sync(&name, replicas as usize).await;
        wait::until("the first has heard of it", async || {
            let made = storm.cluster.raw(1).topic(&name).await;
            topics.extend(made);
            topics.last().is_some_and(|topic: &v1::Topic| topic.name == name)
        })
        .await;
    }
    storm.aim_at(topics.iter().map(|t| (t.name.clone(), t.replication_factor as usize)).collect());
    topics
}

async fn progress(loads: &[Load]) {
    for load in loads {
        load.progress(SETTLED_RECORDS).await;
    }
}

/// The term of the metadata quorum.
async fn term(admin: &Admin) -> u64 {
    let mut term = 0;
    wait::until("somebody leads the quorum", async || {
        let described = admin.describe_cluster().await;
        term = described.map_or(0, |cluster| cluster.leader.map_or(0, |_| cluster.leader_term));
        term > 0
    })
    .await;
    term
}

/// Asks the checker; keeps the history if it finds something.
fn judge(plan: &Plan, topic: &v1::Topic, history: &History, report: &mut Report) {
    report.sent += history.sent.len();
    let with = |wanted: fn(&Outcome) -> bool| {
        history.sent.iter().filter(|sent| wanted(&sent.outcome)).count()
    };
    report.acked += with(|outcome| matches!(outcome, Outcome::Acked(_)));
    report.unknown += with(|outcome| *outcome == Outcome::Unknown);
    report.read += history.polls.iter().map(|poll| poll.records.len()).sum::<usize>();
    let found = checker::check(history);
    if !found.is_empty() {
        let file = plan.dir.join(format!("{}.history", topic.name));
        let _ = fs::write(&file, format!("{history:#?}"));
        println!("the history is in {}", file.display());
    }
    checker::assert_none(&found);
}

/// An empty directory.
fn fresh_dir(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).expect("there is room for files of a test");
}

// === impl Report ===

impl Report {
    /// Kinds of faults that never struck.
    pub fn missing(&self) -> Vec<Kind> {
        self.struck.iter().filter(|(_, times)| *times == 0).map(|(kind, _)| *kind).collect()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { elections, isr_changes } = self.counts;
        writeln!(
            f,
            "{} epochs; {} records sent, {} acknowledged, {} unknown, {} read; {elections} leaders of \
             partitions elected, {isr_changes} changes of ISRs seen, {} leaders of the quorum",
            self.epochs, self.sent, self.acked, self.unknown, self.read, self.quorum_elections
        )?;
        if let Some(why) = &self.not_here {
            writeln!(f, "no disk could be filled here: {why}")?;
        }
        for (kind, times) in &self.struck {
            writeln!(f, "{times:6} times {kind}")?;
        }
        Ok(())
    }
}
