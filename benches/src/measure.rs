//! One run, from the first record to the last answer: warm-up, the measured interval, the drain.
//!
//! ```text
//!   load begins      interval begins                       interval ends     last answer, synced
//!        │ warm-up          │ measured                            │ drain          │
//!        └──────────────────┴─────────────────────────────────────┴────────────────┘
//!   counted: throughput, CPU └─────────────────────────────────────┘
//!   counted: device, appended bytes, errors ─────────────────────────────────────────┘
//! ```
//! A run that counts its records has no warm-up, and its interval ends with the last answer.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{IsTerminal as _, Write as _, stderr},
    path::PathBuf,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    accounting::{Accounts, Reading},
    clock::Moment,
    error::{BenchError, Result},
    outcome::{Cost, Run, Second, Throughput},
    recorder::{Counts, Recorder},
    stop::Stop,
    units::{show_bytes_rate, show_nanos, show_rate},
    workload::Workload,
};

/// Looked at as often: for the end of a burst, and of a short run.
const TICK: Duration = Duration::from_millis(10);

/// Ticks of one line of the series.
const TICKS_PER_SECOND: u32 = 100;

/// Longest wait for the answers that are missing when the load has ended.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What is measured, and how.
#[derive(Debug)]
pub struct Measurement<'a> {
    /// What the run is called.
    pub subject: &'a str,
    /// Which round, from 1.
    pub round: u32,
    /// What is done.
    pub workload: &'a Workload,
    /// Where it is counted.
    pub recorder: &'a Recorder,
    /// Ends the load.
    pub stop: &'a Stop,
    /// What it costs.
    pub accounts: &'a Accounts,
    /// Is synced at the end, so that the device has all of it.
    pub data: Option<PathBuf>,
    /// The load ends when so many bytes were appended.
    pub burst_bytes: Option<u64>,
    /// Settings of the subject.
    pub settings: BTreeMap<String, String>,
    /// Shows progress on standard error, if that is a terminal.
    pub progress: bool,
}

/// Readings at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Moment,
    counts: Counts,
    reading: Reading,
}

// === impl Measurement ===

impl Measurement<'_> {
    /// Runs `load` until its time is over, then tells it to stop and waits for it. `load` is given
    /// the moment from which it counts: an open loop begins there.
    ///
    /// # Errors
    /// The load fails, or does not end.
    pub async fn run<F: Future<Output = Result<()>>>(
        self,
        load: impl FnOnce(Moment) -> F,
    ) -> Result<Run> {
        let Self { workload, recorder, stop, .. } = self;
        let begun = self.mark();
        let counted = workload.records.is_some();
        let mut from = begun;
        if counted {
            recorder.begin(begun.at);
        }
        let mut watch = Watch::new(&self, begun);
        let mut notes = self.accounts.notes().to_vec();
        let load = load(begun.at);
        tokio::pin!(load);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut warm = counted;
        let ended_itself = loop {
            tokio::select! {
                ended = &mut load => break Some(ended),
                _ = ticks.tick() => {}
            }
            let now = Moment::now();
            if !warm && now.since(begun.at) >= workload.warm_up_ms {
                warm = true;
                from = self.mark();
                recorder.begin(from.at);
            }
            watch.tick(now, warm);
            if self.burst_bytes.is_some_and(|most| recorder.appended_bytes() >= most) {
                notes.push(format!(
                    "the burst ended before its time, at {} bytes: past that the kernel makes \
                     writers wait",
                    recorder.appended_bytes()
                ));
                break None;
            }
            if warm && now.since(from.at) >= workload.duration_ms {
                if counted {
                    notes.push("time was over before all records were through".to_owned());
                }
                break None;
            }
        };
        let to = self.mark();
        recorder.end(to.at);
        stop.tell();
        match ended_itself {
            Some(ended) => ended?,
            None => timeout(DRAIN_MAX, &mut load).await.map_err(|_| {
                BenchError::Failed(format!("answers were missing {DRAIN_MAX:?} after the end"))
            })??,
        }
        watch.close(to.at, warm);
        if !warm {
            return Err(BenchError::Failed(
                "the run ended within its warm-up: nothing was measured".into(),
            ));
        }
        let memory = self.accounts.memory();
        self.sync().await?;
        let whole = self.accounts.read().since(&begun.reading);
        let mut run = Run {
            subject: self.subject.to_owned(),
            subject_version: None,
            round: self.round,
            workload: workload.clone(),
            settings: self.settings.clone(),
            produced: None,
            consumed: None,
            latencies: recorder.latencies().collect(),
            cost: Cost::default(),
            errors: recorder.errors(),
            series: watch.series,
            notes,
        };
        fill_throughput(&mut run, &from, &to);
        let interval = to.reading.since(&from.reading);
        run.cost = cost(&run, &interval, &whole, recorder.appended_bytes());
        run.cost.subject_resident_bytes_max = memory.resident_bytes_max;
        run.cost.subject_anonymous_bytes = memory.anonymous_bytes;
        Ok(run)
    }

    fn mark(&self) -> Mark {
        Mark { at: Moment::now(), counts: self.recorder.counts(), reading: self.accounts.read() }
    }

    /// Everything on the data's file system is on its device after this.
    async fn sync(&self) -> Result<()> {
        let Some(data) = self.data.clone() else { return Ok(()) };
        let sync = move || {
            let dir = File::open(&data)?;
            Ok(rustix::fs::syncfs(dir)?)
        };
        let synced = tokio::task::spawn_blocking(sync).await;
        synced.expect("syncing does not panic").map_err(BenchError::io("syncing the data"))
    }
}

