//! Did everything arrive, once, unchanged and in order? What one side wrote and what the other side
//! read are counted independently, from the lines and from the records, and compared at the end.
//!
//! | checked | how |
//! |---|---|
//! | order per key, loss, duplicates | line `n` has key `n mod 1024`; a header carries `n`; per key the numbers must rise by 1024 |
//! | count and bytes | counted on both sides |
//! | content | sum of a 128-bit hash over each (line number, line): does not depend on order |
//! | each partition as a whole | a hash chained in order of offsets: of what was acknowledged, and of what was read |
//! | offsets | both sides see 0, 1, 2, … in every partition |
//!
//! The hash is XXH3-128: it finds every accident, not an attacker.

use std::collections::BTreeSet;

use twox_hash::XxHash3_128;

/// Keys over which lines are spread. Enough for all partitions to get their share, few enough that
/// each key has an order to check in a small file.
pub(super) const KEYS: u64 = 1024;

/// Missing lines that are remembered one by one, to tell late ones from lost ones. A run that loses
/// more has failed anyway; the rest is only counted.
const MISSING_MAX: usize = 100_000;

/// Makes the chain depend on order. Odd, so that no step loses bits.
const CHAIN_FACTOR: u128 = 0x2d99_787d_95ad_b8b1_a7d9_9c8f_6c62_1f4b;

/// What was there in all, whatever its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    /// Of the lines, without their ends.
    pub(super) bytes: u64,
    /// Sum of all fingerprints.
    pub(super) content: u128,
}

/// One partition in order of its offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) records: u64,
    /// The offset that has to come next; the demo's topic is new, so the first is 0.
    pub(super) next_offset: i64,
    hash: u128,
    /// Records whose offset was not the next one.
    pub(super) offset_jumps: u64,
}

/// The reading side.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) tally: Tally,
    pub(super) partitions: Vec<Chain>,
    keys: Vec<KeyOrder>,
    missing: BTreeSet<u64>,
    /// Missing ones beyond those that are remembered.
    missing_uncounted: u64,
    late: u64,
    first_late: Option<u64>,
    duplicates: u64,
    first_duplicate: Option<u64>,
    strangers: u64,
}

/// The line number that has to come next for a key.
#[derive(Clone, Copy, Debug)]
struct KeyOrder {
    next: u64,
}

/// Identity of a line: its place and its bytes.
pub(super) fn fingerprint(number: u64, line: &[u8]) -> u128 {
    XxHash3_128::oneshot_with_seed(number, line)
}

// === impl Tally ===

impl Tally {
    /// One more.
    pub(super) fn add(&mut self, fingerprint: u128, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
        self.content = self.content.wrapping_add(fingerprint);
    }
}

// === impl Chain ===

impl Chain {
    /// The next one in order.
    pub(super) fn add(&mut self, offset: i64, fingerprint: u128) {
        if offset != self.next_offset {
            self.offset_jumps += 1;
        }
        self.next_offset = offset.saturating_add(1);
        self.records += 1;
        self.hash = self.hash.wrapping_mul(CHAIN_FACTOR).wrapping_add(fingerprint);
    }
}

// === impl Observed ===

impl Observed {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            tally: Tally::default(),
            partitions: vec![Chain::default(); partitions as usize],
            keys: (0..KEYS).map(|next| KeyOrder { next }).collect(),
            missing: BTreeSet::new(),
            missing_uncounted: 0,
            late: 0,
            first_late: None,
            duplicates: 0,
            first_duplicate: None,
            strangers: 0,
        }
    }

    /// A record was read. `number` is its line's, from 0; `None` if it carries none.
    pub(super) fn record(
        &mut self,
        (partition, offset): (u32, i64),
        key: Option<&[u8]>,
        number: Option<u64>,
        line: &[u8],
    ) {
        let fingerprint = fingerprint(number.unwrap_or(u64::MAX), line);
        self.tally.add(fingerprint, line.len());
        if let Some(chain) = self.partitions.get_mut(partition as usize) {
            chain.add(offset, fingerprint);
        }
        match number {
            Some(number) if key == Some(key_of(number).as_bytes()) => self.place(number),
            _ => self.strangers += 1,
        }
    }

    fn place(&mut self, number: u64) {
        let order = &mut self.keys[(number % KEYS) as usize];
        if number < order.next {
            if self.missing.remove(&number) {
                self.late += 1;
                self.first_late.get_or_insert(number);
            } else {
                self.duplicates += 1;
                self.first_duplicate.get_or_insert(number);
            }
            return;
        }
        let skipped = (number - order.next) / KEYS;
        let room = (MISSING_MAX - self.missing.len()) as u64;
        self.missing.extend((0..skipped.min(room)).map(|i| order.next + i * KEYS));
        self.missing_uncounted += skipped.saturating_sub(room);
        order.next = number + KEYS;
    }

    /// Lines below `lines` that never came, and the first of them.
    fn lost(&self, lines: u64) -> (u64, Option<u64>) {
        let unreached = |order: &&KeyOrder| order.next < lines;
        let after = |order: &KeyOrder| (lines - order.next).div_ceil(KEYS);
        let tail = self.keys.iter().filter(unreached).map(after).sum::<u64>();
        let first = self.keys.iter().filter(unreached).map(|order| order.next).min();
        let first = first.into_iter().chain(self.missing.first().copied()).min();
        (self.missing.len() as u64 + self.missing_uncounted + tail, first)
    }
}

