use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::peer::hello::tests::card;

fn nowhere() -> Locate {
    Arc::new(|_| Vec::new())
}

fn peer() -> Peer {
    Peer { to: card(1, 2, 2).voter, queue: Mutex::default(), arrived: Notify::new() }
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    // Nothing runs on it: nothing is taken out.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let transport =
        PeerTransport::new(card(1, 1, 1), nowhere(), Dialler::default(), runtime.handle().clone());
    let (me, to) = (card(1, 1, 1).voter, card(1, 2, 2).voter);
    for _ in 0..QUEUE_MESSAGES_MAX + 3 {
        transport.send(&me, &to, Bytes::from_static(b"message"));
    }
    let stats = transport.stats();
    assert_eq!((stats.waiting, stats.dropped), (QUEUE_MESSAGES_MAX as u64, 3));
}

#[test]
fn as_many_peers_as_there_may_be() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let transport =
        PeerTransport::new(card(1, 1, 1), nowhere(), Dialler::default(), runtime.handle().clone());
    let me = card(1, 1, 1).voter;
    for n in 0..=PEERS_MAX {
        let mut directory = [9; 16];
        directory[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
        let directory = riverrun_proto::ids::DirectoryId::from_bytes(&directory).unwrap();
        let to = Voter::new(BrokerId(u32::try_from(n).unwrap()), directory);
        transport.send(&me, &to, Bytes::from_static(b"message"));
    }
    let stats = transport.stats();
    assert_eq!((stats.waiting, stats.dropped), (PEERS_MAX as u64, 1));
}

#[test]
fn a_snapshot_always_fits_and_nothing_beside_it() {
    let peer = peer();
    assert!(peer.put(vec![0; QUEUE_BYTES_MAX + 1].into()));
    assert!(!peer.put(Bytes::from_static(b"x")));
    assert_eq!(peer.clear(), 1);
    assert!(peer.put(vec![0; QUEUE_BYTES_MAX - 1].into()));
    assert!(peer.put(Bytes::from_static(b"x")));
    assert!(!peer.put(Bytes::from_static(b"x")));
}

#[tokio::test]
async fn messages_travel_together_in_order_and_large_ones_alone() {
    let peer = peer();
    for n in 0..3 {
        assert!(peer.put(vec![n; REQUEST_BYTES / 3].into()));
    }
    assert!(peer.put(vec![3; 2 * REQUEST_BYTES].into()));
    assert!(peer.put(vec![4; 1].into()));
    let mut taken = Vec::new();
    for _ in 0..3 {
        let batch = peer.take().await.unwrap();
        taken.push(batch.iter().map(|message| message[0]).collect::<Vec<_>>());
    }
    assert_eq!(taken, [vec![0, 1, 2], vec![3], vec![4]]);
    assert_eq!(peer.queue.lock().bytes, 0);
    let mut waits = Box::pin(peer.take());
    assert!(futures::poll!(&mut waits).is_pending());
    peer.close();
    assert!(waits.await.is_none());
    assert!(!peer.put(Bytes::from_static(b"x")), "nobody takes it any more");
}
