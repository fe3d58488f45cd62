//! Which brokers get the replicas of new partitions. Pure.

use riverrun_proto::ids::BrokerId;

/// Replicas for `count` partitions, `replication_factor` each, over `brokers` (no fewer than that,
/// each once). The first of each list is to lead.
///
/// Leaders go round the brokers, beginning at place `first`: whoever passes the number of partitions
/// there are so far keeps leaders even over all topics. Followers stand next in the ring, one place
/// further on with each round, so that the partitions of a broker that fails fall to different ones.
pub fn place(
    brokers: &[BrokerId],
    first: usize,
    count: usize,
    replication_factor: usize,
) -> Vec<Vec<BrokerId>> {
    debug_assert!(replication_factor <= brokers.len());
    let n = brokers.len();
    let replicas = |partition: usize| {
        let (leader, round) = (partition % n, partition / n);
        let followers = (0..replication_factor - 1)
            .map(move |k| brokers[(leader + 1 + (round + k) % (n - 1)) % n]);
        std::iter::once(brokers[leader]).chain(followers).collect()
    };
    (first..first + count).map(replicas).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn brokers(n: u32) -> Vec<BrokerId> {
        (1..=n).map(BrokerId).collect()
    }

    #[test]
    fn one_broker_has_everything() {
        assert_eq!(place(&brokers(1), 7, 3, 1), vec![vec![BrokerId(1)]; 3]);
    }

    #[test]
    fn followers_of_one_leader_differ_from_round_to_round() {
        let placed = place(&brokers(3), 0, 6, 2);
        let ids: Vec<Vec<u32>> =
            placed.iter().map(|replicas| replicas.iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, [[1, 2], [2, 3], [3, 1], [1, 3], [2, 1], [3, 2]]);
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_and_the_load_is_even(
            n in 1..9_u32, first in 0..50_usize, count in 1..60_usize, rf in 1..9_usize,
        ) {
            let rf = rf.min(n as usize);
            let placed = place(&brokers(n), first, count, rf);
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
