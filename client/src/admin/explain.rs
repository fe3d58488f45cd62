//! What holds a partition's high watermark back, in words, from what its replicas say. Pure.

use std::{fmt, time::Duration};

use riverrun_proto::ids::BrokerId;

use super::{FollowerState, PartitionReport, ReplicaState};

/// Why what was written is not committed, or nothing can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hindrance {
    /// Nobody leads: nothing is written or read.
    NoLeader(NoLeader),
    /// The leader did not answer.
    LeaderSilent {
        /// Who leads.
        leader: BrokerId,
        /// What came instead of an answer.
        why: String,
    },
    /// Too few replicas are in sync.
    BelowMinimum {
        /// How many are.
        in_sync: usize,
        /// How many it takes.
        needed: usize,
        /// Who is not.
        missing: Vec<BrokerId>,
    },
    /// The leader itself has not flushed.
    OwnDisk {
        /// Who leads.
        leader: BrokerId,
        /// The first offset that is not on its disk.
        flushed_end: i64,
    },
    /// A replica that counts is behind.
    Replica {
        /// Which broker.
        id: BrokerId,
        /// What is wrong with it.
        why: Behind,
        /// Since when it has not had everything, where that is known.
        since: Option<Duration>,
        /// When it is taken out of the ISR.
        lag_time_max: Duration,
    },
    /// The leader has asked for another ISR, and counts those that are leaving until it has an answer.
    AwaitsIsr(Vec<BrokerId>),
    /// Producers wait, so that a replica that is there is not left behind.
    HoldsProducers {
        /// The furthest behind of those that count.
        id: BrokerId,
        /// An upper bound.
        bytes_behind: u64,
        /// `replica.lag.bytes.max`.
        lag_bytes_max: u64,
        /// What the leader does about it, if it is this one alone.
        outlook: Outlook,
    },
}

/// What becomes of a replica that alone keeps producers waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outlook {
    /// It leaves the ISR within this time (`replica.lag.time.max.ms`).
    Leaves(Duration),
    /// It stays: no replica can be spared, by `min.insync.replicas`, or the leader would be the only one.
    IsNeeded,
}

/// Why nobody leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoLeader {
    /// These are in sync, and not there.
    InSyncAway(Vec<BrokerId>),
    /// These are eligible, and not there.
    EligibleAway(Vec<BrokerId>),
    /// Nobody is known to have all that is committed; one of these was the last to.
    NobodySafe(Vec<BrokerId>),
}

/// What is wrong with a replica that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behind {
    /// It has not said where its log ends since the present leader leads.
    NotHeard {
        /// Whether it is subscribed.
        connected: bool,
    },
    /// It is not subscribed: it is down, cut off, or was told to go.
    Away {
        /// Bytes it lacks, at most.
        bytes: u64,
    },
    /// It has the records and has not flushed them.
    Flushing {
        /// Records it has to flush.
        records: u64,
    },
    /// It is there, and lacks records.
    Slow {
        /// Records it lacks.
        records: u64,
        /// Bytes it lacks, at most.
        bytes: u64,
    },
}

/// How far a partition is committed, and why no further.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The first offset not committed, and the first not written, where the leader tells.
    pub offsets: Option<(i64, i64)>,
    /// How long the oldest record that is not committed has been waiting, at least.
    pub uncommitted_for: Option<Duration>,
    /// What holds it back; empty: nothing.
    pub hindrances: Vec<Hindrance>,
}

