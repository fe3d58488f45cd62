//! A report of results: `report.md` with a table per workload, and plots beside it.

pub mod canvas;
pub mod markdown;
pub mod plots;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{BenchError, Result},
    outcome::Document,
    summary::Group,
};

/// Writes a report of `files` into `dir`. Which files were made, the report first.
///
/// # Errors
/// A file is no result, two have the same name, or the directory cannot be written.
pub fn write(files: &[PathBuf], dir: &Path) -> Result<Vec<PathBuf>> {
    // Everything is read before anything is written.
    let mut stems = BTreeSet::new();
    let mut documents = Vec::new();
    for file in files {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if !stems.insert(stem.clone()) {
            return Err(BenchError::Usage(format!(
                "two results are called {stem}: their plots would overwrite each other, rename one"
            )));
        }
        documents.push((stem, Document::read(file)?));
    }
    fs::create_dir_all(dir).map_err(BenchError::io(format!("making {}", dir.display())))?;
    let report = dir.join("report.md");
    let mut text = "# Results\n\nMedian [lowest - highest] of the rounds. GB is 10^9 bytes of \
                    payload. Ratios carry over from machine to machine, absolute figures do not.\n"
        .to_owned();
    let mut written = vec![report.clone()];
    for (stem, document) in &documents {
        let mut plots = Vec::new();
        for group in Group::all(document) {
            let made = plots::write(&group, dir, &format!("{stem}-{}", group.workload.name))?;
            plots.push(made.iter().filter_map(|file| shown(file)).collect());
            written.extend(made);
        }
        text.push('\n');
        text += &markdown::section(stem, document, &plots);
    }
    fs::write(&report, text).map_err(BenchError::io(format!("writing {}", report.display())))?;
    Ok(written)
}

/// The name under which the report shows a plot: of each pair, the SVG.
fn shown(file: &Path) -> Option<String> {
    let is_svg = file.extension().is_some_and(|extension| extension == "svg");
    is_svg.then(|| file.file_name().map(|name| name.to_string_lossy().into_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::sample;

    #[test]
    fn a_report_has_all_results_and_its_plots_exist() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["a.json", "b.json"].map(|name| dir.path().join(name)).into();
        files.iter().for_each(|file| sample().write(file).unwrap());
        let out = dir.path().join("x/out");
        let written = write(&files, &out).unwrap();
        // Per result: throughput and latency of one workload, throughput of the other, twice each.
        assert_eq!(written.len(), 1 + 2 * 6);
        assert!(written.iter().all(|file| fs::metadata(file).unwrap().len() > 0));
        let text = fs::read_to_string(&written[0]).unwrap();
        assert!(text.contains("## a\n") && text.contains("## b\n"));
        for plot in text.lines().filter_map(|line| line.strip_prefix("![")) {
            let (name, _) = plot.split_once(']').unwrap();
            assert!(out.join(name).exists(), "{name}");
        }
        assert_eq!(text.matches("![").count(), 6);
    }

    #[test]
    fn nothing_is_written_if_something_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("a.json");
        sample().write(&good).unwrap();
        let out = dir.path().join("out");
        let same = dir.path().join("x").join("a.json");
        fs::create_dir(same.parent().unwrap()).unwrap();
        sample().write(&same).unwrap();
        let error = write(&[good.clone(), same], &out).unwrap_err().to_string();
        assert!(error.contains("called a"), "{error}");
        assert!(write(&[good, dir.path().join("none.json")], &out).is_err());
        assert!(!out.exists());
    }
}
