//! The machine a figure was measured on: without it the figure says nothing.

use std::{fs, path::Path, thread};

use serde::{Deserialize, Serialize};

/// What matters about a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel and its version.
    pub system: String,
    /// The processor's name.
    pub cpu: String,
    /// Threads this process may use.
    pub cpus: usize,
    /// Of the machine; `None` where nobody says.
    pub memory_bytes: Option<u64>,
    /// That of the data directory.
    pub file_system: String,
}

// === impl Machine ===

impl Machine {
    /// This one, with data in `dir`.
    pub fn here(dir: &Path) -> Self {
        let system = rustix::system::uname();
        Self {
            system: format!(
                "{} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy()
            ),
            cpu: cpu().unwrap_or_else(|| system.machine().to_string_lossy().into_owned()),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(),
            file_system: file_system(dir),
        }
    }

    /// Whether what is synced there lies in memory all the same.
    pub fn is_memory_only(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let memory = self.memory_bytes.map_or(String::new(), |bytes| {
            format!(", {:.1} GiB of memory", bytes as f64 / f64::from(1 << 30))
        });
        let Self { system, cpu, cpus, file_system, .. } = self;
        format!("{system}, {cpus} x {cpu}{memory}, data on {file_system}")
    }
}

fn cpu() -> Option<String> {
    let about = fs::read_to_string("/proc/cpuinfo").ok()?;
    cpu_of(&about).map(str::to_owned)
}

fn cpu_of(about: &str) -> Option<&str> {
    let (_, name) = about.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| {
        let key = key.trim();
        key == "model name" || key == "Model"
    })?;
    Some(name.trim())
}

fn memory_bytes() -> Option<u64> {
    memory_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_of(about: &str) -> Option<u64> {
    let rest = about.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(target_os = "linux")]
fn file_system(dir: &Path) -> String {
    /// statfs(2) and linux/magic.h.
    const KINDS: [(u64, &str); 12] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0x794c_7630, "overlayfs"),
        (0x6969, "nfs"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "fuse"),
        (0x6a65_6a63, "virtiofs"),
    ];
    let Ok(about) = rustix::fs::statfs(dir) else { return "an unknown file system".into() };
    // The field's width and sign differ between architectures; the magic has 32 bits.
    let magic = about.f_type as u64 & 0xffff_ffff;
    KINDS
        .iter()
        .find(|(kind, _)| *kind == magic)
        .map_or_else(|| format!("file system {magic:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> String {
    "an unknown file system".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        assert_eq!(
            cpu_of("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n"),
            Some("Some CPU @ 2GHz")
        );
        assert_eq!(cpu_of("processor : 0\nModel\t\t: Board 5\n"), Some("Board 5"));
        assert_eq!(cpu_of(""), None);
        assert_eq!(memory_of("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(memory_of("MemTotal: lots"), None);
    }

    #[test]
    fn this_machine_has_a_line() {
        let machine = Machine::here(&std::env::temp_dir());
        assert!(machine.cpus >= 1);
        let line = machine.line();
        assert!(
            line.contains(" x ") && line.contains("data on ") && !line.contains('\n'),
            "{line}"
        );
        let proc = Machine { file_system: "tmpfs".into(), ..machine };
        assert!(proc.is_memory_only());
    }
}
