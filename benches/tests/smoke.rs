//! Every command once, for a fraction of a second, against a broker process of its own. What is
//! asserted is that counts add up and that the document says what was done; never a speed.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use riverrun_bench::outcome::{Document, Run, Subject, latency};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where a test's broker has its data and its results go.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn json(&self) -> PathBuf {
        self.dir.path().join("out.json")
    }

    /// A command that writes its document.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_riverrun-bench"));
        command
            .args(line.split_whitespace())
            .arg("--quiet")
            .arg("--dir")
            .arg(self.data())
            .arg("--json")
            .arg(self.json());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("it was built with this test")
    }

    /// Runs a command that must do what it is told, and leave nothing behind.
    fn run(&self, line: &str) -> Document {
        let output = self.output(line);
        let (said, told) = (text(&output.stderr), text(&output.stdout));
        // A machine under load gives yardsticks that are refused; that is no fault of the tool.
        let refused = said.contains("the ratio is not told");
        assert!(output.status.success() || refused, "{line}: {said}{told}");
        let left = std::fs::read_dir(self.data()).expect("it was made for the run").count();
        assert_eq!(left, 0, "{line} left something behind");
        let document = Document::read(&self.json()).expect("it was just written");
        for run in &document.runs {
            assert!(told.contains(&run.subject), "{told}");
            assert_eq!(run.errors.records, 0, "{:?}", run.errors);
        }
        document
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn subjects(document: &Document) -> Vec<&str> {
    document.runs.iter().map(|run| run.subject.as_str()).collect()
}

/// `(records, bytes)` written.
fn produced(run: &Run) -> (u64, u64) {
    run.produced.map(|t| (t.records, t.bytes)).expect("it wrote")
}

fn consumed(run: &Run) -> (u64, u64) {
    run.consumed.map(|t| (t.records, t.bytes)).expect("it read")
}

#[test]
fn produce_counts_what_the_topic_has() {
    let place = Place::new();
    let flags = "--records 3000 --payload 100 --durability memory --partitions 3 --producers 2";
    let document = place.run(&format!("produce {flags}"));
    let run = &document.runs[0];
    assert_eq!(produced(run), (3_000, 300_000));
    assert_eq!(run.latencies[latency::ACK].count, 3_000);
    assert!(run.cost.appended_bytes.unwrap() > 300_000);
    assert_eq!(run.settings["topic.durability"], "memory");
    assert!(run.consumed.is_none());
    assert!(document.command[1] == "produce" && !document.started.is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn the_cost_of_both_processes_is_known() {
    let document = Place::new().run("produce --records 20000 --durability memory");
    let cost = &document.runs[0].cost;
    assert!(cost.generator_cpu_s.is_some() && cost.subject_cpu_s.is_some());
    assert!(cost.subject_resident_bytes_max.unwrap() > 1 << 20);
}

#[test]
fn an_open_loop_measures_from_the_intended_moment() {
    let document = Place::new().run("produce --records 200 --rate 2k --durability memory");
    let run = &document.runs[0];
    assert_eq!(produced(run).0, 200);
    assert_eq!(run.latencies[latency::GENERATOR_DELAY].count, 200);
    // At 2000 a second two hundred cannot take less than a tenth of one.
    assert!(run.produced.unwrap().seconds >= 0.0995, "{:?}", run.produced);
}

#[test]
fn batches_go_alternately_through_broker_and_ceilings() {
    let document = Place::new().run(
        "produce --path batches --records 6300 --durability disk --against-ceiling --rounds 2",
    );
    let round = [Subject::RIVERRUN, Subject::NULL_SINK, Subject::TCP_UP, Subject::DISK];
    assert_eq!(subjects(&document), [round, round].concat());
    for run in &document.runs {
        let (records, bytes) = produced(run);
        // Whole batches; TCP tells of those that went through as a whole.
        assert!(records > 5_500 && records <= 6_300 + 63, "{}: {records}", run.subject);
        assert_eq!(bytes, records * 1024);
    }
    let of: Vec<_> = document.comparisons.iter().map(|c| (&*c.to, c.ratios.len())).collect();
    assert_eq!(of, [(Subject::NULL_SINK, 2), (Subject::DISK, 2)]);
    let yardstick = document.comparisons[0].yardstick.as_ref().unwrap();
    assert_eq!(yardstick.against, Subject::TCP_UP);
}

#[test]
fn a_backlog_is_read_by_record_and_by_batch() {
    let place = Place::new();
    let flags = "--backlog 1MiB --partitions 3 --consumers 2 --durability memory";
    // More than once round.
    let document = place.run(&format!("consume --records 5000 {flags}"));
    assert_eq!(consumed(&document.runs[0]), (5_000, 5_000 * 1024));
    assert!(document.runs[0].produced.is_none());
    let document =
        place.run(&format!("consume --path batches --records 5000 --against-ceiling {flags}"));
    let round = [Subject::RIVERRUN, Subject::NULL_SOURCE, Subject::TCP_DOWN];
    assert_eq!(subjects(&document), round);
    assert_eq!(consumed(&document.runs[0]).0, 5_000);
}

#[test]
fn cold_segments_are_read_after_a_restart() {
    let line = "consume --records 1000 --backlog 2MiB --segments cold --path batches";
    assert_eq!(consumed(&Place::new().run(line).runs[0]).0, 1_000);
}

#[test]
fn all_that_is_written_is_read_meanwhile() {
    let flags = "--partitions 3 --consumers 3 --producers 2 --durability memory --payload 200";
    let document = Place::new().run(&format!("produce-consume --records 4000 {flags}"));
    let run = &document.runs[0];
    assert_eq!((produced(run), consumed(run)), ((4_000, 800_000), (4_000, 800_000)));
    assert_eq!(run.latencies[latency::END_TO_END].count, 4_000);
    assert_eq!(run.latencies[latency::ACK].count, 4_000);
}

#[test]
fn end_to_end_is_held_against_a_ping_pong() {
    let line = "end-to-end --rate 1k --records 100 --durability memory --against-ceiling";
    let document = Place::new().run(line);
    assert_eq!(subjects(&document), [Subject::RIVERRUN, Subject::PING_PONG]);
    assert_eq!(document.runs[0].latencies[latency::END_TO_END].count, 100);
    assert_eq!(document.runs[1].latencies[latency::ROUND_TRIP].count, 100);
    assert_eq!(document.comparisons[0].figure, "end_to_end.p50_ns");
}

#[test]
fn ceilings_stand_alone() {
    let document = Place::new().run("ceiling --records 2000");
    let all = [
        Subject::NULL_SINK,
        Subject::TCP_UP,
        Subject::NULL_SOURCE,
        Subject::TCP_DOWN,
        Subject::PING_PONG,
        Subject::DISK,
    ];
    assert_eq!(subjects(&document), all);
    assert_eq!(document.comparisons.len(), 2);
}

#[test]
fn a_suite_runs_names_and_files_of_both_kinds() {
    let place = Place::new();
    let write = |name: &str, text: &str| {
        let path = place.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ours = write("ours.toml", "name = 'ours'\ndurability = 'memory'");
    let theirs = write(
        "theirs.yaml",
        "name: theirs\ntopics: 1\npartitionsPerTopic: 2\nmessageSize: 100\n\
         subscriptionsPerTopic: 1\nconsumerPerSubscription: 1\nproducersPerTopic: 1\n",
    );
    let document = place.run(&format!("suite send-1k-memory {ours} {theirs} --records 500"));
    let names: Vec<_> = document.runs.iter().map(|run| run.workload.name.as_str()).collect();
    assert_eq!(names, ["send-1k-memory", "ours", "theirs"]);
    assert_eq!(consumed(&document.runs[2]), (500, 50_000));
}

#[test]
fn a_cluster_alternates_with_one_broker_in_all_shapes() {
    let place = Place::new();
    let cluster = "--nodes 3 --replication-factor 3 --min-insync-replicas 2 --durability memory";
    for (shape, figures) in [
        ("produce --records 200000", &["subject_cpu_s_per_gb", "produced_bytes_per_s"][..]),
        (
            "produce --records 200000 --path batches",
            &["subject_cpu_s_per_gb", "produced_bytes_per_s"],
        ),
        (
            "consume --records 200000 --backlog 64MiB --partitions 2",
            &["subject_cpu_s_per_gb", "consumed_bytes_per_s"],
        ),
        (
            "produce-consume --records 200000",
            &["subject_cpu_s_per_gb", "produced_bytes_per_s", "consumed_bytes_per_s"],
        ),
    ] {
        let document = place.run(&format!("{shape} {cluster} --against-one-broker"));
        let [three, one, bare @ ..] = &document.runs[..] else { panic!("{shape}") };
        assert_eq!([&three.subject, &one.subject], [Subject::RIVERRUN, Subject::ONE_BROKER]);
        assert_eq!((three.workload.nodes, one.workload.nodes), (3, 1));
        assert_eq!(three.settings["topic.min.insync.replicas"], "2");
        assert_eq!(three.settings["topic.replication.factor"], "3");
        let compared = |of: &str| -> Vec<&str> {
            let of = document.comparisons.iter().filter(|compared| compared.of == of);
            of.map(|compared| &*compared.figure).collect()
        };
        assert_eq!(compared(Subject::RIVERRUN), figures, "{shape}");
        let bare: Vec<_> = bare.iter().map(|run| &*run.subject).collect();
        match shape.starts_with("produce --") {
            true => {
                assert_eq!(bare, [Subject::BARE_COPIES, Subject::BARE_COPY], "{shape}");
                assert!(compared(Subject::BARE_COPIES).contains(&"produced_bytes_per_s"));
            }
            false => assert!(bare.is_empty(), "{shape}: reading is in it"),
        }
    }
}

#[test]
fn a_broker_that_runs_already_is_used_and_left_alone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(riverrun_broker::Embedded::start()).unwrap();
    let place = Place::new();
    let line = format!("produce --records 1000 --brokers {}", broker.address());
    let document = place.run(&line);
    assert_eq!(produced(&document.runs[0]).0, 1_000);
    assert_eq!(document.runs[0].cost.subject_cpu_s, None);
    assert!(document.runs[0].notes.iter().any(|note| note.contains("process is not known")));
    // Its topic is gone; once more is no conflict.
    place.run(&line);
    runtime.block_on(broker.stop());
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_starts() {
    let place = Place::new();
    for (line, code, says) in [
        ("produce --segments resident", 2, "does not recycle"),
        ("produce --segments cold", 2, "cold"),
        ("produce --broker-set nonsense --records 1", 2, "KEY=VALUE"),
        ("produce --broker-set no.such.key=1 --records 1", 1, "no.such.key"),
        ("produce --workload no-such", 2, "suite --list"),
        ("end-to-end --payload 8", 2, "payload_bytes"),
        ("suite no-such", 2, "no-such"),
        ("restart --brokers 127.0.0.1:1", 2, "leave --brokers out"),
        ("produce --replication-factor 3", 2, "replication_factor is 1 to nodes (1)"),
        ("produce --against-one-broker", 2, "needs --nodes 3"),
        ("produce --nodes 3 --brokers 127.0.0.1:1", 2, "leave --brokers out"),
    ] {
        let output = place.output(line);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
        assert!(!place.json().exists());
    }
}

#[test]
fn a_restart_is_of_a_broker_that_lost_nothing() {
    let flags = "--rounds 2 --partitions 3 --log 1MiB --idle 100ms";
    for kill in ["", " --kill"] {
        let document = Place::new().run(&format!("restart {flags}{kill}"));
        assert_eq!(document.restarts.len(), 2);
        for restart in &document.restarts {
            assert!(0 < restart.ready_ns && restart.ready_ns < restart.answered_ns, "{restart}");
        }
    }
}

#[test]
fn a_killed_leader_is_felt_for_a_while_and_loses_nothing() {
    let document = Place::new().run("failover --rounds 1");
    let [failover] = document.failovers[..] else { panic!("{:?}", document.failovers) };
    assert!(failover.gap_ns > 0, "{failover}");
}

#[test]
fn the_table_of_faults_has_a_cell_for_each() {
    let document = Place::new().run("isr-faults --lasts 1s --min-isr 2,3 --faults none");
    assert_eq!(document.isr_faults.len(), 2);
    for cell in &document.isr_faults {
        assert!(cell.failed == 0 && cell.consumed_bytes_per_s > 0.0, "{cell}");
    }
}

#[test]
fn ctrl_c_ends_everything_and_leaves_nothing() {
    for line in ["produce --duration 10m", "ceiling --duration 10m", "end-to-end --duration 10m"] {
        let place = Place::new();
        let mut command = place.command(line);
        let mut running = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let started = || std::fs::read_dir(place.data()).is_ok_and(|dir| dir.count() > 0);
        while !started() {
            assert!(running.try_wait().unwrap().is_none(), "{line} ended by itself");
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let output = running.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains("interrupted"), "{line}: {said}");
        assert_eq!(std::fs::read_dir(place.data()).unwrap().count(), 0, "{line}");
    }
}

#[test]
fn the_list_names_every_workload() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_riverrun-bench")).args(["suite", "--list"]).output();
    let told = text(&output.unwrap().stdout);
    for named in riverrun_bench::named::NAMED {
        assert!(told.contains(named.name), "{told}");
    }
}