/// Everything that is wrong, in words; nothing if the two sides agree.
pub(super) fn faults(written: &Tally, acked: &[Chain], read: &Observed) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |count: u64, what: &str, first: Option<u64>| {
        if count > 0 {
            // People count lines from 1.
            let first = first.map_or(String::new(), |n| format!(", the first is line {}", n + 1));
            faults.push(format!("{count} {what}{first}"));
        }
    };
    let (lost, first_lost) = read.lost(written.records);
    fault(lost, "lost", first_lost);
    fault(read.duplicates, "read twice", read.first_duplicate);
    fault(read.late, "out of order within their key", read.first_late);
    fault(read.strangers, "with another key or number than was written", None);
    if written.records != read.tally.records {
        faults.push(format!("{} written, {} read", written.records, read.tally.records));
    }
    if (written.bytes, written.content) != (read.tally.bytes, read.tally.content) {
        faults.push(format!(
            "content differs: {} bytes with hash {:032x} written, {} bytes with hash {:032x} read",
            written.bytes, written.content, read.tally.bytes, read.tally.content
        ));
    }
    let acked_records: u64 = acked.iter().map(|chain| chain.records).sum();
    if acked_records != written.records {
        faults.push(format!("{} written, {acked_records} acknowledged", written.records));
    }
    for (i, (acked, read)) in acked.iter().zip(&read.partitions).enumerate() {
        for (side, chain) in [("acknowledged", acked), ("read", read)] {
            if chain.offset_jumps > 0 {
                let jumps = chain.offset_jumps;
                faults.push(format!(
                    "partition {i}: offsets {side} are not 0, 1, 2, … ({jumps} jumps)"
                ));
            }
        }
        if (acked.records, acked.hash) != (read.records, read.hash) {
            faults.push(format!(
                "partition {i}: what was acknowledged ({} records) is not what was read ({})",
                acked.records, read.records
            ));
        }
    }
    faults
}

