//! What chance meets too rarely: step by step.

use std::{path::Path, sync::Arc};

use raft::eraftpb::{Entry, Message, MessageType};
use riverrun_proto::ids::{BrokerId, DirectoryId};

use super::*;
use crate::{
    controller::{
        raft::mutation::Planted,
        raft::sim::cluster,
        store::Identity,
        test_support::{DATA, SmallDisk},
    },
    io::{Disk, Failure, sim::SimDisk},
    metadata::{record, test_support::register},
};

fn voter(n: u8) -> Voter {
    Voter::new(BrokerId(u32::from(n)), DirectoryId::from_bytes(&[n; 16]).unwrap())
}

fn options(seed: u64, mutation: Option<Mutation>) -> NodeOptions {
    NodeOptions {
        election_ticks: 10,
        heartbeat_ticks: 2,
        snapshot_entries: 1000,
        snapshot_bytes: 1 << 20,
        keep_entries: 10,
        seed,
        planted: Planted { mutation },
    }
}

fn start(disk: &SimDisk, options: NodeOptions) -> (Node, MetaStore) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    let (store, recovered) = MetaStore::open(disk, Path::new(DATA), &failure).unwrap();
    (Node::new(voter(1), &store, recovered, options), store)
}

/// A voter that is alone, with its first writes done.
fn alone(mutation: Option<Mutation>) -> (SimDisk, Node, MetaStore) {
    let disk = SimDisk::small();
    let failure = Failure::open(Arc::new(disk.clone()), DATA);
    let Voter { node, directory, .. } = voter(1);
    let identity = Identity { cluster: cluster(), node, directory };
    MetaStore::format(&disk, Path::new(DATA), identity, &failure).unwrap();
    let (mut node, mut store) = start(&disk, options(1, mutation));
    settle(&mut node, &mut store);
    assert!(node.is_leader());
    (disk, node, store)
}

/// Does all writes; gives the messages and answers that came.
fn settle(node: &mut Node, store: &mut MetaStore) -> (Vec<Message>, Vec<(Ticket, Answer)>) {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    loop {
        let outputs = node.outputs();
        messages.extend(outputs.messages);
        answers.extend(outputs.answers);
        let Some(write) = outputs.write else { return (messages, answers) };
        node.written(write.perform(store));
    }
}

/// Raft sends a leader's entries before they are on its own disk, and takes its term for durable
/// because others voted in it. Nobody votes for a voter that is alone.
#[test]
fn a_lone_leader_tells_its_listeners_nothing_of_a_term_it_may_forget() {
    for (mutation, expected) in [(None, false), (Some(Mutation::LeadBeforeSync), true)] {
        let (disk, mut node, mut store) = alone(mutation);
        node.change(Ticket(1), &[Step::Listen(voter(2))]);
        let (_, answers) = settle(&mut node, &mut store);
        assert!(matches!(answers.as_slice(), [(_, Answer::Changed(Ok(_)))]));
        // With this one the disk learns that the change is in force.
        node.propose(Ticket(2), record::encode(&register(1, 1)).unwrap());
        settle(&mut node, &mut store);
        drop((node, store));
        let (mut node, mut store) = start(&disk.kill(), options(2, mutation));
        // The new term waits for the disk all the while.
        let write = node.outputs().write.unwrap();
        let mut early = false;
        for _ in 0..50 {
            node.tick();
            early |= !node.outputs().messages.is_empty();
        }
        assert_eq!(early, expected);
        node.written(write.perform(&mut store));
        for _ in 0..4 {
            node.tick();
        }
        assert!(!settle(&mut node, &mut store).0.is_empty(), "and then it does");
    }
}

/// Reads that come before there is anybody to answer them wait for that, not for a tick.
#[test]
fn early_reads_are_asked_as_soon_as_somebody_can_answer() {
    let (disk, node, store) = alone(None);
    drop((node, store));
    let (mut node, mut store) = start(&disk.kill(), options(2, None));
    node.read(Ticket(1));
    let (_, answers) = settle(&mut node, &mut store);
    assert!(matches!(answers.as_slice(), [(Ticket(1), Answer::Read(Ok(_)))]), "{answers:?}");

    let disk = SimDisk::small();
    let failure = Failure::open(Arc::new(disk.clone()), DATA);
    MetaStore::format_joining(&disk, Path::new(DATA), cluster(), &failure).unwrap();
    let (mut node, mut store) = start(&disk, options(3, None));
    node.read(Ticket(2));
    assert!(settle(&mut node, &mut store).0.is_empty(), "there is nobody to ask");
    node.step(message(MessageType::MsgHeartbeat));
    let (messages, _) = settle(&mut node, &mut store);
    let asks = |message: &Message| message.get_msg_type() == MessageType::MsgReadIndex;
    assert!(messages.iter().any(asks), "{messages:?}");
}

