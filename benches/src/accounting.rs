//! What a run takes of the machine: processor time and memory of the load generator and of the
//! subject, which may be several processes; bytes written to the device. From `/proc` and `/sys`; elsewhere it says that it does not know.

use std::{
    fs,
    iter::Sum,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{major, minor},
    param::clock_ticks_per_second,
};

use crate::{
    outcome::DirtyLimits,
    workload::{Durability, Volume, Workload},
};

/// Sectors of `/sys/block/*/stat` have this size, whatever the device's.
const SECTOR_BYTES: u64 = 512;

/// Field of `/sys/block/*/stat`, from 0: sectors written.
const SECTORS_WRITTEN: usize = 6;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// All of its processes; none: they are not known.
    subject: Vec<u32>,
    device: Option<PathBuf>,
    notes: Vec<String>,
}

/// A reading of all accounts. `None`: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Processor seconds of this process.
    pub generator_cpu_s: Option<f64>,
    /// Processor seconds of the subject, all its processes together.
    pub subject_cpu_s: Option<f64>,
    /// Bytes charged to the subject for writing.
    pub subject_written_bytes: Option<u64>,
    /// Bytes written to the device.
    pub device_written_bytes: Option<u64>,
}

/// Memory of the subject, all its processes added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Most that was resident so far.
    pub resident_bytes_max: Option<u64>,
    /// Resident now, with the pages of mapped files.
    pub resident_bytes: Option<u64>,
    /// Anonymous memory now.
    pub anonymous_bytes: Option<u64>,
}

// === impl Accounts ===

impl Accounts {
    /// Of the processes `subject`, and of the device that `data` is on.
    pub fn of(subject: impl IntoIterator<Item = u32>, data: Option<&Path>) -> Self {
        let subject = Vec::from_iter(subject);
        let mut notes = Vec::new();
        if subject.is_empty() {
            notes.push("the subject's process is not known: no CPU seconds or memory of it".into());
        }
        let device = data.and_then(|data| {
            let device = device_of(data);
            if device.is_none() {
                notes.push(format!(
                    "{} is on no block device of this machine: bytes written to it are unknown",
                    data.display()
                ));
            }
            device
        });
        Self { subject, device, notes }
    }

    /// Of this process alone, and of the device that `data` is on: where nothing else is measured.
    pub fn own(data: &Path) -> Self {
        Self { notes: Vec::new(), subject: Vec::new(), ..Self::of([process::id()], Some(data)) }
    }

    /// What is unknown, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All of it now.
    pub fn read(&self) -> Reading {
        Reading {
            generator_cpu_s: cpu_seconds(process::id()),
            subject_cpu_s: self.of_all(cpu_seconds),
            subject_written_bytes: self.of_all(written_bytes),
            device_written_bytes: self.device.as_deref().and_then(device_written_bytes),
        }
    }

    /// The subject's memory now.
    pub fn memory(&self) -> Memory {
        let field = |name| self.of_all(|id| kib_field(&proc_file(id, "status")?, name));
        Memory {
            resident_bytes_max: field("VmHWM:"),
            resident_bytes: field("VmRSS:"),
            anonymous_bytes: field("RssAnon:"),
        }
    }

    /// Added up over all processes. Without one of them the sum would be too small: unknown.
    fn of_all<T: Sum>(&self, of_one: impl Fn(u32) -> Option<T>) -> Option<T> {
        if self.subject.is_empty() {
            return None;
        }
        self.subject.iter().map(|id| of_one(*id)).sum()
    }
}

// === impl Reading ===

impl Reading {
    /// What came to it since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let seconds = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0));
        let bytes = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            generator_cpu_s: seconds(self.generator_cpu_s, earlier.generator_cpu_s),
            subject_cpu_s: seconds(self.subject_cpu_s, earlier.subject_cpu_s),
            subject_written_bytes: bytes(self.subject_written_bytes, earlier.subject_written_bytes),
            device_written_bytes: bytes(self.device_written_bytes, earlier.device_written_bytes),
        }
    }
}

/// When the kernel writes back and when it makes writers wait: `vm.dirty_*`, of what is available
/// now.
pub fn dirty_limits() -> Option<DirtyLimits> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/vm/{name}")).ok()?.trim().parse().ok()
    };
    let available = kib_field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let limit = |bytes: &str, ratio: &str| match number(bytes)? {
        0 => Some(available / 100 * number(ratio)?),
        bytes => Some(bytes),
    };
    Some(DirtyLimits {
        background_bytes: limit("dirty_background_bytes", "dirty_background_ratio")?,
        throttle_bytes: limit("dirty_bytes", "dirty_ratio")?,
    })
}

