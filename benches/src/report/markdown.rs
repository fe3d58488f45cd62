//! What was measured, as Markdown: where, a table per workload with median and range over the
//! rounds, the ratios, the settings and what must be known to read them.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    outcome::{Document, Latency, Run, latency},
    statistics::Spread,
    summary::{Group, Row},
    table,
    units::{show_bytes_rate, show_nanos, show_rate},
};

/// Columns; all but the first are numbers.
const COLUMNS: [&str; 10] = [
    "subject",
    "rounds",
    "written",
    "read",
    "records",
    "p50",
    "p99",
    "p99.9",
    "CPU s/GB, load + subject",
    "device bytes per byte",
];

/// Which latency a row shows: the longest way that was measured.
const SHOWN: [&str; 3] = [latency::END_TO_END, latency::ACK, latency::ROUND_TRIP];

/// A section of a report: `title`, and `plots` of each workload by their file names.
pub fn section(title: &str, document: &Document, plots: &[Vec<String>]) -> String {
    let about = &document.surroundings;
    let mut out = format!("## {title}\n\n{}\n\n", about.machine.line());
    let commit = about.commit.as_deref().unwrap_or("an unknown commit");
    let _ = write!(out, "riverrun-bench {} of {commit}, {} build", about.version, about.build);
    let _ = write!(out, ", {}", document.started);
    if let Some(load) = about.load_average {
        let _ = write!(out, ", load average {load:.2} at the start");
    }
    let _ = writeln!(out, "\n\n```\n{}\n```", command_line(&document.command));
    if about.build == "debug" {
        out += "\n**Figures of a debug build mean nothing.**\n";
    }
    for (group, plots) in Group::all(document).iter().zip(plots) {
        workload(&mut out, group, plots);
    }
    out
}

fn workload(out: &mut String, group: &Group<'_>, plots: &[String]) {
    let _ = writeln!(out, "\n### {}\n\n{}\n", group.workload.name, group.workload.line());
    let _ = writeln!(out, "| {} |", COLUMNS.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(COLUMNS.len() - 1));
    for row in &group.rows {
        let _ = writeln!(out, "| {} |", cells(row).join(" | "));
    }
    out.push('\n');
    for comparison in &group.comparisons {
        let _ = writeln!(out, "- {}", table::ratio(comparison));
    }
    for plot in plots {
        let _ = writeln!(out, "\n![{plot}]({plot})");
    }
    out.push('\n');
    for row in group.rows.iter().filter(|row| !row.runs[0].settings.is_empty()) {
        let _ = writeln!(out, "- settings: {}", row.settings());
    }
    let runs = || group.rows.iter().flat_map(|row| &row.runs);
    let notes: BTreeSet<&String> = runs().flat_map(|run| &run.notes).collect();
    notes.iter().for_each(|note| _ = writeln!(out, "- note: {note}"));
    let failed: u64 = runs().map(|run| run.errors.records).sum();
    if failed > 0 {
        let first: BTreeSet<&String> = runs().flat_map(|run| &run.errors.first).collect();
        let kinds = first.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join("; ");
        let _ = writeln!(out, "- **{failed} records failed**: {kinds}");
    }
}

fn cells(row: &Row<'_>) -> [String; COLUMNS.len()] {
    let none = || "-".to_owned();
    let shown = |spread: Option<Spread>, show: &dyn Fn(f64) -> String| {
        spread.map_or_else(none, |Spread { median, min, max }| match row.runs.len() {
            1 => show(median),
            _ => format!("{} [{} - {}]", show(median), show(min), show(max)),
        })
    };
    let name = SHOWN.into_iter().find(|name| row.runs[0].latencies.contains_key(*name));
    let of = |pick: fn(&Latency) -> u64| {
        let spread = row.spread(|run| Some(pick(run.latencies.get(name?)?) as f64));
        shown(spread, &|ns| show_nanos(ns as u64))
    };
    let median = |figure: fn(&Run) -> Option<f64>| {
        row.spread(figure).map_or_else(none, |spread| format!("{:.2}", spread.median))
    };
    [
        row.subject.to_owned(),
        row.runs.len().to_string(),
        shown(row.spread(|run| run.produced.map(|t| t.bytes_per_s)), &show_bytes_rate),
        shown(row.spread(|run| run.consumed.map(|t| t.bytes_per_s)), &show_bytes_rate),
        shown(row.spread(|run| run.consumed.or(run.produced).map(|t| t.records_per_s)), &show_rate),
        of(|l| l.p50_ns),
        of(|l| l.p99_ns),
        of(|l| l.p999_ns),
        format!(
            "{} + {}",
            median(|run| run.cost.generator_cpu_s_per_gb),
            median(|run| run.cost.subject_cpu_s_per_gb)
        ),
        median(|run| run.cost.device_bytes_per_byte),
    ]
}

/// As it would be typed again, without the place of the program.
fn command_line(command: &[String]) -> String {
    let [_, arguments @ ..] = command else { return String::new() };
    let quoted = arguments.iter().map(|argument| match argument.contains([' ', '\'', '"', '$']) {
        true => format!("'{}'", argument.replace('\'', "'\\''")),
        false => argument.clone(),
    });
    ["riverrun-bench".to_owned()].into_iter().chain(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::sample;

    #[test]
    fn the_table_has_median_and_range_and_the_ratio() {
        let plots = [vec!["a.svg".to_owned()], vec![]];
        let text = section("kafka", &sample(), &plots);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert!(rows[1].contains("riverrun | 3 | 1.00 GB/s [900 MB/s - 1.25 GB/s] | - | 1.00 M/s"));
        assert!(rows[1].contains("| 0.75 + 0.50 |"), "{}", rows[1]);
        assert!(rows[2].contains("kafka | 3 | 250 MB/s [225 MB/s - 312 MB/s]"), "{}", rows[2]);
        assert!(rows[2].contains("4.00 ms") && rows[2].contains("20.0 ms"), "{}", rows[2]);
        assert!(rows.iter().any(|row| row.contains("riverrun | 1 | - | 2.00 GB/s")), "{rows:?}");
        assert!(rows.iter().all(|row| row.matches(" | ").count() == COLUMNS.len() - 1));
        assert!(text.contains("- riverrun / kafka, produced_bytes_per_s: median 4.000"));
        for shown in ["![a.svg](a.svg)", "broker.jvm=-Xmx1G", "note: kafka: whole", "abc123"] {
            assert!(text.contains(shown), "{shown}");
        }
        assert!(text.contains("\nriverrun-bench compare kafka\n"), "{text}");
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let command = ["/x/riverrun-bench", "produce", "--dir", "a b", "it's"].map(String::from);
        assert_eq!(command_line(&command), r"riverrun-bench produce --dir 'a b' 'it'\''s'");
    }
}
