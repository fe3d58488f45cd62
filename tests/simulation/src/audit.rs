//! What is looked at once, when all is well: all logs, byte by byte, against each other and against
//! what everybody was told.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use riverrun_broker::{log::ProducerStates, partition::Acks, replica::Rules};
use riverrun_proto::{limits::PRODUCER_BATCHES_REMEMBERED, offset::Offset, record::RecordBatch};

use crate::{
    controller::broker_number,
    mirror::{Entry, Mirror},
    producer::{Outcome, Producer},
    shell::read_all,
    world::World,
};

/// Of each producer: its epoch, and the batches that are remembered of it.
type Remembered = BTreeMap<i64, (i16, VecDeque<(i32, i32, Offset)>)>;

impl<R: Rules> World<R> {
    /// Looks at everything.
    pub fn audit(&self) -> Result<(), String> {
        for partition in 0..self.stage.setup.partitions {
            let batches = self.audit_logs(partition)?;
            let records = records(&batches)?;
            for producer in self.producers.iter().filter(|p| p.partition == partition) {
                self.audit_producer(producer, &records)
                    .map_err(|law| format!("{law} (p{partition}, c{})", producer.number))?;
            }
        }
        Ok(())
    }

    /// S3, S9, S10: all logs are the same, are what they are said to be and what was committed, and
    /// say the same of producers. Returns the batches.
    fn audit_logs(&self, partition: usize) -> Result<Vec<Bytes>, String> {
        let ledger = &self.stage.ledgers[partition];
        let mut first: Option<Vec<Bytes>> = None;
        let replicas = self.stage.decided.partition(partition).replicas;
        for broker in replicas.into_iter().map(broker_number) {
            let shell = self.brokers[broker].process.as_ref().map(|p| &p.shells[partition]);
            let shell = shell.ok_or("L1: a broker is down")?;
            let at = |what: String| format!("{what} (p{partition} at b{broker})");
            let all = read_all(&shell.log).map_err(|what| at(format!("S14: {what}")))?;
            let start = shell.log.log_start_offset();
            let read = Mirror::new(all.iter().filter_map(Entry::of_batch).collect());
            if read.entries() != shell.mirror.from(start) {
                return Err(at("S9: the log holds something else than was written".to_owned()));
            }
            if let Some(what) = ledger.missing_in(&read, start) {
                return Err(at(format!("S4: what was committed is not there: {what}")));
            }
            // A log that was begun anew has never seen what lies below its start.
            let saw_all = shell.mirror.entries().first().is_none_or(|e| e.base == Offset::ZERO);
            if ledger.deleted() == Offset::ZERO && saw_all {
                let is = remembered(shell.log.producers());
                let must = replayed(&shell.mirror);
                if is != must {
                    let what = format!("S10: producers are remembered as {is:?}, not {must:?}");
                    return Err(at(what));
                }
            }
            // One may begin later than another, where records were deleted.
            let common = all.len().min(first.as_ref().map_or(usize::MAX, Vec::len));
            if let Some(first) = &first
                && first[first.len() - common..] != all[all.len() - common..]
            {
                return Err(at("S3: not the bytes of the others".to_owned()));
            }
            if first.as_ref().is_none_or(|first| first.len() < all.len()) {
                first = Some(all);
            }
        }
        Ok(first.unwrap_or_default())
    }

    /// S4, S10, S13: what a producer was told is so.
    fn audit_producer(
        &self,
        producer: &Producer,
        records: &HashMap<Vec<u8>, Vec<Offset>>,
    ) -> Result<(), String> {
        let ledger = &self.stage.ledgers[producer.partition];
        let (deleted, mut last) = (ledger.deleted(), None);
        for (number, outcome) in producer.outcomes.iter().enumerate() {
            let found = records.get(producer.value(number).as_bytes());
            let found = found.map_or(&[][..], Vec::as_slice);
            if producer.idempotent && deleted == Offset::ZERO && found.len() > 1 {
                return Err(format!("S10: record {number} was written at {found:?}"));
            }
            match outcome {
                Outcome::Open => return Err(format!("L1: record {number} was never answered")),
                Outcome::Refused if !found.is_empty() => {
                    let what = "is said not to be written, and is";
                    return Err(format!("S4: record {number} {what} at {found:?}"));
                }
                Outcome::Written(offset) if producer.acks == Acks::All => {
                    if *offset >= deleted && !found.contains(offset) {
                        let what = "was acknowledged at";
                        return Err(format!(
                            "S13: record {number} {what} {offset}, and is at {found:?}"
                        ));
                    }
                    if producer.idempotent && last.is_some_and(|last| *offset <= last) {
                        let what = "was written before an earlier one, at";
                        return Err(format!("S10: record {number} {what} {offset}"));
                    }
                    last = Some(*offset);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where each record is, by the part of its value that names it.
fn records(batches: &[Bytes]) -> Result<HashMap<Vec<u8>, Vec<Offset>>, String> {
    let mut found: HashMap<Vec<u8>, Vec<Offset>> = HashMap::new();
    for batch in batches {
        let checked = RecordBatch::parse_stored(batch.clone()).map_err(|e| e.to_string())?;
        let records = checked.records(1 << 24).map_err(|e| e.to_string())?;
        for (record, place) in records.iter().zip(0..) {
            let record = record.map_err(|e| e.to_string())?;
            let value = record.value.unwrap_or_default();
            let name =
                value.iter().rposition(|byte| *byte == b'/').map_or(value, |at| &value[..=at]);
            let offset = checked.base_offset().checked_add(place).unwrap_or(Offset::MAX);
            found.entry(name.to_vec()).or_default().push(offset);
        }
    }
    Ok(found)
}

fn remembered(states: &ProducerStates) -> Remembered {
    let batches = |state: &riverrun_broker::log::producer_state::ProducerState| {
        let batch = |b: &riverrun_broker::log::RememberedBatch| {
            (b.base_sequence, b.last_offset_delta, b.base_offset)
        };
        state.batches().map(batch).collect()
    };
    states.iter().map(|(id, state)| (id.get(), (state.epoch(), batches(state)))).collect()
}

/// The same by replay of everything.
fn replayed(log: &Mirror) -> Remembered {
    let mut states = Remembered::new();
    for entry in log.entries() {
        let Some(stamp) = entry.producer else { continue };
        let known = states.entry(stamp.id.get()).or_insert((stamp.epoch, VecDeque::new()));
        if known.0 != stamp.epoch {
            *known = (stamp.epoch, VecDeque::new());
        }
        if known.1.len() == PRODUCER_BATCHES_REMEMBERED {
            known.1.pop_front();
        }
        known.1.push_back((stamp.base_sequence, entry.last_offset_delta, entry.base));
    }
    states
}
