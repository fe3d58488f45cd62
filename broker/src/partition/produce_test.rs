//! What a producer may rely on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use riverrun_proto::{ids::BrokerId, record::RecordBatch};

use super::{test_support::*, *};
use crate::{
    clock::Clock,
    config::TimestampType,
    io::{
        Failure,
        sim::{Fault, PowerCut},
    },
    log::{Log, LogBudgets, LogConfig, LogEnv, SaltSource},
};

#[test]
fn offsets_are_dense_and_what_is_acked_is_readable_in_order() {
    for durability in [Durability::Disk, Durability::Memory] {
        let harness = Harness::leading(Setup { durability, ..Setup::default() });
        let mut expected = 0;
        for tag in 0..50 {
            let records = 1 + tag % 7;
            harness
                .send(u64::try_from(tag).unwrap(), batch(usize::try_from(records).unwrap(), 100));
            let (base, last) = harness.offsets(u64::try_from(tag).unwrap());
            assert_eq!((base, last), (expected, expected + records - 1));
            expected += records;
            assert!(harness.partition.high_watermark().get() >= expected);
        }
        assert_eq!(harness.readable(0), (0..expected).collect::<Vec<_>>());
        assert_eq!(harness.readable(20).last(), Some(&(expected - 1)));
    }
}

#[test]
fn durability_disk_survives_power_loss_at_the_ack() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, batch(3, 1000));
    harness.offsets(1);
    let offsets = harness.partition.offsets();
    assert_eq!(offsets.flushed_end, at(3));
    let found = harness.disk.power_loss(PowerCut::LoseUnsynced);
    let data = PathBuf::from("/data");
    let shared: Arc<dyn crate::io::Disk> = Arc::new(found);
    let env = LogEnv::new(
        Arc::clone(&shared),
        Failure::open(shared, &data),
        SaltSource::seeded(12),
        LogBudgets::default(),
    );
    let dir = data.join(harness.partition.id().to_string());
    let (log, _) = Log::open(env, dir, LogConfig::default(), false, harness.clock.now()).unwrap();
    assert_eq!(log.log_end_offset(), at(3));
}

#[test]
fn nobody_writes_or_reads_where_this_broker_does_not_lead() {
    let harness = Harness::new(Setup::default());
    harness.send(1, batch(1, 10));
    assert_eq!(
        harness.refusal(),
        ProduceError::NotLeader { leader: None, epoch: None, appended: false }
    );
    assert!(matches!(harness.fetch(0), Err(FetchError::NotLeader { .. })));
    harness.register(Some(BrokerId(9)), 4, 4);
    harness.send(2, batch(1, 10));
    assert_eq!(
        harness.refusal(),
        ProduceError::NotLeader {
            leader: Some(BrokerId(9)),
            epoch: Some(epoch(4)),
            appended: false
        }
    );
}

#[test]
fn leader_epochs_fence_both_ways() {
    let harness = Harness::leading(Setup::default());
    harness.register(Some(ME), 5, 2);
    for (given, fenced) in [(4, true), (6, false)] {
        harness.send_with(1, batch(1, 10), |append| append.leader_epoch = Some(epoch(given)));
        match harness.refusal() {
            ProduceError::FencedLeaderEpoch { current, .. } if fenced => {
                assert_eq!(current, epoch(5));
            }
            ProduceError::UnknownLeaderEpoch { current, .. } if !fenced => {
                assert_eq!(current, epoch(5));
            }
            other => panic!("{given}: {other}"),
        }
    }
    harness.send_with(2, batch(1, 10), |append| append.leader_epoch = Some(epoch(5)));
    harness.offsets(2);
}

#[test]
fn a_retry_is_answered_with_the_first_offsets_and_not_written_again() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, sequenced(70, 0, 0, 4));
    harness.send(2, sequenced(70, 0, 4, 2));
    harness.offsets(1);
    harness.offsets(2);
    harness.send(3, sequenced(70, 0, 0, 4));
    let (_, outcome) = harness.outcome();
    let again = outcome.unwrap();
    assert!(again.duplicate);
    assert_eq!((again.base_offset, again.last_offset), (at(0), at(3)));
    harness.send(4, sequenced(70, 0, 9, 1));
    assert_eq!(
        harness.refusal(),
        ProduceError::OutOfOrderSequence { producer_id: 70, given: 9, expected: 6 }
    );
    harness.send(5, sequenced(70, 1, 0, 1));
    harness.offsets(5);
    harness.send(6, sequenced(70, 0, 6, 1));
    assert_eq!(
        harness.refusal(),
        ProduceError::InvalidProducerEpoch { producer_id: 70, given: 0, current: 1 }
    );
    assert_eq!(harness.readable(0).len(), 7);
}

#[test]
fn size_and_time_are_bounded_before_anything_is_written() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, batch(1, 70 << 10));
    assert!(matches!(harness.refusal(), ProduceError::TooLarge { max: 65536, .. }));
    let now = 1_700_000_000_000;
    for (time, side) in [(now - 3_600_001, "before"), (now + 3_600_001, "after")] {
        harness.send(2, batch_at(time, 1, 10));
        assert!(
            matches!(harness.refusal(), ProduceError::InvalidTimestamp { side: s, .. } if s == side)
        );
    }
    for time in [now - 3_600_000, now + 3_600_000] {
        harness.send(3, batch_at(time, 1, 10));
        harness.outcome().1.unwrap();
    }
    assert_eq!(harness.partition.offsets().log_end, at(2));
}

