use riverrun_proto::ids::TopicId;

use super::*;
use crate::{
    admin::{LeaderState, MovingState, PartitionDescription},
    error::{Error, ErrorKind},
};

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const THREE: BrokerId = BrokerId(3);

fn copy(high_watermark: i64, end: i64, flushed: i64) -> ReplicaState {
    ReplicaState {
        log_start_offset: 0,
        high_watermark,
        log_end_offset: end,
        flushed_end_offset: flushed,
        last_leader_epoch: Some(4),
        size_bytes: 100,
    }
}

fn follower(id: BrokerId, end: Option<i64>) -> FollowerState {
    FollowerState {
        id,
        counts: true,
        connected: true,
        log_end_offset: end,
        flushed_end_offset: end,
        bytes_behind: 0,
        behind_for: None,
    }
}

/// Led by 1, all in sync, 90 of 100 records committed.
fn report(followers: [FollowerState; 2]) -> PartitionReport {
    let own = copy(90, 100, 100);
    PartitionReport {
        partition: PartitionDescription {
            topic: "orders".into(),
            topic_id: TopicId::from_bytes(&[7; 16]).unwrap(),
            partition: 3,
            leader: Some(ONE),
            leader_epoch: 4,
            partition_epoch: 9,
            replicas: vec![ONE, TWO, THREE],
            in_sync_replicas: vec![ONE, TWO, THREE],
            eligible_leaders: vec![],
            last_known_eligible: vec![],
            min_in_sync_replicas: 2,
            reassignment: None,
            unclean_leader_epoch: None,
            told_by: (ONE, Some(own)),
            leading: Some(LeaderState {
                waits_for_disk: false,
                uncommitted_for: Some(Duration::from_secs(3)),
                holds_appends: false,
                lag_bytes_max: 1000,
                lag_time_max: Duration::from_secs(10),
                proposed_isr: vec![],
                followers: followers.to_vec(),
            }),
            moving: None,
        },
        copies: vec![(ONE, Ok(own)), (TWO, Ok(copy(90, 100, 100))), (THREE, Ok(copy(80, 90, 90)))],
    }
}

fn kinds(report: &PartitionReport) -> Vec<(&'static str, Vec<BrokerId>)> {
    report.explain().hindrances.iter().map(|h| (h.kind(), h.brokers())).collect()
}

#[test]
fn the_replica_that_is_behind_is_named_and_the_others_are_not() {
    let slow = FollowerState {
        bytes_behind: 640,
        behind_for: Some(Duration::from_millis(2500)),
        ..follower(THREE, Some(90))
    };
    let report = report([follower(TWO, Some(100)), slow]);
    let explained = report.explain();
    assert_eq!(explained.offsets, Some((90, 100)));
    assert_eq!(explained.uncommitted_for, Some(Duration::from_secs(3)));
    assert_eq!(kinds(&report), [("follower_slow", vec![THREE])]);
    let words = explained.hindrances[0].to_string();
    assert_eq!(
        words,
        "broker 3 is 10 records behind, 640 bytes at most, for 2.5 s; after 10.0 s without \
         catching up it leaves the ISR"
    );
}

#[test]
fn who_does_not_count_or_has_what_is_committed_hinders_nothing() {
    let out = FollowerState { counts: false, ..follower(THREE, Some(5)) };
    assert_eq!(kinds(&report([follower(TWO, Some(91)), out])), []);
    let mut done = report([follower(TWO, Some(10)), follower(THREE, None)]);
    done.copies[0].1 = Ok(copy(100, 100, 100));
    assert_eq!(kinds(&done), [], "all is committed");
}

#[test]
fn who_was_not_heard_from_or_is_away_is_told_apart() {
    let away = FollowerState { connected: false, bytes_behind: 9, ..follower(THREE, Some(90)) };
    let report = report([follower(TWO, None), away]);
    assert_eq!(kinds(&report), [("follower_away", vec![TWO]), ("follower_away", vec![THREE])]);
    let words: Vec<_> = report.explain().hindrances.iter().map(Hindrance::to_string).collect();
    assert!(words[0].contains("has not said yet"), "{words:?}");
    assert!(words[1].contains("is not connected, 9 bytes"), "{words:?}");
}

#[test]
fn a_disk_is_named_where_it_is_the_disk() {
    let unflushed = FollowerState { flushed_end_offset: Some(90), ..follower(TWO, Some(100)) };
    let mut report = report([unflushed, follower(THREE, Some(100))]);
    report.partition.leading.as_mut().unwrap().waits_for_disk = true;
    assert_eq!(kinds(&report), [("follower_flush", vec![TWO])]);
    report.copies[0].1 = Ok(copy(90, 100, 90));
    assert_eq!(kinds(&report), [("leader_flush", vec![ONE]), ("follower_flush", vec![TWO])]);
}

