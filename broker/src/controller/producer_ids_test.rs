use std::collections::BTreeSet;

use futures::future::join_all;

use super::{
    super::{
        LocalOptions, LocalQuorum,
        test_support::{NODE, SmallDisk, open_with, registered},
    },
    *,
};
use crate::{
    io::sim::{PowerCut, SimDisk},
    metadata::{Rejection, test_support::register},
};

fn ids(quorum: &Arc<LocalQuorum>) -> ProducerIds {
    let epoch = quorum.image().broker(NODE).unwrap().epoch;
    ProducerIds::new(Arc::clone(quorum) as Arc<dyn MetaQuorum>, NODE, epoch)
}

#[tokio::test]
async fn everybody_gets_another_and_a_block_costs_one_record() {
    let quorum = registered(&SimDisk::small()).await;
    let ids = ids(&quorum);
    let before = quorum.image().offset().get();
    let given = join_all((0..2 * BLOCK + 1).map(|_| ids.next())).await;
    let distinct: BTreeSet<_> = given.into_iter().map(|id| id.unwrap().get()).collect();
    assert_eq!(distinct.len(), 2 * BLOCK as usize + 1);
    assert_eq!(quorum.image().offset().get() - before, 3);
}

#[tokio::test]
async fn no_id_comes_back_after_a_power_loss() {
    let disk = SimDisk::small();
    let quorum = registered(&disk).await;
    let first = ids(&quorum).next().await.unwrap();
    let disk = disk.power_loss(PowerCut::LoseUnsynced);
    drop(quorum);
    let quorum = Arc::new(open_with(&disk, LocalOptions::default()).unwrap());
    quorum.propose(register(1, 2)).await.unwrap();
    let second = ids(&quorum).next().await.unwrap();
    assert_eq!(second.get(), first.get() + i64::from(BLOCK), "the rest of the block is lost");
}

#[tokio::test]
async fn an_earlier_run_gets_none() {
    let quorum = registered(&SimDisk::small()).await;
    let old = ids(&quorum);
    old.next().await.unwrap();
    quorum.propose(register(1, 2)).await.unwrap();
    for _ in 1..BLOCK {
        old.next().await.expect("its block is its own to the end");
    }
    let error = old.next().await.unwrap_err();
    assert!(matches!(error, QuorumError::Rejected(Rejection::StaleBrokerEpoch { .. })));
}