#[test]
fn the_broker_may_stamp_the_time() {
    let harness = Harness::leading(Setup {
        timestamp_type: TimestampType::LogAppendTime,
        ..Setup::default()
    });
    harness.send(1, batch_at(5, 1, 10));
    let produced = harness.outcome().1.unwrap();
    assert_eq!(produced.log_append_time, Some(harness.clock.now()));
    let Fetched::Batches { batches, .. } = harness.fetch(0).unwrap() else { panic!() };
    let stored = RecordBatch::validate(batches[0].clone()).unwrap();
    assert_eq!(stored.header().max_timestamp, harness.clock.now());
}

#[test]
fn batches_park_in_order_while_the_log_is_not_ready() {
    let harness = Harness::leading(Setup::default());
    let gate = harness.hold_work();
    for tag in 0..40 {
        harness.send(tag, batch(1, 1000));
    }
    let (_, parked) = harness.partition.waiting();
    assert!(parked > 20, "{parked} parked: one window holds a few, the rest waits for a roll");
    drop(gate);
    for tag in 0..40 {
        assert_eq!(harness.offsets(tag).0, i64::try_from(tag).unwrap());
    }
}

#[test]
fn what_parks_is_bounded() {
    let harness = Harness::leading(Setup { parked_bytes_max: 10_000, ..Setup::default() });
    let gate = harness.hold_work();
    for tag in 0..40 {
        harness.send(tag, batch(1, 1000));
    }
    let mut refused = 0;
    while let Some((_, outcome)) = harness.answered() {
        let error = outcome.unwrap_err();
        assert!(matches!(error, ProduceError::Busy { parked_bytes } if parked_bytes <= 10_000));
        assert!(error.is_definite());
        refused += 1;
    }
    assert!(refused > 20);
    drop(gate);
    for _ in refused..40 {
        harness.outcome().1.unwrap();
    }
}

#[test]
fn deadlines_answer_appended_and_parked_apart() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    for tag in 2..20 {
        harness.send(tag, batch(1, 1000));
    }
    harness.partition.expire(harness.clock.monotonic() + Duration::from_secs(29));
    assert!(harness.is_silent(), "nothing is due yet");
    harness.partition.expire(harness.clock.monotonic() + Duration::from_secs(31));
    let outcomes: Vec<_> = (1..20).map(|_| harness.outcome()).collect();
    let appended = |tag: u64| {
        let (_, outcome) = outcomes.iter().find(|(t, _)| *t == tag).unwrap();
        match outcome {
            Err(ProduceError::TimedOut { appended }) => *appended,
            other => panic!("{other:?}"),
        }
    };
    assert!(appended(1), "it is in the log and may yet commit");
    assert!(!appended(19), "it never got there");
    drop(gate);
    harness.send(50, batch(1, 10));
    harness.offsets(50);
}

#[test]
fn a_full_disk_refuses_and_comes_back_by_itself() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 100));
    harness.offsets(0);
    harness.disk.set_capacity(Some(CAPACITY));
    let mut tag = 1;
    let refused = loop {
        harness.send(tag, batch(4, 900));
        match harness.outcome().1 {
            Ok(_) => tag += 1,
            Err(error) => break error,
        }
        assert!(tag < 1000, "the disk never filled up");
    };
    assert_eq!(refused, ProduceError::StorageFull);
    assert!(refused.is_definite());
    let end = harness.partition.offsets().log_end;
    assert_eq!(harness.readable(0).len(), usize::try_from(end.get()).unwrap(), "reads go on");
    harness.disk.set_capacity(None);
    for _ in 0..2 {
        // The first may find the window still missing and be what asks for it.
        harness.send(999, batch(1, 100));
        if harness.outcome().1.is_ok() {
            return;
        }
    }
    panic!("room is back, the partition is not");
}

#[test]
fn a_failed_sync_is_final() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 100));
    harness.offsets(0);
    harness.disk.fail_after(0, Fault::SyncError);
    harness.send(1, batch(1, 100));
    let error = harness.refusal();
    assert!(matches!(error, ProduceError::StorageFailed { appended: true, .. }), "{error}");
    assert!(!error.is_definite());
    harness.send(2, batch(1, 100));
    let error = harness.refusal();
    assert!(matches!(error, ProduceError::StorageFailed { appended: false, .. }), "{error}");
}

#[test]
fn closing_answers_whoever_waits() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    harness.partition.close();
    assert_eq!(harness.refusal(), ProduceError::Closing { appended: true });
    harness.send(2, batch(1, 10));
    assert_eq!(harness.refusal(), ProduceError::Closing { appended: false });
    assert_eq!(harness.fetch(0), Err(FetchError::Closing));
    drop(gate);
    harness.partition.finish().unwrap();
}

#[test]
fn losing_leadership_leaves_the_outcome_open() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    harness.register(Some(BrokerId(3)), 2, 2);
    let error = harness.refusal();
    assert!(!error.is_definite());
    assert!(matches!(error, ProduceError::NotLeader { leader: Some(BrokerId(3)), .. }));
    drop(gate);
}

#[test]
fn acks_leader_does_not_wait_for_the_disk() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send_with(1, batch(1, 10), |append| append.acks = Acks::Leader);
    let produced = harness.outcome().1.unwrap();
    assert_eq!((produced.durability, produced.replicas), (Durability::Memory, 1));
    assert_eq!(harness.readable(0), [0], "not committed, so not readable");
    drop(gate);
}
