//! Exact action lists: what each event makes a replica do.

use riverrun_proto::epoch::PartitionEpoch;

use super::*;

const ME: BrokerId = BrokerId(1);
const OTHER: BrokerId = BrokerId(2);

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch).unwrap()
}

fn registered(leader: Option<BrokerId>, le: i32, pe: i32, isr: &[BrokerId], min: u32) -> Event {
    Event::Registered(Registration {
        leader,
        leader_epoch: epoch(le),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
        replicas: vec![ME, OTHER],
        isr: isr.to_vec(),
        min_isr: min,
    })
}

fn step(replica: &mut Replica, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    replica.step(event, &mut actions);
    actions
}

#[test]
fn memory_commits_at_the_append_and_disk_at_the_flush() {
    for (durability, after_append, after_flush) in [
        (Durability::Memory, vec![Action::AdvanceHighWatermark(at(15))], vec![]),
        (Durability::Disk, vec![], vec![Action::AdvanceHighWatermark(at(15))]),
    ] {
        let mut replica = Replica::new(ME, durability, at(0), at(10), at(4));
        assert_eq!(replica.leads(), None);
        assert_eq!(
            step(&mut replica, registered(Some(ME), 3, 7, &[ME], 1)),
            [
                Action::StartEpoch { epoch: epoch(3), start: at(10) },
                Action::AdvanceHighWatermark(at(10))
            ],
            "what was recovered was flushed and is committed by an ISR of one"
        );
        assert_eq!(replica.leads(), Some(epoch(3)));
        assert_eq!(step(&mut replica, Event::Appended { log_end: at(15) }), after_append);
        assert_eq!(step(&mut replica, Event::Flushed { flushed_end: at(15) }), after_flush);
    }
}

#[test]
fn a_member_not_heard_from_holds_the_high_watermark() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4));
    assert_eq!(
        step(&mut replica, registered(Some(ME), 1, 1, &[ME, OTHER], 1)),
        [Action::StartEpoch { epoch: epoch(1), start: at(10) }]
    );
    assert!(!replica.high_watermark_is_current());
    assert_eq!(step(&mut replica, Event::Appended { log_end: at(12) }), []);
    assert_eq!(
        step(&mut replica, registered(Some(ME), 1, 2, &[ME], 1)),
        [Action::AdvanceHighWatermark(at(12))],
        "KAFKA-13091: a shrink commits what waited, without further traffic"
    );
    assert!(replica.high_watermark_is_current());
}

#[test]
fn below_min_isr_nothing_commits_and_nothing_that_waits_is_admitted() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4));
    step(&mut replica, registered(Some(ME), 1, 1, &[ME], 2));
    assert_eq!(replica.admits_acks_all(), Admission::NotEnoughReplicas { isr: 1, min_isr: 2 });
    assert_eq!(step(&mut replica, Event::Appended { log_end: at(11) }), []);
    assert_eq!(replica.high_watermark(), at(4));
}

#[test]
fn min_isr_above_the_replicas_asks_for_all_of_them() {
    let registration = Registration {
        leader: Some(ME),
        leader_epoch: epoch(0),
        partition_epoch: PartitionEpoch::ZERO,
        replicas: vec![ME],
        isr: vec![ME],
        min_isr: 3,
    };
    assert_eq!(registration.effective_min_isr(), 1);
}

#[test]
fn registrations_apply_in_order_of_partition_epoch_only() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 5, 5, &[ME], 1));
    assert_eq!(step(&mut replica, registered(Some(OTHER), 6, 5, &[OTHER], 1)), []);
    assert_eq!(step(&mut replica, registered(Some(OTHER), 6, 4, &[OTHER], 1)), []);
    assert_eq!(replica.leads(), Some(epoch(5)));
    assert_eq!(
        step(&mut replica, registered(Some(OTHER), 6, 6, &[OTHER], 1)),
        [Action::Resign { epoch: epoch(6), leader: Some(OTHER) }]
    );
    assert_eq!(replica.admits_acks_all(), Admission::NotLeader);
    assert_eq!(step(&mut replica, Event::Appended { log_end: at(3) }), []);
}

#[test]
fn the_same_leader_in_a_newer_epoch_starts_a_new_term() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 1, 1, &[ME], 1));
    step(&mut replica, Event::Appended { log_end: at(8) });
    assert_eq!(
        step(&mut replica, registered(Some(ME), 2, 2, &[ME], 1)),
        [Action::StartEpoch { epoch: epoch(2), start: at(8) }]
    );
}

#[test]
fn the_remembered_high_watermark_is_clamped_to_the_log() {
    for (remembered, expected) in [(2, 5), (7, 7), (99, 10)] {
        let replica = Replica::new(ME, Durability::Disk, at(5), at(10), at(remembered));
        assert_eq!(replica.high_watermark(), at(expected));
    }
}

#[test]
fn changing_durability_never_moves_the_high_watermark_back() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 1, 1, &[ME], 1));
    step(&mut replica, Event::Appended { log_end: at(8) });
    assert_eq!(step(&mut replica, Event::DurabilityChanged(Durability::Disk)), []);
    assert_eq!(replica.high_watermark(), at(8));
    assert_eq!(
        step(&mut replica, Event::DurabilityChanged(Durability::Memory)),
        [],
        "already committed"
    );
}
