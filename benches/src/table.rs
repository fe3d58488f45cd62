//! Results for people: what was measured where, a row per run, the ratios, and what must be known
//! to read them.

use std::{collections::BTreeSet, fmt::Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::{
    failover,
    outcome::{Comparison, Document, Latency, Run, Throughput, latency},
    units::{show_bytes_rate, show_nanos, show_rate},
};

/// Columns, and whether they are numbers.
const COLUMNS: [(&str, bool); 13] = [
    ("SUBJECT", false),
    ("ROUND", true),
    ("WRITTEN", true),
    ("READ", true),
    ("RECORDS", true),
    ("LATENCY", false),
    ("P50", true),
    ("P99", true),
    ("P99.9", true),
    ("MAX", true),
    ("CPU s/GB GEN+SUBJECT", true),
    ("DEVICE B/B", true),
    ("ERRORS", true),
];

/// Which latency a row shows: the longest way that was measured.
const SHOWN: [&str; 3] = [latency::END_TO_END, latency::ACK, latency::ROUND_TRIP];

/// All of it.
pub fn text(document: &Document) -> String {
    let mut out = String::new();
    let about = &document.surroundings;
    let commit = about.commit.as_deref().unwrap_or("an unknown commit");
    let _ = writeln!(out, "{}", about.machine.line());
    let _ = write!(out, "riverrun-bench {} of {commit}, {} build", about.version, about.build);
    if let Some(load) = about.load_average {
        let _ = write!(out, ", load average {load:.2} at the start");
    }
    out.push('\n');
    if about.build == "debug" {
        out.push_str("warning: figures of a debug build mean nothing; build with --release\n");
    }
    let mut names: Vec<&str> = Vec::new();
    for run in &document.runs {
        if !names.contains(&run.workload.name.as_str()) {
            names.push(&run.workload.name);
        }
    }
    for name in names {
        let of_name: Vec<&Run> =
            document.runs.iter().filter(|run| run.workload.name == name).collect();
        let _ = write!(out, "\n{name}: {}\n{}\n", of_name[0].workload.line(), table(&of_name));
        let comparisons = document.comparisons.iter().filter(|c| c.workload == name);
        comparisons.for_each(|comparison| _ = writeln!(out, "{}", ratio(comparison)));
        let notes: BTreeSet<&String> = of_name.iter().flat_map(|run| &run.notes).collect();
        notes.iter().for_each(|note| _ = writeln!(out, "note: {note}"));
        let errors: BTreeSet<&String> = of_name.iter().flat_map(|run| &run.errors.first).collect();
        errors.iter().for_each(|error| _ = writeln!(out, "failed: {error}"));
    }
    if !document.restarts.is_empty() {
        out.push('\n');
    }
    for (round, restart) in document.restarts.iter().enumerate() {
        let _ = writeln!(out, "{:>3}  {restart}", round + 1);
    }
    if let Some(summary) = failover::summary(&document.failovers) {
        for (round, failover) in document.failovers.iter().enumerate() {
            let _ = writeln!(out, "{:>3}  {failover}", round + 1);
        }
        let _ = writeln!(out, "{summary}");
    }
    for cell in &document.isr_faults {
        let _ = writeln!(out, "{cell}");
    }
    out
}

fn table(runs: &[&Run]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(COLUMNS.map(|(name, _)| name))
        .add_rows(runs.iter().map(|run| row(run)));
    for (i, (_, number)) in COLUMNS.iter().enumerate() {
        let column = table.column_mut(i).expect("the header made as many columns");
        column.set_padding((0, 2));
        if *number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn row(run: &Run) -> [String; COLUMNS.len()] {
    let none = || "-".to_owned();
    let rate = |t: Option<Throughput>| t.map_or_else(none, |t| show_bytes_rate(t.bytes_per_s));
    let records = run.consumed.or(run.produced);
    let shown = SHOWN.iter().find_map(|name| run.latencies.get(*name).map(|l| (*name, l)));
    let ns = |pick: fn(&Latency) -> u64| shown.map_or_else(none, |(_, l)| show_nanos(pick(l)));
    let per_gb = |value: Option<f64>| value.map_or_else(none, |v| format!("{v:.2}"));
    let cost = &run.cost;
    [
        run.subject.clone(),
        run.round.to_string(),
        rate(run.produced),
        rate(run.consumed),
        records.map_or_else(none, |t| show_rate(t.records_per_s)),
        shown.map_or_else(none, |(name, _)| name.to_owned()),
        ns(|l| l.p50_ns),
        ns(|l| l.p99_ns),
        ns(|l| l.p999_ns),
        ns(|l| l.max_ns),
        format!("{}+{}", per_gb(cost.generator_cpu_s_per_gb), per_gb(cost.subject_cpu_s_per_gb)),
        per_gb(cost.device_bytes_per_byte),
        run.errors.records.to_string(),
    ]
}

/// One line: median, range and rounds; or why it is not told.
pub(crate) fn ratio(comparison: &Comparison) -> String {
    let Comparison { of, to, figure, ratios, median, min, max, yardstick, .. } = comparison;
    let rounds = ratios.len();
    let judged = yardstick.as_ref().filter(|yardstick| yardstick.against != *to);
    if let Some(yardstick) = judged.filter(|yardstick| !yardstick.accepted) {
        return format!(
            "{of} / {to}: refused, {to} reached {:.2} of {} ({} is the least)",
            yardstick.share, yardstick.against, yardstick.least
        );
    }
    let mut line = format!(
        "{of} / {to}, {figure}: median {median:.3} [{min:.3}-{max:.3}] of {rounds} round(s)"
    );
    if let Some(yardstick) = judged {
        line += &format!("; {to} reached {:.2} of {}", yardstick.share, yardstick.against);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Subject, Yardstick};

    fn comparison(accepted: bool) -> Comparison {
        Comparison {
            workload: "w".into(),
            of: Subject::RIVERRUN.into(),
            to: Subject::NULL_SINK.into(),
            figure: "produced_bytes_per_s".into(),
            ratios: vec![0.5, 0.6, 0.7],
            median: 0.6,
            min: 0.5,
            max: 0.7,
            yardstick: Some(Yardstick {
                against: Subject::TCP_UP.into(),
                share: 0.4,
                least: 0.55,
                accepted,
            }),
        }
    }

    #[test]
    fn a_ratio_has_median_range_and_rounds() {
        let line = ratio(&comparison(true));
        assert!(line.contains("median 0.600 [0.500-0.700] of 3 round(s)"), "{line}");
        assert!(line.contains("0.40 of tcp-loopback-up"), "{line}");
    }

    #[test]
    fn a_refused_ratio_is_not_told() {
        let line = ratio(&comparison(false));
        assert!(line.contains("refused") && !line.contains("0.600"), "{line}");
    }
}
