//! Faults as they strike: what is done to the cluster, when it is undone, and what was seen of it.

use std::{collections::BTreeMap, time::Duration};

use riverrun_client::{Admin, BrokerId, QuorumRole, Topic};
use tokio::time::{Instant, sleep, timeout};

use super::{
    PARTITIONS,
    deck::{Deck, Kind},
};
use crate::{clock, cluster::Cluster, wait};

/// How long whoever is asked for leaders may take; then chance decides who is struck.
const ASK: Duration = Duration::from_secs(2);

/// The shortest that a fault lasts.
const HOLD_MIN: Duration = Duration::from_millis(300);

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(20);

/// How fast a replica that is being added is filled, in bytes a second, where that is held back.
const THROTTLES: [u64; 3] = [4 << 10, 64 << 10, 1 << 20];

/// How slow a slow link is, each way.
const SLOW: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(400));

/// Faults on a cluster.
#[derive(Debug)]
pub struct Storm {
    /// What is struck.
    pub cluster: Cluster,
    /// What comes next.
    pub deck: Deck,
    /// How often each kind struck.
    pub struck: BTreeMap<Kind, usize>,
    /// Names and how many replicas they have.
    topics: Vec<(String, usize)>,
    under_way: Vec<(Instant, Undo)>,
    hold_max: Duration,
    began: Instant,
}

/// What ends a fault.
#[derive(Debug, Clone, Copy)]
enum Undo {
    Start(usize),
    GoOn(usize),
    Heal(usize, usize),
    Rejoin(usize),
    Quicken(usize, usize),
    MakeRoom(usize),
    LiftThrottle,
    GiveVote(usize),
}

// === impl Storm ===

impl Storm {
    /// Clear sky over `cluster`.
    pub fn new(cluster: Cluster, deck: Deck, hold_max: Duration) -> Self {
        Self {
            cluster,
            deck,
            struck: BTreeMap::new(),
            topics: Vec::new(),
            under_way: Vec::new(),
            hold_max,
            began: clock::now(),
        }
    }

    /// Whose leaders and followers are struck from now on.
    pub fn aim_at(&mut self, topics: Vec<(String, usize)>) {
        self.topics = topics;
    }

    /// Tells what happened.
    pub fn say(&self, what: &str) {
        println!("{:9.3} {} {what}", self.began.elapsed().as_secs_f64(), clock::unix_ms());
    }

    /// One fault, after what is due was undone, and a pause.
    pub async fn strike(&mut self) {
        // Half of them and one more may be struck at once: majorities are lost as well.
        let at_once = self.cluster.len() / 2 + 1;
        while self.under_way.len() >= at_once {
            self.go_by(LOOK).await;
        }
        let kind = self.deck.draw();
        if self.done(kind).await {
            *self.struck.entry(kind).or_default() += 1;
        } else {
            self.deck.put_back(kind);
        }
        let pause = self.deck.time(Duration::from_millis(100), self.hold_max / 4);
        self.go_by(pause).await;
    }

