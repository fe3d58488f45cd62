//! A quorum of one on a simulated disk, for tests.

use std::{path::Path, sync::Arc};

use riverrun_proto::ids::BrokerId;

use super::{LocalOptions, LocalQuorum, MetaProperties, OpenError};
use crate::io::{Disk, Failure, SyncPoint, sim::SimDisk};

pub(crate) const DATA: &str = "/data";
pub(crate) const NODE: BrokerId = BrokerId(1);

/// Disks with a data directory.
pub(crate) trait SmallDisk {
    fn small() -> Self;
}

impl SmallDisk for SimDisk {
    fn small() -> Self {
        let disk = Self::new(11);
        disk.create_dir(Path::new(DATA)).unwrap();
        disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
        disk
    }
}

pub(crate) fn open_with(disk: &SimDisk, options: LocalOptions) -> Result<LocalQuorum, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    let data = Path::new(DATA);
    let properties = MetaProperties::open_or_format(&disk, data, NODE, None, &failure)?;
    LocalQuorum::open(disk, data, &properties, &failure, options)
}

/// A running quorum in which broker 1 is registered.
pub(crate) async fn registered(disk: &SimDisk) -> Arc<LocalQuorum> {
    use super::MetaQuorum;
    let quorum = open_with(disk, LocalOptions::default()).unwrap();
    quorum.propose(crate::metadata::test_support::register(1, 1)).await.unwrap();
    Arc::new(quorum)
}