#[test]
fn of_whom_producers_wait_for_it_is_said_whether_it_can_be_spared() {
    let behind = FollowerState { bytes_behind: 5000, ..follower(TWO, Some(95)) };
    let mut report = report([behind, follower(THREE, Some(96))]);
    report.partition.leading.as_mut().unwrap().holds_appends = true;
    let said = |report: &PartitionReport| report.explain().hindrances[0].to_string();
    report.partition.min_in_sync_replicas = 2;
    let words = said(&report);
    assert!(words.ends_with("it leaves the ISR within 10.0 s"), "{words}");
    report.partition.min_in_sync_replicas = 3;
    let words = said(&report);
    assert!(
        words.contains("5000 bytes behind") && words.contains("as small as it may be"),
        "{words}"
    );
}

#[test]
fn too_few_in_sync_an_isr_under_way_and_held_producers_are_said() {
    let behind = FollowerState { bytes_behind: 5000, ..follower(TWO, Some(95)) };
    let mut report = report([behind, follower(THREE, Some(96))]);
    report.partition.in_sync_replicas = vec![ONE];
    let leading = report.partition.leading.as_mut().unwrap();
    leading.proposed_isr = vec![ONE];
    leading.holds_appends = true;
    assert_eq!(
        kinds(&report),
        [
            ("below_min_insync_replicas", vec![TWO, THREE]),
            ("isr_change_pending", vec![]),
            ("lag_budget", vec![TWO]),
        ]
    );
}

#[test]
fn without_a_leader_it_says_who_could_be_one() {
    let mut report = report([follower(TWO, None), follower(THREE, None)]);
    let p = &mut report.partition;
    (p.leader, p.leading) = (None, None);
    p.in_sync_replicas = vec![TWO];
    let told = |report: &PartitionReport| report.explain().hindrances[0].to_string();
    assert!(told(&report).contains("only broker 2 is in sync"), "{}", told(&report));
    report.partition.in_sync_replicas.clear();
    report.partition.eligible_leaders = vec![THREE];
    assert!(told(&report).contains("broker 3 has all that is committed"), "{}", told(&report));
    report.partition.eligible_leaders.clear();
    report.partition.last_known_eligible = vec![ONE, TWO];
    assert!(told(&report).contains("--unclean"), "{}", told(&report));
}

#[test]
fn a_leader_that_does_not_answer_is_the_first_thing_to_know() {
    let mut report = report([follower(TWO, None), follower(THREE, None)]);
    report.partition.leading = None;
    report.copies[0].1 = Err(Error::new(ErrorKind::Connection, "nobody there"));
    assert_eq!(kinds(&report), [("leader_silent", vec![ONE])]);
    assert!(report.explain().hindrances[0].to_string().contains("nobody there"));
}

#[test]
fn the_best_copy_has_the_latest_epoch_then_the_most_records_then_comes_first() {
    let mut report = report([follower(TWO, None), follower(THREE, None)]);
    assert_eq!(report.best_copy(), Some(ONE), "the first of equals");
    report.copies[2].1 = Ok(copy(90, 101, 101));
    assert_eq!(report.best_copy(), Some(THREE));
    let newer = ReplicaState { last_leader_epoch: Some(5), ..copy(1, 2, 2) };
    report.copies[1].1 = Ok(newer);
    assert_eq!(report.best_copy(), Some(TWO));
    for (_, copy) in &mut report.copies {
        *copy = Err(Error::new(ErrorKind::Connection, "gone"));
    }
    assert_eq!(report.best_copy(), None);
}

#[test]
fn a_replica_that_is_being_added_hinders_nothing_and_is_told_apart() {
    let far = FollowerState { counts: false, ..follower(THREE, Some(30)) };
    let mut report = report([follower(TWO, Some(100)), far]);
    assert_eq!(report.arrivals(), [], "nobody is being added");
    report.partition.in_sync_replicas = vec![ONE, TWO];
    report.partition.moving = Some(MovingState {
        adding: vec![THREE],
        throttle_bytes_per_second: Some(7),
        growth_bytes_per_second: 9,
    });
    report.copies[2].1 = Ok(ReplicaState { size_bytes: 40, ..copy(30, 30, 30) });
    let arrivals = report.arrivals();
    let [arrival] = arrivals.as_slice() else { panic!("{arrivals:?}") };
    assert_eq!((arrival.id, arrival.connected), (THREE, true));
    assert_eq!((arrival.records, arrival.bytes), (Some(70), Some(60)));
    assert!(arrival.gains_nothing());
    assert!(kinds(&report).iter().all(|(_, brokers)| !brokers.contains(&THREE)));
    report.copies[2].1 = Err(Error::new(ErrorKind::Connection, "nobody there"));
    assert_eq!(report.arrivals()[0].bytes, None);
}