    /// Everything is undone, and everybody serves.
    pub async fn clear(&mut self) {
        let (asked, done): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(_, undo)| undo.is_asked());
        for (_, undo) in done {
            self.undo(undo).await;
        }
        self.cluster.settle().await;
        // Whoever is asked has to be there, and a leader of the quorum.
        for (_, undo) in asked {
            self.say(&format!("    {undo:?}"));
            let admin = self.cluster.admin().await;
            wait::until(&format!("{undo:?}"), async || undo.ask(&admin).await).await;
        }
    }

    /// Lets time pass; undoes what is due.
    async fn go_by(&mut self, time: Duration) {
        let until = clock::now() + time;
        loop {
            let now = clock::now();
            let (due, left) = std::mem::take(&mut self.under_way)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, _)| *at <= now);
            self.under_way = left;
            for (_, undo) in due {
                self.undo(undo).await;
            }
            self.cluster.look();
            if now >= until {
                return;
            }
            sleep(LOOK).await;
        }
    }

    async fn undo(&mut self, undo: Undo) {
        self.say(&format!("    {undo:?}"));
        match undo {
            Undo::Start(node) => self.cluster.spawn(node).await,
            Undo::GoOn(node) => self.cluster.go_on(node),
            Undo::Heal(from, to) => self.cluster.links().heal(from, to),
            Undo::Rejoin(node) => self.cluster.links().rejoin(node),
            Undo::Quicken(a, b) => self.cluster.links().delay(a, b, Duration::ZERO),
            Undo::MakeRoom(node) => self.cluster.make_room(node),
            Undo::LiftThrottle | Undo::GiveVote(_) => {
                let admin = self.cluster.admin().await;
                if !undo.ask(&admin).await {
                    self.until(ASK, undo);
                }
            }
        }
    }

    /// Strikes; `false` if nobody is there to be struck in this way.
    async fn done(&mut self, kind: Kind) -> bool {
        let hold = self.deck.time(HOLD_MIN, self.hold_max);
        let all: Vec<usize> = (1..=self.cluster.len()).collect();
        let (a, b) = self.deck.pick_two(&all);
        match kind {
            Kind::KillLeader | Kind::KillFollower | Kind::KillQuorumLeader => {
                let Some(node) = self.victim(kind).await else { return false };
                self.say(&format!("{kind}: node {node}, for {hold:?}"));
                self.cluster.kill(node);
                self.until(hold, Undo::Start(node));
            }
            Kind::KillAll => {
                self.say(&format!("{kind}, for {hold:?}"));
                self.cluster.kill_all();
                all.iter().for_each(|node| self.until(hold / 4, Undo::Start(*node)));
            }
            Kind::PauseLeader | Kind::PauseFollower | Kind::PauseQuorumLeader => {
                let Some(node) = self.victim(kind).await else { return false };
                self.say(&format!("{kind}: node {node}, for {hold:?}"));
                self.cluster.pause(node);
                self.until(hold, Undo::GoOn(node));
            }
            Kind::CutOneWay => {
                self.say(&format!("{kind}: from {a} to {b}, for {hold:?}"));
                self.cluster.links().cut(a, b);
                self.until(hold, Undo::Heal(a, b));
            }
            Kind::CutBothWays => {
                self.say(&format!("{kind}: {a} and {b}, for {hold:?}"));
                for (from, to) in [(a, b), (b, a)] {
                    self.cluster.links().cut(from, to);
                    self.until(hold, Undo::Heal(from, to));
                }
            }
            Kind::IsolateLeader | Kind::IsolateQuorumLeader => {
                let Some(node) = self.victim(kind).await else { return false };
                self.say(&format!("{kind}: node {node}, for {hold:?}"));
                self.cluster.links().isolate(node);
                self.until(hold, Undo::Rejoin(node));
            }
            Kind::Reset => {
                self.say(&format!("{kind}: between {a} and {b}"));
                self.cluster.links().reset(a, b);
            }
            Kind::SlowLink => {
                let delay = self.deck.time(SLOW.0, SLOW.1);
                self.say(&format!("{kind}: {a} and {b}, {delay:?} each way, for {hold:?}"));
                self.cluster.links().delay(a, b, delay);
                self.until(hold, Undo::Quicken(a, b));
            }
            Kind::FullDisk => {
                let Some(node) = self.cluster.small_disk() else { return false };
                self.say(&format!("{kind}: node {node}, for {hold:?}"));
                self.cluster.fill(node);
                self.until(hold, Undo::MakeRoom(node));
            }
            Kind::RollingRestart => {
                self.clear().await;
                self.say(&format!("{kind}"));
                self.restart_all_in_turn().await;
            }
            Kind::Move => {
                let (topic, replicas) = self.topics[self.deck.below(self.topics.len())].clone();
                let partition = self.deck.below(PARTITIONS as usize) as u32;
                let mut to = self.deck.shuffled(&all);
                to.truncate(replicas);
                self.say(&format!("{kind}: {topic}/{partition} to {to:?}"));
                let to: Vec<_> = to.into_iter().map(|node| BrokerId(node as u32)).collect();
                let admin = self.cluster.admin().await;
                let of = (topic.as_str(), partition);
                return accepted(admin.reassign_partition(of, &to, None)).await;
            }
            Kind::Throttle => {
                let rate = self.deck.pick(&THROTTLES);
                self.say(&format!("{kind}: {rate} bytes a second, for {hold:?}"));
                let admin = self.cluster.admin().await;
                let is_held = accepted(admin.throttle_moves(Some(rate))).await;
                // Whoever did not answer may have taken it.
                self.until(hold, Undo::LiftThrottle);
                return is_held;
            }
            Kind::TakeVote => {
                self.say(&format!("{kind}: of node {a}, for {hold:?}"));
                let admin = self.cluster.admin().await;
                let is_taken = accepted(admin.remove_voter(BrokerId(a as u32), None)).await;
                self.until(hold, Undo::GiveVote(a));
                return is_taken;
            }
        }
        true
    }

    fn until(&mut self, hold: Duration, undo: Undo) {
        self.under_way.push((clock::now() + hold, undo));
    }

    async fn restart_all_in_turn(&mut self) {
        for node in 1..=self.cluster.len() {
            self.until_all_in_sync().await;
            self.cluster.stop(node).await;
            self.say(&format!("    node {node} stopped in order"));
            self.cluster.spawn(node).await;
            self.cluster.settle().await;
        }
    }

    /// Waits until all replicas of all topics are in sync.
    pub async fn until_all_in_sync(&self) {
        for (topic, replicas) in &self.topics {
            self.cluster.until_in_sync(topic, *replicas).await;
        }
    }

    /// Whom a kind of fault strikes: who has the role, or anybody if nobody says who that is. `None`:
    /// whoever it would be is struck already.
    async fn victim(&mut self, kind: Kind) -> Option<usize> {
        let up = self.cluster.up();
        let (topic, _) = self.topics[self.deck.below(self.topics.len())].clone();
        let (partition, follower) = (self.deck.below(64), self.deck.below(64));
        let anybody = self.deck.below(64);
        let admin = self.cluster.admin().await;
        let asked = timeout(ASK, role(&admin, kind, &topic, partition, follower)).await;
        match asked.ok().flatten() {
            Some(node) => up.contains(&node).then_some(node),
            None => (!up.is_empty()).then(|| up[anybody % up.len()]),
        }
    }
}

