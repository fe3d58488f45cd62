//! Which file systems may be written to through a map.
//!
//! A store into a map cannot fail, it can only kill: on a full disk, or when a server is gone, it is
//! a SIGBUS. So a file system is mapped only if it is known that blocks which `fallocate` reserved
//! stay reserved, and that nobody but this machine changes the file. All others, known or not, get
//! plain reads and writes; that is slower and always right.

use std::{fmt, fs, io};

/// Whether files on a file system may be mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// Yes.
    Safe,
    /// No, plain reads and writes are used; the text says why, for a line in the log.
    Unsafe(String),
}

/// Numbers of `statfs(2)`, the name, and what is wrong with maps there (`None`: nothing).
const KNOWN: [(u64, &str, Option<&str>); 18] = [
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x0102_1994, "tmpfs", None),
    (0x8584_58f6, "ramfs", None),
    (0x9123_683e, "btrfs", Some(COPY_ON_WRITE)),
    (0xca45_1a4e, "bcachefs", Some(COPY_ON_WRITE)),
    (0x2fc1_2fc1, "zfs", Some(COPY_ON_WRITE)),
    (0xf2f5_2010, "f2fs", Some(COPY_ON_WRITE)),
    (0x794c_7630, "overlayfs", Some("what lies below it is unknown: use a volume")),
    (0x6573_5546, "fuse", Some(USER_SPACE)),
    (0x6a65_6a63, "virtiofs", Some(USER_SPACE)),
    (0x0102_1997, "9p", Some(REMOTE)),
    (0x6969, "nfs", Some(REMOTE)),
    (0xff53_4d42, "cifs", Some(REMOTE)),
    (0xfe53_4d42, "smb2", Some(REMOTE)),
    (0x517b, "smb", Some(REMOTE)),
    (0x00c3_6400, "ceph", Some(REMOTE)),
    (0x5346_414f, "afs", Some(REMOTE)),
];

const COPY_ON_WRITE: &str =
    "it writes every change to a new place, so reserved space may still run out";
const USER_SPACE: &str = "a process serves it, whose death or error would end ours";
const REMOTE: &str = "another machine serves it, whose absence would end our process";

/// Whether a file may be mapped where it lies.
pub(super) fn mapping_of(file: &fs::File) -> io::Result<Mapping> {
    #[cfg(target_os = "linux")]
    {
        let kind = rustix::fs::fstatfs(file)?.f_type;
        // The kernel's type is a signed or unsigned word, by architecture; the numbers have 32 bits.
        Ok(mapping_of_kind((kind as u64) & 0xffff_ffff))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Ok(Mapping::Unsafe("maps are used on Linux only".to_owned()))
    }
}

fn mapping_of_kind(kind: u64) -> Mapping {
    match KNOWN.iter().find(|(number, _, _)| *number == kind) {
        Some((_, _, None)) => Mapping::Safe,
        Some((_, name, Some(why))) => Mapping::Unsafe(format!("file system {name}: {why}")),
        None => Mapping::Unsafe(format!(
            "file system {kind:#x} is not among those known to keep reserved space reserved"
        )),
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Safe => f.write_str("segment files are mapped"),
            Self::Unsafe(why) => write!(f, "segment files are not mapped ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_safe_is_mapped() {
        assert_eq!(mapping_of_kind(0xef53), Mapping::Safe);
        for (kind, word) in [(0x6969, "nfs"), (0x9123_683e, "btrfs"), (0x1234, "0x1234")] {
            let text = mapping_of_kind(kind).to_string();
            assert!(text.contains("not mapped") && text.contains(word), "{text}");
        }
    }

    #[test]
    fn each_number_stands_there_once() {
        for (index, (kind, name, _)) in KNOWN.iter().enumerate() {
            assert!(KNOWN[index + 1..].iter().all(|(other, _, _)| other != kind), "{name}");
        }
    }
}
