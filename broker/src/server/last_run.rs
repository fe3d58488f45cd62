//! Whether what the last run of this broker wrote is all still there, though it was killed.
//!
//! A killed process leaves its pages to the kernel, and as long as the machine was not restarted the
//! kernel has them: the logs are as whole as after a stop in order. So each run notes, once it has
//! registered, its epoch and the boot of the machine it ran on. A later run on the same boot may say
//! to the cluster that nothing was lost since that epoch (replication.md 1.8).
//!
//! The note is not synced. After a power loss it may be old, or garbage, and proves nothing either
//! way: the boot is another. Nor does it prove anything if a run in between registered and did not
//! come so far as to write its own: then the epoch is another.

use std::{fs, io, path::Path};

use riverrun_proto::epoch::BrokerEpoch;

const NOTE: &str = "last-run";
const NOTE_V1: &str = "riverrun last run v1";
/// Longest note that is read.
const NOTE_BYTES_MAX: usize = 4096;
/// Linux draws it at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The run that left the logs of this directory as they are, if the machine has been up since.
pub(super) fn survived(root: &Path) -> Option<BrokerEpoch> {
    let note = fs::read(root.join(NOTE)).ok()?;
    parse(&note, &boot()?)
}

/// Notes that the run registered as `epoch` is about to write.
///
/// # Errors
/// If there is no room. Then there is no proof if this run is killed, and that is all.
pub(super) fn note(root: &Path, epoch: BrokerEpoch) -> io::Result<()> {
    let Some(boot) = boot() else { return Ok(()) };
    let (path, tmp) = (root.join(NOTE), root.join(format!("{NOTE}.tmp")));
    fs::write(&tmp, format!("{NOTE_V1}\nboot {boot}\nepoch {epoch}\n"))?;
    fs::rename(tmp, path)
}

fn parse(note: &[u8], boot: &str) -> Option<BrokerEpoch> {
    let text = std::str::from_utf8(note.get(..note.len().min(NOTE_BYTES_MAX))?).ok()?;
    let rest = text.strip_prefix(NOTE_V1)?.strip_prefix("\nboot ")?.strip_prefix(boot)?;
    let epoch = rest.strip_prefix("\nepoch ")?.strip_suffix('\n')?;
    BrokerEpoch::new(epoch.parse().ok()?)
}

/// Which boot of the machine this is; `None` where no system says so.
fn boot() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(n: i64) -> BrokerEpoch {
        BrokerEpoch::new(n).unwrap()
    }

    #[test]
    fn a_run_on_this_boot_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(survived(dir.path()), None, "nobody ran here");
        for n in [7, 12] {
            note(dir.path(), epoch(n)).unwrap();
            assert_eq!(survived(dir.path()), boot().map(|_| epoch(n)));
        }
    }

    #[test]
    fn another_boot_another_version_and_half_a_note_prove_nothing() {
        let note = format!("{NOTE_V1}\nboot one\nepoch 7\n");
        assert_eq!(parse(note.as_bytes(), "one"), Some(epoch(7)));
        assert_eq!(parse(note.as_bytes(), "two"), None);
        assert_eq!(parse(note.as_bytes(), "on"), None, "half of it is not it");
        for cut in 0..note.len() {
            assert_eq!(parse(&note.as_bytes()[..cut], "one"), None, "{cut}");
        }
        let newer = note.replace("v1", "v2");
        assert_eq!(parse(newer.as_bytes(), "one"), None);
        assert_eq!(parse(&[0; 64], "one"), None, "a page that never came to the disk");
    }
}