/// Whether somebody does what was asked, in time.
async fn accepted<T>(asked: impl Future<Output = riverrun_client::Result<T>>) -> bool {
    matches!(timeout(ASK, asked).await, Ok(Ok(_)))
}

// === impl Undo ===

impl Undo {
    /// Whether brokers are asked for it, as long as it takes; everything else is done.
    const fn is_asked(self) -> bool {
        matches!(self, Self::LiftThrottle | Self::GiveVote(_))
    }

    /// Asks; whether it is so now.
    async fn ask(self, admin: &Admin) -> bool {
        match self {
            Self::LiftThrottle => accepted(admin.throttle_moves(None)).await,
            Self::GiveVote(node) => {
                let node = BrokerId(node as u32);
                // Whoever votes already is refused.
                let _ = timeout(ASK, admin.add_voter(node)).await;
                let described = timeout(ASK, admin.describe_cluster()).await;
                matches!(described, Ok(Ok(cluster)) if cluster.nodes.iter().any(|known| {
                    known.id == node && known.role == QuorumRole::Voter
                }))
            }
            _ => true,
        }
    }
}

/// Who has the role that a kind of fault strikes, if anybody says so.
async fn role(
    admin: &Admin,
    kind: Kind,
    topic: &str,
    partition: usize,
    follower: usize,
) -> Option<usize> {
    if matches!(kind, Kind::KillQuorumLeader | Kind::PauseQuorumLeader | Kind::IsolateQuorumLeader)
    {
        return Some(admin.describe_cluster().await.ok()?.leader?.0 as usize);
    }
    let topic: Topic = admin.topic(topic).await.ok()?;
    let partition = &topic.partitions[partition % topic.partitions.len()];
    let leader = partition.leader?;
    if matches!(kind, Kind::KillFollower | Kind::PauseFollower) {
        let followers: Vec<_> = partition.replicas.iter().filter(|id| **id != leader).collect();
        return Some(followers[follower % followers.len()].0 as usize);
    }
    Some(leader.0 as usize)
}