/// The key of a line.
pub(super) fn key_of(number: u64) -> String {
    format!("key-{:04}", number % KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: u32 = 3;

    /// A record on its way, as the log would hold it.
    #[derive(Clone, Debug)]
    struct Stored {
        number: u64,
        key: String,
        line: Vec<u8>,
    }

    /// A log of three partitions, filled rightly.
    fn log(lines: u64) -> Vec<Vec<Stored>> {
        let mut log = vec![Vec::new(); PARTITIONS as usize];
        for number in 0..lines {
            let line = format!("line {}", number / 7).into_bytes();
            let partition = (number % KEYS % u64::from(PARTITIONS)) as usize;
            log[partition].push(Stored { number, key: key_of(number), line });
        }
        log
    }

    /// What the writer says of the log as it should be, and the reader of `read`.
    fn compare(lines: u64, read: &[Vec<Stored>]) -> Vec<String> {
        let mut written = Tally::default();
        let mut acked = vec![Chain::default(); PARTITIONS as usize];
        for (partition, records) in log(lines).iter().enumerate() {
            for (offset, stored) in (0..).zip(records) {
                let fingerprint = fingerprint(stored.number, &stored.line);
                written.add(fingerprint, stored.line.len());
                acked[partition].add(offset, fingerprint);
            }
        }
        let mut observed = Observed::new(PARTITIONS);
        for (partition, records) in (0..).zip(read) {
            for (offset, stored) in (0..).zip(records) {
                let (key, number) = (Some(stored.key.as_bytes()), Some(stored.number));
                observed.record((partition, offset), key, number, &stored.line);
            }
        }
        faults(&written, &acked, &observed)
    }

    /// Faults after `plant` was done to a log of 10,000 lines.
    fn planted(plant: impl FnOnce(&mut Vec<Vec<Stored>>)) -> String {
        let mut log = log(10_000);
        plant(&mut log);
        compare(10_000, &log).join("; ")
    }

    #[test]
    fn a_right_run_has_no_faults() {
        for lines in [0, 1, 1023, 1024, 1025, 10_000] {
            assert_eq!(compare(lines, &log(lines)), Vec::<String>::new(), "{lines} lines");
        }
    }

    #[test]
    fn a_lost_record_is_named() {
        let found = planted(|log| _ = log[1].remove(700));
        assert!(found.contains("1 lost, the first is line"), "{found}");
        assert!(found.contains("10000 written, 9999 read"), "{found}");
        assert!(found.contains("partition 1:") && !found.contains("partition 0:"), "{found}");
        let tail = planted(|log| log[2].truncate(3000));
        assert!(tail.contains(" lost"), "{tail}");
        let all = planted(|log| log.iter_mut().for_each(Vec::clear));
        assert!(all.contains("10000 lost, the first is line 1;"), "{all}");
    }

    #[test]
    fn a_duplicate_is_named() {
        let found = planted(|log| {
            let twice = log[0][10].clone();
            let number = twice.number;
            log[0].push(twice);
            assert_eq!(number, 30);
        });
        assert!(found.contains("1 read twice, the first is line 31"), "{found}");
        assert!(!found.contains("lost"), "{found}");
    }

    #[test]
    fn a_swap_within_a_key_is_named_and_one_between_keys_still_fails_its_partition() {
        let found = planted(|log| {
            let of_key_3: Vec<usize> =
                (0..log[0].len()).filter(|i| log[0][*i].key == "key-0003").take(2).collect();
            log[0].swap(of_key_3[0], of_key_3[1]);
        });
        assert!(found.contains("1 out of order within their key"), "{found}");
        assert!(!found.contains("lost") && !found.contains("content differs"), "{found}");
        let found = planted(|log| log[0].swap(0, 1));
        assert_eq!(found.matches("partition 0: what was acknowledged").count(), 1, "{found}");
        assert!(!found.contains("out of order"), "{found}");
    }

    #[test]
    fn a_changed_byte_or_two_lines_exchanged_change_the_content() {
        let found = planted(|log| log[2][5].line[0] ^= 1);
        assert!(found.contains("content differs"), "{found}");
        let found = planted(|log| {
            let (a, b) = (log[0][0].line.clone(), log[0][500].line.clone());
            assert_ne!(a, b);
            (log[0][0].line, log[0][500].line) = (b, a);
        });
        assert!(found.contains("content differs"), "{found}");
    }

    #[test]
    fn a_wrong_key_a_wrong_partition_and_a_strangers_record_are_seen() {
        let found = planted(|log| log[1][4].key = "key-9999".into());
        assert!(found.contains("1 with another key or number"), "{found}");
        let found = planted(|log| {
            let moved = log[0].pop().unwrap();
            log[1].push(moved);
        });
        assert!(found.contains("partition 0:") && found.contains("partition 1:"), "{found}");
        let mut observed = Observed::new(1);
        observed.record((0, 5), None, None, b"?");
        let found = faults(&Tally::default(), &[Chain::default()], &observed).join("; ");
        assert!(found.contains("offsets read are not 0, 1, 2"), "{found}");
        assert!(found.contains("0 written, 1 read"), "{found}");
    }

    #[test]
    fn more_losses_than_are_remembered_are_still_counted() {
        let mut observed = Observed::new(1);
        let far = KEYS * (MISSING_MAX as u64 + 50);
        observed.record((0, 0), Some(key_of(far).as_bytes()), Some(far), b"");
        assert_eq!(observed.missing.len(), MISSING_MAX);
        assert_eq!(observed.lost(1), (MISSING_MAX as u64 + 50, Some(0)));
    }
}