/// The series, and the line for whoever watches.
struct Watch<'a> {
    recorder: &'a Recorder,
    begun: Moment,
    last: (Moment, Counts),
    ticks: u32,
    series: Vec<Second>,
    title: Option<String>,
}

// === impl Watch ===

impl<'a> Watch<'a> {
    fn new(measurement: &Measurement<'a>, begun: Mark) -> Self {
        let shows = measurement.progress && stderr().is_terminal();
        let title = shows.then(|| {
            format!("{} {} #{}", measurement.workload.name, measurement.subject, measurement.round)
        });
        Self {
            recorder: measurement.recorder,
            begun: begun.at,
            last: (begun.at, begun.counts),
            ticks: 0,
            series: Vec::new(),
            title,
        }
    }

    fn tick(&mut self, now: Moment, measured: bool) {
        self.ticks += 1;
        if self.ticks == TICKS_PER_SECOND {
            self.ticks = 0;
            self.second(now, measured);
        }
    }

    fn second(&mut self, now: Moment, measured: bool) {
        let counts = self.recorder.counts();
        let (then, before) = self.last;
        let seconds = now.since(then).as_secs_f64();
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds.max(1e-9);
        let second = Second {
            at_s: now.since(self.begun).as_secs_f64(),
            measured,
            produced_records_per_s: rate(counts.produced_records, before.produced_records),
            produced_bytes_per_s: rate(counts.produced_bytes, before.produced_bytes),
            consumed_records_per_s: rate(counts.consumed_records, before.consumed_records),
            consumed_bytes_per_s: rate(counts.consumed_bytes, before.consumed_bytes),
            p99_ns: self.recorder.interval_p99_ns(),
            errors: counts.errors - before.errors,
        };
        self.last = (now, counts);
        self.show(&second);
        self.series.push(second);
    }

    fn show(&self, second: &Second) {
        let Some(title) = &self.title else { return };
        let mut line = format!("{title} {:5.1} s", second.at_s);
        for (verb, records, bytes) in [
            ("written", second.produced_records_per_s, second.produced_bytes_per_s),
            ("read", second.consumed_records_per_s, second.consumed_bytes_per_s),
        ] {
            if records > 0.0 {
                line += &format!("  {verb} {} {}", show_rate(records), show_bytes_rate(bytes));
            }
        }
        if let Some(p99) = second.p99_ns {
            line += &format!("  p99 {}", show_nanos(p99));
        }
        let _ = write!(stderr(), "\r\x1b[K{line}");
    }

    /// The rest of a second is one too, unless it is too short to say anything.
    fn close(&mut self, at: Moment, measured: bool) {
        if self.ticks > TICKS_PER_SECOND / 4 || self.series.is_empty() {
            self.second(at, measured);
        }
        if self.title.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// What was answered between two marks.
fn fill_throughput(run: &mut Run, from: &Mark, to: &Mark) {
    let seconds = to.at.since(from.at).as_secs_f64();
    let (now, before) = (to.counts, from.counts);
    if run.workload.writes() {
        run.produced = Some(Throughput::new(
            now.produced_records - before.produced_records,
            now.produced_bytes - before.produced_bytes,
            seconds,
        ));
    }
    if run.workload.reads() {
        run.consumed = Some(Throughput::new(
            now.consumed_records - before.consumed_records,
            now.consumed_bytes - before.consumed_bytes,
            seconds,
        ));
    }
}

fn cost(run: &Run, interval: &Reading, whole: &Reading, appended_bytes: u64) -> Cost {
    let bytes = [run.produced, run.consumed].into_iter().flatten().map(|t| t.bytes).sum::<u64>();
    let per_gb = |seconds: Option<f64>| {
        seconds.filter(|_| bytes > 0).map(|seconds| seconds / (bytes as f64 / 1e9))
    };
    let appended = run.workload.writes().then_some(appended_bytes).filter(|bytes| *bytes > 0);
    let device = whole.device_written_bytes.filter(|_| appended.is_some());
    Cost {
        generator_cpu_s: interval.generator_cpu_s,
        subject_cpu_s: interval.subject_cpu_s,
        generator_cpu_s_per_gb: per_gb(interval.generator_cpu_s),
        subject_cpu_s_per_gb: per_gb(interval.subject_cpu_s),
        subject_resident_bytes_max: None,
        subject_anonymous_bytes: None,
        appended_bytes: appended,
        subject_written_bytes: whole.subject_written_bytes,
        device_written_bytes: device,
        device_bytes_per_byte: device
            .zip(appended)
            .map(|(device, appended)| device as f64 / appended as f64),
    }
}

#[cfg(test)]
#[path = "measure_test.rs"]
mod tests;
