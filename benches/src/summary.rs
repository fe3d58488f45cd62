//! The runs of a document put together: per workload and subject, with median and range over the
//! rounds.

use std::fmt::Write as _;

use crate::{
    outcome::{Comparison, Document, Run},
    statistics::Spread,
    workload::Workload,
};

/// All of one workload.
#[derive(Debug)]
pub struct Group<'a> {
    /// As the first of them did it.
    pub workload: &'a Workload,
    /// In the order in which they were measured.
    pub rows: Vec<Row<'a>>,
    /// Ratios between them.
    pub comparisons: Vec<&'a Comparison>,
}

/// All runs of one subject.
#[derive(Debug)]
pub struct Row<'a> {
    /// What it is called.
    pub subject: &'a str,
    /// By round; never empty.
    pub runs: Vec<&'a Run>,
}

// === impl Group ===

impl<'a> Group<'a> {
    /// The workloads of a document, in order.
    pub fn all(document: &'a Document) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for run in &document.runs {
            let name = &run.workload.name;
            let at = groups.iter().position(|group| group.workload.name == *name);
            let at = at.unwrap_or_else(|| {
                let comparisons = document.comparisons.iter().filter(|c| c.workload == *name);
                groups.push(Self {
                    workload: &run.workload,
                    rows: Vec::new(),
                    comparisons: comparisons.collect(),
                });
                groups.len() - 1
            });
            let rows = &mut groups[at].rows;
            match rows.iter_mut().find(|row| row.subject == run.subject) {
                Some(row) => row.runs.push(run),
                None => rows.push(Row { subject: &run.subject, runs: vec![run] }),
            }
        }
        groups
    }
}

// === impl Row ===

impl Row<'_> {
    /// A figure over the rounds; `None` if no run has it.
    pub fn spread(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        let values: Vec<f64> = self.runs.iter().filter_map(|run| figure(run)).collect();
        Spread::of(&values)
    }

    /// Version and settings in one line.
    pub fn settings(&self) -> String {
        let run = self.runs[0];
        let mut line = self.subject.to_owned();
        if let Some(version) = &run.subject_version {
            let _ = write!(line, " {version}");
        }
        let settings: Vec<String> = run.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        match settings.is_empty() {
            true => line + ": defaults",
            false => line + ": " + &settings.join(", "),
        }
    }
}

/// What each subject was told, for people.
pub fn settings(document: &Document) -> String {
    let mut text = String::new();
    for group in Group::all(document) {
        let _ = writeln!(text, "\nsettings of {}", group.workload.name);
        group.rows.iter().for_each(|row| _ = writeln!(text, "  {}", row.settings()));
    }
    text
}

#[cfg(test)]
#[path = "summary_test.rs"]
pub(crate) mod tests;
