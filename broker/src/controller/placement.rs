//! Which brokers get the replicas of new partitions. Pure.

use riverrun_proto::ids::BrokerId;

/// Replicas for `count` partitions, `replication_factor` each, over `brokers` (no fewer than that,
/// each once). The first of each list is to lead. `racks` has the rack of each broker, or nothing
/// where not all of them name one.
///
/// Leaders go round the brokers, beginning at place `first`: whoever passes the number of partitions
/// there are so far keeps leaders even over all topics. Followers stand next in the ring, one place
/// further on with each round, so that the partitions of a broker that fails fall to different ones.
/// Who stands in a rack that has a replica already is passed over as long as there is another.
pub fn place(
    brokers: &[BrokerId],
    racks: &[&str],
    first: usize,
    count: usize,
    replication_factor: usize,
) -> Vec<Vec<BrokerId>> {
    debug_assert!(replication_factor <= brokers.len());
    let n = brokers.len();
    let replicas = |partition: usize| {
        let (leader, round) = (partition % n, partition / n);
        let mut chosen = vec![leader];
        let rack = |at: usize| racks.get(at);
        for passes_over in [true, false] {
            for k in 0..n - 1 {
                let at = (leader + 1 + (round + k) % (n - 1)) % n;
                let is_taken = chosen.iter().any(|other| rack(*other) == rack(at));
                let is_passed_over = passes_over && !racks.is_empty() && is_taken;
                if chosen.len() < replication_factor && !chosen.contains(&at) && !is_passed_over {
                    chosen.push(at);
                }
            }
        }
        chosen.into_iter().map(|at| brokers[at]).collect()
    };
    (first..first + count).map(replicas).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn brokers(n: u32) -> Vec<BrokerId> {
        (1..=n).map(BrokerId).collect()
    }

    #[test]
    fn one_broker_has_everything() {
        assert_eq!(place(&brokers(1), &[], 7, 3, 1), vec![vec![BrokerId(1)]; 3]);
    }

    #[test]
    fn followers_of_one_leader_differ_from_round_to_round() {
        let placed = place(&brokers(3), &[], 0, 6, 2);
        let ids: Vec<Vec<u32>> =
            placed.iter().map(|replicas| replicas.iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, [[1, 2], [2, 3], [3, 1], [1, 3], [2, 1], [3, 2]]);
    }

    proptest! {
        #[test]
        fn no_rack_has_two_replicas_while_another_has_none(
            racks in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..9),
            first in 0..50_usize, count in 1..60_usize, rf in 1..9_usize,
        ) {
            let n = u32::try_from(racks.len()).unwrap();
            let rf = rf.min(racks.len());
            let rack = |id: &BrokerId| racks[id.0 as usize - 1];
            let all: BTreeSet<_> = racks.iter().collect();
            for replicas in place(&brokers(n), &racks, first, count, rf) {
                let mut distinct = replicas.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), rf);
                let used: BTreeSet<_> = replicas.iter().map(rack).collect();
                prop_assert_eq!(used.len(), rf.min(all.len()), "{:?}", replicas);
            }
        }

        #[test]
        fn replicas_are_distinct_and_the_load_is_even(
            n in 1..9_u32, first in 0..50_usize, count in 1..60_usize, rf in 1..9_usize,
        ) {
            let rf = rf.min(n as usize);
            let placed = place(&brokers(n), &[], first, count, rf);
            prop_assert_eq!(placed.len(), count);
            let mut leads = BTreeMap::new();
            for replicas in &placed {
                let mut distinct = replicas.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), rf);
                *leads.entry(replicas[0]).or_insert(0_usize) += 1;
            }
            let most = leads.values().max().copied().unwrap_or(0);
            prop_assert!(most <= count.div_ceil(n as usize), "{leads:?}");
        }
    }
}
