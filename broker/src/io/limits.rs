//! What the machine allows us, asked at the start: too little of it shows up weeks later, under
//! load, as an error nobody expects.

use std::{fmt, fs, io};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Open files a broker should be allowed beside its connections: three for each of 4 096 segments.
const SEGMENT_FILES_WANTED: u64 = 3 * 4096;

/// Linux's default of `vm.max_map_count`, enough for thousands of busy partitions.
const MAPS_WANTED: u64 = 65_530;

/// Left of `vm.max_map_count` to the allocator, thread stacks and libraries: half of it.
const MAPS_SHARE: u64 = 2;

/// What the machine allows this process. `None` means no limit, or none that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Open files (`RLIMIT_NOFILE`, soft).
    pub open_files: Option<u64>,
    /// To what that may be raised without privileges (`RLIMIT_NOFILE`, hard).
    pub open_files_max: Option<u64>,
    /// Memory maps (`vm.max_map_count`).
    pub maps: Option<u64>,
    /// Address space in bytes (`RLIMIT_AS`).
    pub address_space: Option<u64>,
    /// Size of a file in bytes (`RLIMIT_FSIZE`); past it the kernel sends SIGXFSZ.
    pub file_len: Option<u64>,
}

/// Something the machine allows too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLow {
    /// Its name, as an administrator knows it.
    pub what: &'static str,
    /// What we have.
    pub have: u64,
    /// What we should have.
    pub want: u64,
    /// What happens otherwise, and what to do.
    pub advice: &'static str,
}

// === impl Limits ===

impl Limits {
    /// Asks the kernel.
    pub fn read() -> Self {
        let files = getrlimit(Resource::Nofile);
        Self {
            open_files: files.current,
            open_files_max: files.maximum,
            maps: fs::read_to_string("/proc/sys/vm/max_map_count")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            address_space: getrlimit(Resource::As).current,
            file_len: getrlimit(Resource::Fsize).current,
        }
    }

    /// How many maps segments may have.
    pub fn segment_maps(&self) -> usize {
        let maps = self.maps.unwrap_or(MAPS_WANTED) / MAPS_SHARE;
        usize::try_from(maps).unwrap_or(usize::MAX)
    }

    /// What is too low for a broker whose segments have `segment_bytes` and that takes so many
    /// `connections`. Warnings, not errors, save what the caller makes of them.
    pub fn too_low(&self, segment_bytes: u64, connections: u64) -> Vec<TooLow> {
        // Each segment that is appended to reserves its addresses ahead.
        const ADDRESSES_WANTED: u64 = 1 << 40;
        let wants = [
            (
                "open files (ulimit -n, LimitNOFILE=)",
                self.open_files,
                connections.saturating_add(SEGMENT_FILES_WANTED),
                "each segment has open files and each client a connection; when they run out, \
                 partitions cannot roll and clients are refused. Raise it",
            ),
            (
                "memory maps (sysctl vm.max_map_count)",
                self.maps,
                MAPS_WANTED,
                "segments beyond it are read and written without maps, which is slower. Raise it",
            ),
            (
                "address space (ulimit -v, LimitAS=)",
                self.address_space,
                ADDRESSES_WANTED,
                "maps reserve addresses, not memory; without them segments are read and written \
                 by plain calls, which is slower. Remove the limit and bound memory by a cgroup",
            ),
            (
                "file size (ulimit -f, LimitFSIZE=)",
                self.file_len,
                segment_bytes.saturating_mul(2),
                "the kernel ends a process that writes past it. Remove the limit or lower \
                 segment.bytes",
            ),
        ];
        wants
            .into_iter()
            .filter_map(|(what, have, want, advice)| {
                let have = have.filter(|have| *have < want)?;
                Some(TooLow { what, have, want, advice })
            })
            .collect()
    }
}

impl fmt::Display for TooLow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, should be at least {}: {}",
            self.what, self.have, self.want, self.advice
        )
    }
}

/// Raises the number of open files to what this process may have without asking anybody; returns
/// it. Soft limits of 1024 are a courtesy to `select(2)`, which we do not call.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_limits_nothing_is_too_low() {
        assert_eq!(Limits::default().too_low(1 << 40, 1000), []);
        assert_eq!(Limits::default().segment_maps(), 32_765);
    }

    #[test]
    fn each_limit_that_is_too_low_is_named_with_what_to_do() {
        let limits = Limits {
            open_files: Some(1024),
            open_files_max: Some(4096),
            maps: Some(1000),
            address_space: Some(1 << 30),
            file_len: Some(100 << 20),
        };
        let text: Vec<String> =
            limits.too_low(256 << 20, 1000).iter().map(|low| low.to_string()).collect();
        assert_eq!(text.len(), 4);
        assert!(text[0].starts_with("open files") && text[0].contains("1024"), "{}", text[0]);
        assert!(text[1].contains("vm.max_map_count"), "{}", text[1]);
        assert!(text[3].contains("segment.bytes"), "{}", text[3]);
        assert_eq!(limits.segment_maps(), 500);
    }

    #[test]
    fn the_number_of_open_files_can_be_raised() {
        let raised = raise_open_files().unwrap();
        assert_eq!(Limits::read().open_files, raised);
    }
}
