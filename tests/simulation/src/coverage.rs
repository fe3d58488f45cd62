//! What happened in a run, counted: a suite in which something never happened proves less than it
//! says.

use std::{collections::BTreeMap, fmt};

macro_rules! facts {
    ($($(#[doc = $doc:literal])+ $name:ident = $words:literal,)+) => {
        /// Something that can happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fact { $($(#[doc = $doc])+ $name,)+ }

        impl Fact {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// In words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }
        }
    };
}

facts! {
    /// A leader's term began.
    Election = "elections",
    /// An eligible leader outside the ISR was elected.
    ElectedFromElr = "leaders elected from outside the ISR",
    /// A leader was elected by comparing logs, because no proof was left.
    ElectedByLog = "leaders elected by their logs",
    /// A member left an ISR.
    IsrShrunk = "ISR members left",
    /// A member joined an ISR.
    IsrGrew = "ISR members joined",
    /// A proposal was refused because of a member.
    IsrRefused = "ISR proposals refused",
    /// A follower cut its log.
    Truncated = "logs truncated",
    /// A follower emptied its log and began elsewhere.
    Restarted = "logs begun anew",
    /// A frame waited because the log was not ready.
    FrameParked = "frames that waited for the log",
    /// A batch waited because the log was not ready.
    BatchParked = "batches that waited for the log",
    /// Producers were held up for a follower.
    Held = "producers held up for a follower",
    /// A member left an ISR because producers waited for it alone, though it was not behind for too long.
    LetGo = "ISR members let go that held producers up",
    /// A process died, its page cache lived on.
    Crash = "crashes",
    /// A process died in the middle of an operation of its disk.
    CrashInWork = "crashes in the middle of disk work",
    /// A machine lost its power.
    PowerLoss = "power losses",
    /// All machines lost their power at once.
    Blackout = "power losses of all machines",
    /// A recovery cut a torn tail.
    TornTail = "torn tails",
    /// A disk was lost with all that was on it.
    DiskLost = "disks lost",
    /// A sync failed.
    SyncFailed = "failed syncs",
    /// A write or read failed.
    IoError = "failed writes and reads",
    /// A process was paused.
    Pause = "pauses",
    /// A wall clock jumped.
    ClockJump = "clock jumps",
    /// A disk was full.
    DiskFull = "full disks",
    /// A disk was slow.
    SlowDisk = "slow disks",
    /// A broker stopped in order.
    CleanStop = "stops in order",
    /// A link was cut one way.
    CutOneWay = "links cut one way",
    /// A node was cut off from all others.
    Isolated = "nodes cut off",
    /// A message was lost.
    MessageLost = "messages lost",
    /// A message came twice.
    MessageDoubled = "messages doubled",
    /// A message overtook another.
    MessageOvertook = "messages out of order",
    /// A connection broke.
    ConnectionLost = "connections lost",
    /// Records were deleted.
    Deleted = "records deleted",
    /// A log start came to lie inside a batch.
    DeletedInside = "records deleted up to the middle of a batch",
    /// A follower was told to begin where a batch begins that is deleted in part.
    InsideBatch = "followers that began inside a batch",
    /// Other replicas were ordered.
    ReassignmentBegun = "reassignments begun",
    /// A partition has the replicas that were ordered.
    ReassignmentCompleted = "reassignments completed",
    /// A partition went back to the replicas it had.
    ReassignmentCancelled = "reassignments cancelled",
    /// The topic's configuration was changed.
    Configured = "configurations changed",
    /// A partition's durability was changed under way.
    DurabilityChanged = "durabilities changed",
    /// A leader handed over on request.
    HandedOver = "leaders that handed over",
    /// A retry was recognised.
    DuplicateRefused = "duplicates recognised",
    /// A sequence did not follow.
    OutOfOrder = "sequences out of order refused",
    /// A produce was refused for want of replicas.
    NotEnoughReplicas = "produces refused for want of replicas",
    /// A produce was refused by one who does not lead.
    NotLeader = "produces refused by others than the leader",
    /// A produce waited too long.
    TimedOut = "produces that timed out",
    /// A producer went on under another identity.
    NewIdentity = "producers under another identity",
    /// A batch was acknowledged by all.
    AckedAll = "batches acknowledged by all",
    /// A batch was acknowledged by the leader.
    AckedLeader = "batches acknowledged by the leader",
    /// A batch was acknowledged as durable.
    AckedDisk = "batches acknowledged from the disk",
    /// A batch failed, perhaps written.
    Uncertain = "batches of unknown outcome",
    /// A batch was read.
    Read = "batches read",
    /// A batch was read from a follower.
    ReadFromFollower = "batches read from followers",
    /// A node was elected to lead the metadata quorum.
    MetaElection = "metadata leaders elected",
    /// A leader of the quorum died, or was deposed, while somebody waited for its decision.
    MetaLeaderLost = "metadata leaders lost in the midst of a decision",
    /// A metadata leader handed over.
    MetaHandedOver = "metadata leaders that handed over",
    /// Nobody knows what became of a command.
    MetaUnknown = "decisions of unknown outcome",
    /// A node found entries in its log when it started.
    MetaRecovered = "metadata logs recovered",
    /// A machine lost its power in the middle of a write of its metadata log.
    MetaWriteCut = "power losses in a metadata write",
    /// The end of a metadata log was torn.
    MetaTorn = "metadata logs with a torn end",
    /// Another leader's entries took the place of some.
    MetaSuperseded = "metadata entries superseded",
    /// A node made a snapshot.
    MetaSnapshotMade = "metadata snapshots made",
    /// A node was sent a snapshot.
    MetaSnapshotInstalled = "metadata snapshots installed",
    /// A voter took the place of one whose disk is lost.
    MetaVoterReplaced = "voters in the place of lost ones",
    /// A message was for a disk that was there before, or came from one that does not vote.
    MetaForStranger = "messages of the quorum refused",
}

/// How often each fact was so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Fact, u64>);

impl Coverage {
    /// It happened.
    pub fn note(&mut self, fact: Fact) {
        *self.0.entry(fact).or_default() += 1;
    }

    /// How often.
    pub fn of(&self, fact: Fact) -> u64 {
        self.0.get(&fact).copied().unwrap_or_default()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (fact, times) in &other.0 {
            *self.0.entry(*fact).or_default() += times;
        }
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<Fact> {
        Fact::ALL.iter().copied().filter(|fact| self.of(*fact) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fact in Fact::ALL {
            writeln!(f, "  {:>9}  {}", self.of(*fact), fact.words())?;
        }
        Ok(())
    }
}