/// A read of an earlier run was answered late: it says what was committed before that run ended.
#[test]
fn a_read_takes_no_answer_to_an_earlier_runs_question() {
    let follower = |seed, mutation| {
        let disk = SimDisk::small();
        let failure = Failure::open(Arc::new(disk.clone()), DATA);
        MetaStore::format_joining(&disk, Path::new(DATA), cluster(), &failure).unwrap();
        let (mut node, mut store) = start(&disk, options(seed, mutation));
        let mut heartbeat = message(MessageType::MsgHeartbeat);
        heartbeat.commit = 0;
        node.step(heartbeat);
        settle(&mut node, &mut store);
        node.read(Ticket(1));
        let (messages, _) = settle(&mut node, &mut store);
        let asked = messages.into_iter().find(|m| m.get_msg_type() == MessageType::MsgReadIndex);
        let context = asked.expect("it asks the leader").entries[0].data.clone();
        (node, store, context)
    };
    for (mutation, believed) in [(None, false), (Some(Mutation::ReuseReadContexts), true)] {
        let (_, _, earlier) = follower(5, mutation);
        let (mut node, mut store, now) = follower(6, mutation);
        let answer = |context: &Bytes| {
            let mut answer = message(MessageType::MsgReadIndexResp);
            let entry = Entry { data: context.clone(), ..Entry::default() };
            answer.set_entries(vec![entry].into());
            answer
        };
        node.step(answer(&earlier));
        assert_eq!(!settle(&mut node, &mut store).1.is_empty(), believed);
        node.step(answer(&now));
        assert_eq!(settle(&mut node, &mut store).1.is_empty(), believed);
    }
}

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = voter(2).id.0;
    message.to = voter(1).id.0;
    message.term = 3;
    message
}

#[test]
fn a_voter_that_lost_what_it_acknowledged_stops_and_says_so() {
    let (_disk, mut node, mut store) = alone(None);
    node.propose(Ticket(1), Bytes::from_static(b"not written yet"));
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    heartbeat.commit = 1000;
    node.step(heartbeat);
    assert!(matches!(node.stopped(), Some(Stop::LostEntries { acknowledged: 1000, .. })));
    let (messages, answers) = settle(&mut node, &mut store);
    assert!(messages.is_empty());
    let [(_, Answer::Proposed(Err(QuorumError::OutcomeUnknown(why))))] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(why.contains("Take it out of the quorum"), "{why}");
}

#[test]
fn a_record_of_a_newer_version_stops_the_node() {
    let (_disk, mut node, mut store) = alone(None);
    node.propose(Ticket(1), Bytes::from_static(&[99, 0, 1, 0]));
    settle(&mut node, &mut store);
    assert!(matches!(node.stopped(), Some(Stop::Record { .. })));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_refused_and_nothing_else_happens() {
    let (_disk, mut node, _) = alone(None);
    let mut snapshot = message(MessageType::MsgSnapshot);
    snapshot.mut_snapshot().mut_metadata().index = 500;
    snapshot.mut_snapshot().data = Bytes::from_static(b"nonsense");
    node.step(snapshot);
    assert_eq!(node.stats().snapshots_refused, 1);
    assert!(node.is_leader() && node.stopped().is_none());
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let (_disk, mut node, mut store) = alone(None);
    let me = voter(1).id;
    let mut nobody = voter(4);
    nobody.id = voter(5).id;
    for steps in [
        &[][..],
        &[Step::Leave(me)],
        &[Step::Leave(voter(3).id)],
        &[Step::Vote(voter(3).id)],
        &[Step::Listen(voter(1))],
        &[Step::Listen(nobody)],
        &[Step::Listen(voter(3)), Step::Listen(voter(3))],
    ] {
        node.change(Ticket(1), steps);
        let (_, answers) = settle(&mut node, &mut store);
        let [(_, Answer::Changed(Err(ChangeError::Refused(_))))] = answers.as_slice() else {
            panic!("{steps:?}: {answers:?}")
        };
    }
    node.change(Ticket(1), &[Step::Listen(voter(2))]);
    settle(&mut node, &mut store);
    node.change(Ticket(2), &[Step::Vote(voter(2).id)]);
    let (_, answers) = settle(&mut node, &mut store);
    let [(_, Answer::Changed(Err(ChangeError::NotCaughtUp { .. })))] = answers.as_slice() else {
        panic!("{answers:?}")
    };
}
