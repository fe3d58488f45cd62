//! How much memory this process may use: the machine's, or less if a cgroup says so.

use std::{fs, path::Path};

use super::units::ByteSize;

/// What is assumed where nothing can be read (no `/proc`): small enough to be harmless.
const UNKNOWN_MEMORY: ByteSize = ByteSize::gib(1);

/// cgroup v1 writes "no limit" as a number near 2⁶³ rounded down to a page.
const NO_LIMIT_FROM: u64 = 1 << 62;

/// The least of the machine's memory and all cgroup limits (v2 and v1) above this process.
pub(super) fn memory() -> ByteSize {
    memory_under(Path::new("/"))
}

/// As [`memory`], with `/proc` and `/sys` under `root`.
fn memory_under(root: &Path) -> ByteSize {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| total_of_meminfo(&text));
    let cgroup = read(&root.join("proc/self/cgroup"))
        .and_then(|text| text.lines().filter_map(|line| limit_of_cgroup(root, line)).min());
    [machine, cgroup].into_iter().flatten().min().unwrap_or(UNKNOWN_MEMORY)
}

/// `MemTotal:       24604232 kB`
fn total_of_meminfo(text: &str) -> Option<ByteSize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize::bytes(kib.checked_mul(1024)?))
}

/// The least limit on the way from this process's cgroup up to the root, for one line of
/// `/proc/self/cgroup`: `0::/system.slice/riverrun.service` (v2) or `9:memory:/docker/…` (v1).
fn limit_of_cgroup(root: &Path, line: &str) -> Option<ByteSize> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|c| c == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    // In a container the path may name a directory of the host that is not visible here; then only
    // the mount itself, which is the container's own cgroup, gives a limit.
    let mount = root.join(mount);
    let own = mount.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|dir| dir.starts_with(&mount))
        .filter_map(|dir| limit_of_file(&read(&dir.join(file))?))
        .min()
}

/// A number of bytes; `max` and v1's huge number are no limit.
fn limit_of_file(text: &str) -> Option<ByteSize> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_FROM).map(ByteSize::bytes)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const EIGHT_GIB: (&str, &str) =
        ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_limit_counts() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], ByteSize);
        let cases: [Case; 7] = [
            ("no cgroup", &[], ByteSize::gib(8)),
            (
                "v2, own group",
                &[
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "2147483648\n"),
                    ("sys/fs/cgroup/a/memory.max", "max\n"),
                ],
                ByteSize::gib(2),
            ),
            (
                "v2, a group above is tighter",
                &[
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "2147483648\n"),
                    ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
                ],
                ByteSize::gib(1),
            ),
            (
                "v2 in a container: the path is the host's",
                &[
                    ("proc/self/cgroup", "0::/docker/0123\n"),
                    ("sys/fs/cgroup/memory.max", "1073741824"),
                ],
                ByteSize::gib(1),
            ),
            (
                "v1",
                &[
                    ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/9\n"),
                    ("sys/fs/cgroup/memory/docker/9/memory.limit_in_bytes", "536870912\n"),
                ],
                ByteSize::mib(512),
            ),
            (
                "v1 without a limit",
                &[
                    ("proc/self/cgroup", "4:memory:/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                ByteSize::gib(8),
            ),
            (
                "more than the machine has",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "99999999999999")],
                ByteSize::gib(8),
            ),
        ];
        for (name, files, expected) in cases {
            let root = machine_with(&[&[EIGHT_GIB], files].concat());
            assert_eq!(memory_under(root.path()), expected, "{name}");
        }
    }

    #[test]
    fn garbage_is_not_believed() {
        let root = machine_with(&[
            ("proc/meminfo", "MemTotal: lots\n"),
            ("proc/self/cgroup", "::\n\n0\n0::/../../..\n"),
        ]);
        assert_eq!(memory_under(root.path()), UNKNOWN_MEMORY);
    }
}
