//! A broker's machine: what outlives its process. The disk is the shipped simulated one, which
//! forgets unsynced pages, tears writes, fills up and fails.

use std::{path::Path, sync::Arc, time::Duration};

use riverrun_broker::{
    controller::raft::Voter,
    io::{
        Disk, SyncPoint,
        sim::{PowerCut, SimDisk},
    },
};
use riverrun_proto::{epoch::BrokerEpoch, timestamp::Timestamp};

use crate::{
    member,
    plant::Plant,
    setup::{Metadata, Setup},
};

/// Where partitions are.
pub const DATA: &str = "/data";

/// See the module.
#[derive(Debug)]
pub struct Machine {
    /// As the running process sees it, or the next one will.
    pub disk: SimDisk,
    /// The run whose logs are whole here: known since it registered, until power or a disk is lost.
    pub whole_since: Option<BrokerEpoch>,
    /// The last process closed its logs in order.
    pub is_clean: bool,
    /// What its wall clock is off by, in milliseconds.
    pub skew_ms: i64,
    /// Its name in the metadata quorum, if there is one; another with every disk.
    pub voter: Option<Voter>,
    /// Its disk is about to fail.
    pub is_doomed: bool,
    /// The power goes in the next write of the metadata log, after so many operations.
    pub cut_write: Option<u64>,
    /// How long its disk takes for a piece of work, in microseconds.
    pub work_us: (u64, u64),
    ignored: Option<SyncPoint>,
    disks: u64,
    seed: u64,
    number: usize,
    plant: Option<Plant>,
}

impl Machine {
    /// With an empty disk. `ignored`: a sync that does nothing.
    pub fn new(number: usize, seed: u64, setup: &Setup, ignored: Option<SyncPoint>) -> Self {
        let has_voter = setup.metadata == Metadata::Quorum;
        let work_us = setup.work_us;
        let mut machine = Self {
            disk: SimDisk::new(seed),
            whole_since: None,
            is_clean: false,
            skew_ms: 0,
            voter: has_voter.then(|| member::voter(number, 0, setup.plant)),
            is_doomed: false,
            cut_write: None,
            work_us,
            ignored,
            disks: 0,
            seed,
            number,
            plant: setup.plant,
        };
        machine.replace_disk();
        machine
    }

    /// Another disk, with nothing on it.
    pub fn replace_disk(&mut self) {
        self.disks += 1;
        self.disk = SimDisk::new(self.seed ^ self.disks.wrapping_mul(0x9e37_79b9));
        // It is new: nothing fails on it yet.
        self.disk.create_dir(Path::new(DATA)).expect("an empty disk takes a directory");
        self.disk.sync_dir(Path::new("/"), SyncPoint::DataDir).expect("an empty disk syncs");
        self.whole_since = None;
        self.is_clean = false;
        self.is_doomed = false;
        self.cut_write = None;
        if self.voter.is_some() {
            let voter = member::voter(self.number, self.disks, self.plant);
            member::format(self, voter, self.number == 0 && self.disks == 1);
            self.voter = Some(voter);
        }
        self.hand_over();
    }

    /// The process dies; the page cache lives.
    pub fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.hand_over();
    }

    /// The power goes.
    pub fn power_loss(&mut self, cut: PowerCut) {
        self.disk = self.disk.power_loss(cut);
        self.whole_since = None;
        self.is_clean = false;
        self.hand_over();
    }

    /// Leaves room for this many bytes, or all there is.
    pub fn leave_room(&self, bytes: Option<u64>) {
        let capacity = bytes.map(|bytes| {
            self.disk.set_capacity(Some(u64::MAX / 2));
            let space = self.disk.space(Path::new("/"));
            let used = space.map_or(0, |space| space.total - space.free);
            used + bytes
        });
        self.disk.set_capacity(capacity);
    }

    /// The wall clock.
    pub fn wall(&self, now: Duration) -> Timestamp {
        let ms = i64::try_from(now.as_millis()).expect("runs are short");
        Timestamp::from_millis(1_700_000_000_000 + ms + self.skew_ms)
    }

    /// The disk, for a process.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn hand_over(&self) {
        self.disk.ignore_sync(self.ignored);
    }
}