impl PartitionReport {
    /// How far the partition is committed, and why no further.
    pub fn explain(&self) -> Explanation {
        let p = &self.partition;
        let mut hindrances = Vec::new();
        let Some(leader) = p.leader else {
            let why = if !p.in_sync_replicas.is_empty() {
                NoLeader::InSyncAway(p.in_sync_replicas.clone())
            } else if !p.eligible_leaders.is_empty() {
                NoLeader::EligibleAway(p.eligible_leaders.clone())
            } else {
                NoLeader::NobodySafe(p.last_known_eligible.clone())
            };
            hindrances.push(Hindrance::NoLeader(why));
            return Explanation { offsets: None, uncommitted_for: None, hindrances };
        };
        let own = self.copies.iter().find(|(id, _)| *id == leader);
        let own = own.map(|(_, copy)| copy.as_ref());
        let needed = (p.min_in_sync_replicas as usize).min(p.replicas.len());
        if p.in_sync_replicas.len() < needed {
            let is_missing = |id: &&BrokerId| !p.in_sync_replicas.contains(id);
            hindrances.push(Hindrance::BelowMinimum {
                in_sync: p.in_sync_replicas.len(),
                needed,
                missing: p.replicas.iter().filter(is_missing).copied().collect(),
            });
        }
        let (Some(Ok(own)), Some(leading)) = (own, &p.leading) else {
            let why = match own {
                Some(Err(error)) => error.to_string(),
                _ => "it has not taken office yet".to_owned(),
            };
            hindrances.push(Hindrance::LeaderSilent { leader, why });
            return Explanation { offsets: None, uncommitted_for: None, hindrances };
        };
        if own.high_watermark < own.log_end_offset {
            if leading.waits_for_disk && own.flushed_end_offset <= own.high_watermark {
                let flushed_end = own.flushed_end_offset;
                hindrances.push(Hindrance::OwnDisk { leader, flushed_end });
            }
            for follower in leading.followers.iter().filter(|follower| follower.counts) {
                let position = if leading.waits_for_disk {
                    follower.flushed_end_offset
                } else {
                    follower.log_end_offset
                };
                if position.is_none_or(|position| position <= own.high_watermark) {
                    hindrances.push(Hindrance::Replica {
                        id: follower.id,
                        why: behind(own, follower, leading.waits_for_disk),
                        since: follower.behind_for,
                        lag_time_max: leading.lag_time_max,
                    });
                }
            }
            if !leading.proposed_isr.is_empty() {
                hindrances.push(Hindrance::AwaitsIsr(leading.proposed_isr.clone()));
            }
        }
        let furthest = leading.followers.iter().filter(|f| f.counts && f.connected);
        if leading.holds_appends
            && let Some(furthest) = furthest.max_by_key(|follower| follower.bytes_behind)
        {
            hindrances.push(Hindrance::HoldsProducers {
                id: furthest.id,
                bytes_behind: furthest.bytes_behind,
                lag_bytes_max: leading.lag_bytes_max,
                outlook: match p.in_sync_replicas.len() > needed.max(2) {
                    true => Outlook::Leaves(leading.lag_time_max),
                    false => Outlook::IsNeeded,
                },
            });
        }
        Explanation {
            offsets: Some((own.high_watermark, own.log_end_offset)),
            uncommitted_for: leading.uncommitted_for,
            hindrances,
        }
    }

    /// Of the copies that are known, the one that lacks least: the highest last epoch, then the
    /// longest log, as Raft compares logs. The first of equals, in the order of the replicas.
    pub fn best_copy(&self) -> Option<BrokerId> {
        let place = |copy: &ReplicaState| (copy.last_leader_epoch, copy.log_end_offset);
        let known = self.copies.iter().filter_map(|(id, copy)| Some((*id, copy.as_ref().ok()?)));
        let better = |best: (BrokerId, _), next: (BrokerId, _)| {
            if place(next.1) > place(best.1) { next } else { best }
        };
        known.reduce(better).map(|(id, _)| id)
    }
}

fn behind(leader: &ReplicaState, follower: &FollowerState, waits_for_disk: bool) -> Behind {
    let bytes = follower.bytes_behind;
    let Some(log_end) = follower.log_end_offset else {
        return Behind::NotHeard { connected: follower.connected };
    };
    let lacks = |end: i64| leader.log_end_offset.abs_diff(end.min(leader.log_end_offset));
    if !follower.connected {
        return Behind::Away { bytes };
    }
    let flushed = follower.flushed_end_offset.unwrap_or(log_end);
    if waits_for_disk && log_end > leader.high_watermark && flushed < log_end {
        return Behind::Flushing { records: log_end.abs_diff(flushed) };
    }
    Behind::Slow { records: lacks(log_end), bytes }
}

impl Hindrance {
    /// The brokers it is about: where to look.
    pub fn brokers(&self) -> Vec<BrokerId> {
        match self {
            Self::NoLeader(
                NoLeader::InSyncAway(ids) | NoLeader::EligibleAway(ids) | NoLeader::NobodySafe(ids),
            )
            | Self::BelowMinimum { missing: ids, .. } => ids.clone(),
            Self::LeaderSilent { leader, .. } | Self::OwnDisk { leader, .. } => vec![*leader],
            Self::Replica { id, .. } | Self::HoldsProducers { id, .. } => vec![*id],
            Self::AwaitsIsr(_) => Vec::new(),
        }
    }