/// Bytes that may be written from a clean page cache before the kernel makes writers wait, which it
/// begins halfway between its two limits.
pub fn burst_bytes(limits: DirtyLimits) -> u64 {
    limits.background_bytes / 2 + limits.throttle_bytes / 2
}

/// Where a burst of this workload ends: all its copies are written on this machine. What is synced
/// before it is acknowledged never meets the limit.
pub fn burst(workload: &Workload) -> Option<u64> {
    let bound = workload.volume == Volume::Burst && workload.durability == Durability::Memory;
    let bytes = bound.then(dirty_limits).flatten().map(burst_bytes)?;
    Some(bytes / u64::from(workload.replication_factor))
}

/// Load average of the last minute.
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn proc_file(id: u32, name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{id}/{name}")).ok()
}

fn cpu_seconds(id: u32) -> Option<f64> {
    let ticks = cpu_ticks(&proc_file(id, "stat")?)?;
    Some(ticks as f64 / clock_ticks_per_second() as f64)
}

/// User and system time of `/proc/PID/stat`, in clock ticks.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may contain anything, also spaces and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn written_bytes(id: u32) -> Option<u64> {
    let io = proc_file(id, "io")?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn device_of(data: &Path) -> Option<PathBuf> {
    let device = fs::metadata(data).ok()?.dev();
    let stat = PathBuf::from(format!("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
    stat.exists().then_some(stat)
}

fn device_written_bytes(stat: &Path) -> Option<u64> {
    sectors_written(&fs::read_to_string(stat).ok()?)?.checked_mul(SECTOR_BYTES)
}

fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(SECTORS_WRITTEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 10 0 0 0 250 50 7 7 20 0 4 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (a"), None);
        let block = "  100  5  800  30   200   7  1600  40  0  50  60";
        assert_eq!(sectors_written(block), Some(1600));
        assert_eq!(kib_field("VmHWM:\t    2048 kB\n", "VmHWM:"), Some(2 << 20));
        assert_eq!(kib_field("VmHWM:\t    2048\n", "VmHWM:"), None);
    }

    #[test]
    fn differences_of_unknowns_are_unknown() {
        let earlier = Reading { subject_cpu_s: Some(1.0), ..Reading::default() };
        let later = Reading {
            subject_cpu_s: Some(3.5),
            device_written_bytes: Some(7),
            ..Reading::default()
        };
        let cost = later.since(&earlier);
        assert_eq!(cost.subject_cpu_s, Some(2.5));
        assert_eq!(cost.device_written_bytes, None);
    }

    #[test]
    fn what_is_unknown_is_said() {
        let accounts = Accounts::of(None, Some(Path::new("/proc")));
        assert_eq!(accounts.notes().len(), 2);
        assert_eq!(accounts.read().subject_cpu_s, None);
        assert_eq!(accounts.memory(), Memory::default());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_read() {
        let accounts = Accounts::of([process::id()], None);
        let reading = accounts.read();
        assert!(reading.generator_cpu_s.is_some() && reading.subject_written_bytes.is_some());
        assert!(accounts.memory().resident_bytes_max.unwrap() > 1 << 20);
        let limits = dirty_limits().unwrap();
        assert!(limits.background_bytes <= burst_bytes(limits));
        assert!(burst_bytes(limits) <= limits.throttle_bytes);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn processes_are_added_up_and_one_that_is_gone_leaves_the_sum_unknown() {
        let own = process::id();
        let [once, twice] = [vec![own], vec![own, own]].map(|all| Accounts::of(all, None));
        let resident = |accounts: &Accounts| accounts.memory().resident_bytes_max.unwrap();
        // The most so far never becomes less.
        assert!(resident(&once) < resident(&twice));
        let gone = Accounts::of([own, u32::MAX], None);
        assert_eq!((gone.read().subject_cpu_s, gone.memory()), (None, Memory::default()));
    }

    #[test]
    fn a_burst_ends_halfway_between_the_limits() {
        let limits = DirtyLimits { background_bytes: 100, throttle_bytes: 200 };
        assert_eq!(burst_bytes(limits), 150);
    }
}
