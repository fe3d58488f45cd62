//! What commands print: tables for people, JSON for machines; data on standard output, everything
//! else on standard error.

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::{Failure, Result};

/// Flags of commands whose result is a table or a report.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: OutputFormat,

    /// Same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Which side of a column its cells stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Standard output, buffered. What is left in it is written by [`Stdout::flush`] or on drop.
#[derive(Debug)]
pub(crate) struct Stdout(BufWriter<StdoutLock<'static>>);

// === impl OutputArgs ===

impl OutputArgs {
    /// Whether a machine reads it.
    pub(crate) fn is_json(self) -> bool {
        self.json || self.output == OutputFormat::Json
    }
}

// === impl Stdout ===

impl Stdout {
    /// Takes standard output; there is one at a time.
    pub(crate) fn lock() -> Self {
        Self(BufWriter::with_capacity(64 * 1024, io::stdout().lock()))
    }

    /// A line.
    pub(crate) fn line(&mut self, line: impl Display) -> Result<()> {
        writeln!(self.0, "{line}").map_err(|e| Failure::stdout(&e))
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|e| Failure::stdout(&e))
    }

    /// An indented JSON document.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut self.0, document)
            .map_err(|e| Failure::stdout(&e.into()))?;
        self.line("")
    }

    /// A table without borders, as wide as its cells; nothing but the header if there are no rows.
    pub(crate) fn table(
        &mut self,
        columns: &[(&str, Align)],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<()> {
        self.line(table(columns, rows))
    }

    /// Everything so far is on its way to the reader after this.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.0.flush().map_err(|e| Failure::stdout(&e))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn table(columns: &[(&str, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        .add_rows(rows);
    for (i, (_, align)) in columns.iter().enumerate() {
        let column = table.column_mut(i).expect("the header made as many columns");
        column.set_padding((0, 2));
        if *align == Align::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Whether a person reads what is not the result.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// `1,234,567`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 record`, `1,234 records`
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `999 B`, `1.5 kB`, `200.3 MB`: powers of 1000, as disks and networks are sold.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // What would be shown as 1000.0 is the next unit's 1.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `85 us`, `1.25 ms`, `3.20 s`, `2 min 05 s`: as precise as anybody reads.
pub(crate) fn duration(d: Duration) -> String {
    let us = d.as_micros();
    let seconds = d.as_secs();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", d.as_secs_f64()),
        _ if seconds < 3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        for (n, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), expected);
        }
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(0, "record"), "0 records");
        for (n, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        for (us, expected) in [
            (0, "0 us"),
            (999, "999 us"),
            (1_250, "1.25 ms"),
            (3_200_000, "3.20 s"),
            (125_000_000, "2 min 05 s"),
            (7_320_000_000, "2 h 02 min"),
        ] {
            assert_eq!(duration(Duration::from_micros(us)), expected);
        }
    }

    #[test]
    fn a_table_is_plain_text_in_columns() {
        let columns = [("NAME", Align::Left), ("RECORDS", Align::Right)];
        let rows = [vec!["a".into(), "1".into()], vec!["orders".into(), "12,345".into()]];
        let expected = "NAME    RECORDS\na             1\norders   12,345";
        assert_eq!(table(&columns, rows), expected);
        assert_eq!(table(&columns, []), "NAME  RECORDS");
    }
}
