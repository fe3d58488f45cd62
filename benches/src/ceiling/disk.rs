//! The disk's ceiling: 1 MiB appended with pwrite and synced with fdatasync, in turn, into a new
//! file. What a broker that syncs before it acknowledges can reach with batches gathered to that
//! size.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
};

use crate::{
    clock::Moment,
    error::{BenchError, Result},
    payload::Batches,
    recorder::{Measure, Recorder},
    stop::{Quota, Stop},
};

/// Bytes between two syncs, about: whole batches.
const STEP_BYTES: usize = 1 << 20;

/// Where the file begins anew, so that the disk does not fill.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// Writes and syncs until told to stop, and removes the file.
pub(super) async fn write(
    path: PathBuf,
    batches: Batches,
    recorder: &Arc<Recorder>,
    stop: &Stop,
    quota: &Arc<Quota>,
) -> Result<()> {
    let (recorder, stop, quota) = (Arc::clone(recorder), stop.clone(), Arc::clone(quota));
    let shown = path.display().to_string();
    let ended = tokio::task::spawn_blocking(move || {
        let written = steps(&path, batches, &recorder, &stop, &quota);
        let removed = fs::remove_file(&path);
        written.and(removed)
    });
    let ended = ended.await.map_err(|e| BenchError::Failed(format!("a thread died: {e}")))?;
    ended.map_err(BenchError::io(format!("writing {shown}")))
}

fn steps(
    path: &PathBuf,
    mut batches: Batches,
    recorder: &Recorder,
    stop: &Stop,
    quota: &Quota,
) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut position = 0;
    let mut step = Vec::with_capacity(2 * STEP_BYTES);
    while !stop.is_told() {
        step.clear();
        let mut taken = 0;
        while step.len() + batches.bytes_max() <= STEP_BYTES || step.is_empty() {
            if quota.take(batches.records) == 0 {
                break;
            }
            step.extend_from_slice(&batches.take());
            taken += 1;
        }
        if step.is_empty() {
            return Ok(());
        }
        if position >= FILE_BYTES_MAX {
            file = File::create(path)?;
            position = 0;
        }
        let start = Moment::now();
        file.write_all_at(&step, position)?;
        file.sync_data()?;
        recorder.record(Measure::Ack).add(start, Moment::now());
        position += step.len() as u64;
        recorder.produced(taken * batches.records, taken * batches.payload_bytes);
        recorder.appended(step.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    #[tokio::test]
    async fn whole_batches_are_written_and_the_file_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let batches = Batches::encode(&Workload::default()).unwrap();
        let wanted = batches.records * 40;
        let recorder = Arc::new(Recorder::new());
        recorder.begin(Moment::now());
        let quota = Arc::new(Quota::new(Some(wanted)));
        let path = dir.path().join("f");
        write(path, batches.clone(), &recorder, &Stop::new(), &quota).await.unwrap();
        assert_eq!(recorder.counts().produced_records, wanted);
        assert_eq!(recorder.counts().produced_bytes, 40 * batches.payload_bytes);
        let (_, steps) = recorder.latencies().next().unwrap();
        assert_eq!(steps.count, 3, "15 or 16 batches per step");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
