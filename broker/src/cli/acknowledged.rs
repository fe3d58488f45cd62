//! What became of the records that `produce` sent: awaited in order, counted, printed if wanted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverrun_client::{Delivery, Error};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    error::{Failure, Result},
    output::{self, Stdout, bytes, counted},
};

/// Printed at once when records come faster than one by one.
const PRINT_BYTES: usize = 32 * 1024;

/// Partitions named in a summary.
const PARTITIONS_SHOWN: usize = 8;

/// A record that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Of the input, from 1.
    pub(crate) line: u64,
    /// Of the value.
    pub(crate) bytes: u64,
    pub(crate) delivery: Delivery,
}

/// What became of them.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) summary: Summary,
    /// The first line whose record was not written.
    pub(crate) failed: Option<(u64, Error)>,
    /// Standard output went away.
    pub(crate) unprinted: Option<Failure>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    records: u64,
    bytes: u64,
    /// First and last offset of each partition; `None` where the broker named none.
    partitions: BTreeMap<u32, Option<(i64, i64)>>,
}

// === impl Acknowledged ===

impl Acknowledged {
    /// Awaits all of them, also after a failure: what was on its way may be written. The first
    /// failure cancels `stop`. With a topic, places are printed as they come.
    pub(crate) async fn all(
        mut sent: mpsc::Receiver<Sent>,
        print: Option<Arc<str>>,
        stop: CancellationToken,
    ) -> Self {
        let mut done = Self { summary: Summary::default(), failed: None, unprinted: None };
        let mut places = Vec::new();
        while let Some(Sent { line, bytes, delivery }) = sent.recv().await {
            let written = match delivery.await {
                Ok(written) => written,
                Err(error) => {
                    stop.cancel();
                    done.failed.get_or_insert((line, error));
                    continue;
                }
            };
            done.summary.add(written.partition(), written.offset(), bytes);
            if let Some(topic) = print.as_ref().filter(|_| done.unprinted.is_none()) {
                let place = place(topic, written.partition(), written.offset());
                places.extend_from_slice(place.as_bytes());
                if (sent.is_empty() || places.len() > PRINT_BYTES)
                    && let Err(failure) = print_all(&mut places)
                {
                    stop.cancel();
                    done.unprinted = Some(failure);
                }
            }
        }
        if done.unprinted.is_none() {
            done.unprinted = print_all(&mut places).err();
        }
        done
    }
}

fn place(topic: &str, partition: u32, offset: Option<i64>) -> String {
    match offset {
        Some(offset) => format!("{topic}[{partition}]@{offset}\n"),
        None => format!("{topic}[{partition}]\n"),
    }
}

fn print_all(lines: &mut Vec<u8>) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut out = Stdout::lock();
    out.bytes(lines)?;
    lines.clear();
    out.flush()
}

// === impl Summary ===

impl Summary {
    fn add(&mut self, partition: u32, offset: Option<i64>, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        let range = self.partitions.entry(partition).or_default();
        if let Some(offset) = offset {
            let (first, last) = range.unwrap_or((offset, offset));
            *range = Some((first.min(offset), last.max(offset)));
        }
    }

    /// `3 records, 12 B to greetings in 4.20 ms: [0]@7 to 8, [2]@0`
    pub(crate) fn line(&self, topic: &str, elapsed: Duration) -> String {
        let mut places: Vec<String> = self
            .partitions
            .iter()
            .take(PARTITIONS_SHOWN)
            .map(|(partition, range)| match range {
                None => format!("[{partition}]"),
                Some((first, last)) if first == last => format!("[{partition}]@{first}"),
                Some((first, last)) => format!("[{partition}]@{first} to {last}"),
            })
            .collect();
        if self.partitions.len() > PARTITIONS_SHOWN {
            places.push(format!("{} partitions more", self.partitions.len() - PARTITIONS_SHOWN));
        }
        let places =
            if places.is_empty() { String::new() } else { format!(": {}", places.join(", ")) };
        format!(
            "{}, {} to {topic} in {}{places}",
            counted(self.records, "record"),
            bytes(self.bytes),
            output::duration(elapsed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_where_records_went() {
        let mut summary = Summary::default();
        let took = Duration::from_micros(4_200);
        assert_eq!(summary.line("t", took), "0 records, 0 B to t in 4.20 ms");
        for (partition, offset) in [(2, Some(0)), (0, Some(7)), (0, Some(8)), (1, None)] {
            summary.add(partition, offset, 3);
        }
        assert_eq!(
            summary.line("t", took),
            "4 records, 12 B to t in 4.20 ms: [0]@7 to 8, [1], [2]@0"
        );
        (0..20).for_each(|partition| summary.add(partition, Some(9), 0));
        assert!(summary.line("t", took).ends_with(", 12 partitions more"));
    }

    #[test]
    fn a_place_is_topic_partition_and_offset() {
        assert_eq!(place("t", 3, Some(17)), "t[3]@17\n");
        assert_eq!(place("t", 3, None), "t[3]\n");
    }
}
