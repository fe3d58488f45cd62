//! Workloads by name, checked in below `benches/workloads` and built into the program; and by file.

use std::{fs, path::Path};

use crate::{
    error::{BenchError, Result},
    omb::{self, Loaded},
    workload::Workload,
};

/// A file of `benches/workloads`.
macro_rules! named {
    ($($name:literal $set:ident,)*) => {
        [$(Named {
            name: $name,
            set: Set::$set,
            toml: include_str!(concat!("../workloads/", $name, ".toml")),
        },)*]
    };
}

/// All of them, in the order of a suite.
pub const NAMED: &[Named] = &named![
    "produce-1k-memory" Standard,
    "produce-1k-disk" Standard,
    "produce-1k-memory-1000-partitions" Standard,
    "send-1k-memory" Standard,
    "send-100b-memory" Standard,
    "send-1k-disk" Standard,
    "consume-1k" Standard,
    "read-1k" Standard,
    "read-100b" Standard,
    "consume-1k-cold" Standard,
    "produce-consume-1k-memory" Standard,
    "end-to-end-1k-memory" Standard,
    "end-to-end-1k-disk" Standard,
    "produce-1k-sustained" Long,
    "overload-5m" Long,
    "produce-1k-memory-rf3" Cluster,
    "produce-1k-disk-rf3" Cluster,
    "consume-1k-rf3" Cluster,
    "produce-consume-1k-memory-rf3" Cluster,
];

/// A workload that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// What it is called: its file's name.
    pub name: &'static str,
    /// Whether a suite without names has it.
    pub set: Set,
    toml: &'static str,
}

/// Of which suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Run when nothing is named: seconds each.
    Standard,
    /// Run when named: minutes each.
    Long,
    /// Run when named: on several brokers.
    Cluster,
}

// === impl Named ===

impl Named {
    /// The workload.
    ///
    /// # Errors
    /// The file is wrong, which a test rules out.
    pub fn workload(&self) -> Result<Workload> {
        Workload::from_toml(self.toml)
    }

    /// The first line of its file's comment: what it is for.
    pub fn purpose(&self) -> &'static str {
        self.toml.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

/// A workload by name, or by the path of a TOML file of ours or a YAML file of the OpenMessaging
/// benchmark.
///
/// # Errors
/// There is none of that name, the file cannot be read, or it is wrong.
pub fn load(name_or_path: &str) -> Result<Loaded> {
    if let Some(named) = NAMED.iter().find(|named| named.name == name_or_path) {
        return Ok(Loaded { workload: named.workload()?, notes: Vec::new() });
    }
    let path = Path::new(name_or_path);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let Some(extension @ ("toml" | "yaml" | "yml")) = extension else {
        return Err(BenchError::Usage(format!(
            "no workload is called {name_or_path:?}; see what there is: riverrun-bench suite \
             --list. A file ends in .toml, or in .yaml for the OpenMessaging benchmark"
        )));
    };
    let text =
        fs::read_to_string(path).map_err(BenchError::io(format!("reading {name_or_path}")))?;
    let loaded = match extension {
        "toml" => Workload::from_toml(&text).map(|workload| Loaded { workload, notes: vec![] }),
        _ => omb::read(&text),
    };
    loaded.map_err(|e| BenchError::Usage(format!("{name_or_path}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_built_in_can_be_run_and_says_what_it_is_for() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let files: BTreeSet<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let built_in: BTreeSet<String> =
            NAMED.iter().map(|named| format!("{}.toml", named.name)).collect();
        assert_eq!(files, built_in);
        for named in NAMED {
            assert_eq!(named.workload().unwrap().name, named.name);
            assert!(named.toml.starts_with("# ") && named.purpose().len() > 20, "{}", named.name);
        }
    }

    #[test]
    fn names_and_files_of_both_kinds_are_found() {
        assert_eq!(load("consume-1k").unwrap().workload.name, "consume-1k");
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let ours = write("a.toml", "name = 'mine'");
        assert_eq!(load(&ours).unwrap().workload.name, "mine");
        let theirs = "name: theirs\ntopics: 1\npartitionsPerTopic: 1\nmessageSize: 100\n\
                      producersPerTopic: 1\n";
        let loaded = load(&write("a.yaml", theirs)).unwrap();
        assert_eq!(loaded.workload.name, "theirs");
        assert!(!loaded.notes.is_empty());
        for (wrong, says) in [
            ("consume-2k".to_owned(), "--list"),
            ("/no/such.toml".to_owned(), "/no/such.toml"),
            (write("b.toml", "partitions = 0"), "b.toml"),
            (write("b.yml", "name: x"), "b.yml"),
            (write("a.json", "{}"), "OpenMessaging"),
        ] {
            let error = load(&wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