    /// One word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoLeader(_) => "no_leader",
            Self::LeaderSilent { .. } => "leader_silent",
            Self::BelowMinimum { .. } => "below_min_insync_replicas",
            Self::OwnDisk { .. } => "leader_flush",
            Self::Replica { why: Behind::Flushing { .. }, .. } => "follower_flush",
            Self::Replica { why: Behind::Slow { .. }, .. } => "follower_slow",
            Self::Replica { .. } => "follower_away",
            Self::AwaitsIsr(_) => "isr_change_pending",
            Self::HoldsProducers { .. } => "lag_budget",
        }
    }
}

impl fmt::Display for NoLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InSyncAway(ids) => write!(
                f,
                "nobody leads: only {} is in sync, and not there; start it, and nothing is lost",
                any(ids)
            ),
            Self::EligibleAway(ids) => write!(
                f,
                "nobody leads: {} has all that is committed, and is not there; start it, and \
                 nothing is lost",
                any(ids)
            ),
            Self::NobodySafe(ids) => write!(
                f,
                "nobody leads: no replica is known to have all that is committed, and the last \
                 that had it ({}) may have lost records in a power loss. Start all of them, \
                 compare their copies, and let the best one lead: riverrun partition elect TOPIC \
                 PARTITION --unclean --broker ID",
                any(ids)
            ),
        }
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHeard { connected: true } => {
                f.write_str("is there, and has not said yet where its log ends")
            }
            Self::NotHeard { connected: false } => {
                f.write_str("was not heard from since the present leader leads")
            }
            Self::Away { bytes } => write!(f, "is not connected, {bytes} bytes behind at most"),
            Self::Flushing { records } => {
                write!(f, "has the records and has not flushed the last {records} to its disk")
            }
            Self::Slow { records, bytes } => {
                write!(f, "is {records} records behind, {bytes} bytes at most")
            }
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves(within) => write!(
                f,
                "if it alone keeps them waiting for most of the time, while another is fast, it \
                 leaves the ISR within {}",
                seconds(*within)
            ),
            Self::IsNeeded => f.write_str(
                "the ISR is as small as it may be (min.insync.replicas, and one follower at least), so \
                 they wait until it keeps up",
            ),
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader(why) => why.fmt(f),
            Self::LeaderSilent { leader, why } => {
                write!(f, "broker {leader} leads and cannot be asked: {why}")
            }
            Self::BelowMinimum { in_sync, needed, missing } => write!(
                f,
                "{in_sync} of {needed} replicas that min.insync.replicas asks for are in sync: \
                 nothing is committed, and acks=all is refused, until {} is back and has caught up",
                any(missing)
            ),
            Self::OwnDisk { leader, flushed_end } => write!(
                f,
                "the disk of broker {leader}, the leader: it is flushed up to offset {flushed_end}"
            ),
            Self::Replica { id, why, since, lag_time_max } => {
                write!(f, "broker {id} {why}")?;
                if let Some(since) = since {
                    write!(f, ", for {}", seconds(*since))?;
                }
                let max = seconds(*lag_time_max);
                write!(f, "; after {max} without catching up it leaves the ISR")
            }
            Self::AwaitsIsr(isr) => write!(
                f,
                "the leader has asked the metadata quorum for the ISR {} and waits for the answer; \
                 nobody may lead the quorum",
                any(isr)
            ),
            Self::HoldsProducers { id, bytes_behind, lag_bytes_max, outlook } => write!(
                f,
                "producers wait for broker {id}: it is {bytes_behind} bytes behind, of \
                 {lag_bytes_max} at most (replica.lag.bytes.max); {outlook}"
            ),
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn any(ids: &[BrokerId]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        [one] => format!("broker {one}"),
        many => {
            let ids: Vec<_> = many.iter().map(|id| id.to_string()).collect();
            format!("one of brokers {}", ids.join(", "))
        }
    }
}

#[cfg(test)]
#[path = "explain_test.rs"]
mod tests;
