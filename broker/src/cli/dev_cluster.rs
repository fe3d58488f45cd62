//! `riverrun dev --brokers 3`: a cluster on this machine. Each broker is a process of its own, so that
//! it can be killed like one; it is started again after a while, and catches up.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

use super::{
    error::{Failure, Result},
    interrupt::Interrupt,
    output,
    session::{self, Session},
};
use crate::{clock::Instant, config::GRPC_PORT};

/// Brokers at most: one process each.
pub(super) const BROKERS_MAX: u16 = 9;
/// The first port where nobody named one.
pub(super) const FIRST_PORT: u16 = GRPC_PORT;
/// So that the last port of the last broker is one.
pub(super) const FIRST_PORT_MAX: u16 = u16::MAX - (BROKERS_MAX - 1) * PORTS_APART - 2;
/// Between the ports of one broker and those of the next.
const PORTS_APART: u16 = 10;
/// Copies of a topic whose creator named no number, where there are so many brokers.
const REPLICAS: u16 = 3;
/// How long a broker may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before one that was killed is started again: time to see that the others go on.
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether all are there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What all of them are started with.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    pub(super) brokers: u16,
    pub(super) first_port: u16,
    pub(super) data_dir: &'a str,
    /// Further settings.
    pub(super) set: &'a [String],
}

/// One of them.
#[derive(Debug)]
struct Broker {
    number: u16,
    child: Option<Child>,
    /// When to start it again, if it has ended.
    again_at: Option<Instant>,
    /// Says a line once it serves; ends with the process.
    ready: mpsc::Receiver<()>,
}

// === impl Cluster ===

impl Cluster<'_> {
    /// Runs them until Ctrl-C.
    pub(super) fn run(&self, session: &Session) -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime: Runtime = runtime.map_err(|e| Failure::io("cannot start", &e))?;
        runtime.block_on(async {
            let mut interrupt = session::interrupt()?;
            let numbers = 1..=self.brokers;
            let mut brokers = Vec::new();
            for number in numbers {
                brokers.push(self.start(number)?);
            }
            let outcome = tokio::select! {
                outcome = self.serve(&mut brokers, session) => outcome,
                () = interrupt.next() => Ok(()),
            };
            stop(&mut brokers, &mut interrupt).await;
            if outcome.is_ok() {
                session.say("stopped; the data stays");
            }
            outcome
        })
    }

    async fn serve(&self, brokers: &mut [Broker], session: &Session) -> Result<()> {
        self.until_ready(brokers).await?;
        session.say(self.welcome(brokers, session));
        loop {
            sleep(LOOK_EVERY).await;
            for broker in brokers.iter_mut() {
                if let Some(status) = broker.ended() {
                    let after = output::duration(RESTART_PAUSE);
                    session.say(format!(
                        "broker {} {}; it is started again in {after}",
                        broker.number,
                        how_it_ended(status)
                    ));
                    broker.again_at = Some(session::monotonic() + RESTART_PAUSE);
                }
                if broker.again_at.is_some_and(|at| session::monotonic() >= at) {
                    *broker = self.start(broker.number)?;
                    let pid = broker.pid();
                    session.say(format!("broker {} is started again, pid {pid}", broker.number));
                }
            }
        }
    }

    async fn until_ready(&self, brokers: &mut [Broker]) -> Result<()> {
        let all = async {
            let mut waiting: Vec<_> = brokers.iter_mut().collect();
            while !waiting.is_empty() {
                waiting.retain(|broker| broker.ready.try_recv().is_err());
                // One that has ended is waited for by the others.
                for broker in &mut waiting {
                    if let Some(status) = broker.ended() {
                        return Err(self.not_started(broker.number, status));
                    }
                }
                sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        let late = |_| Failure::failed("the brokers did not serve in time");
        timeout(START_TIMEOUT, all).await.map_err(late)?
    }

    fn not_started(&self, number: u16, status: ExitStatus) -> Failure {
        let (first, how) = (self.port(number), how_it_ended(status));
        Failure::failed(format!("broker {number} {how}")).advise(format!(
            "its ports are {first} to {}; if they are taken: --first-port PORT",
            first + 2
        ))
    }

    fn start(&self, number: u16) -> Result<Broker> {
        let program =
            env::current_exe().map_err(|e| Failure::io("cannot find this program", &e))?;
        let mut command = Command::new(program);
        command.args(["serve", "--stop-with-parent"]);
        for setting in self.settings(number).iter().chain(self.set) {
            command.args(["--set", setting]);
        }
        // Ctrl-C is ours: they are told one by one.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| Failure::io("cannot start a broker", &e))?;
        let (says, ready) = mpsc::sync_channel(1);
        let lines = child.stdout.take().expect("piped");
        each_line(lines, move |line| {
            if line.starts_with("ready ") {
                let _ = says.try_send(());
            }
        });
        let lines = child.stderr.take().expect("piped");
        each_line(lines, move |line| eprintln!("broker {number} | {line}"));
        Ok(Broker { number, child: Some(child), again_at: None, ready })
    }

    fn settings(&self, number: u16) -> Vec<String> {
        let port = self.port(number);
        let nodes: Vec<_> = (1..=self.brokers)
            .map(|number| format!("127.0.0.1:{}", self.port(number) + 2))
            .collect();
        let mut settings = vec![
            format!("broker.node.id={number}"),
            format!("broker.data.dir={}", self.dir(number)),
            format!("network.grpc.listen=127.0.0.1:{port}"),
            format!("network.http.listen=127.0.0.1:{}", port + 1),
            format!("network.internal.listen=127.0.0.1:{}", port + 2),
            format!("controller.quorum.bootstrap.servers={}", nodes.join(",")),
            "controller.quorum.auto.join.enable=true".to_owned(),
            "broker.auto.create.topics.enable=true".to_owned(),
            format!("broker.default.replication.factor={}", self.brokers.min(REPLICAS)),
        ];
        for (variable, setting) in [
            ("RIVERRUN_LOG", "telemetry.log.filter=warn"),
            ("RIVERRUN_TELEMETRY_LOG_FORMAT", "telemetry.log.format=human"),
        ] {
            if env::var_os(variable).is_none() {
                settings.push(setting.to_owned());
            }
        }
        settings
    }

    fn port(&self, number: u16) -> u16 {
        self.first_port + (number - 1) * PORTS_APART
    }

    fn dir(&self, number: u16) -> String {
        format!("{}/broker-{number}", self.data_dir)
    }

    fn welcome(&self, brokers: &[Broker], session: &Session) -> String {
        let took = session::monotonic().duration_since(session.start());
        let mut text = format!(
            "riverrun {}: {} brokers serve after {}\n",
            env!("CARGO_PKG_VERSION"),
            self.brokers,
            output::duration(took)
        );
        let mut addresses = Vec::new();
        for broker in brokers {
            let port = self.port(broker.number);
            addresses.push(format!("127.0.0.1:{port}"));
            text.push_str(&format!(
                "  {}  gRPC 127.0.0.1:{port}  metrics http://127.0.0.1:{}/metrics  pid {}  data {}\n",
                broker.number,
                port + 1,
                broker.pid(),
                self.dir(broker.number)
            ));
        }
        let killed = brokers.first().map_or(0, Broker::pid);
        text.push_str(&format!(
            "
Try, in another terminal:
  export RIVERRUN_BROKERS={}
  seq 1000000 | riverrun produce kept       (acks=all, {} copies)
  kill -9 {killed}                              any of them, meanwhile; nothing is lost
  riverrun consume kept -o start -e | wc -l
  riverrun cluster status

Ctrl-C stops them.",
            addresses.join(","),
            self.brokers.min(REPLICAS),
        ));
        text
    }
}

// === impl Broker ===

impl Broker {
    /// How it ended, once.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
    }
}

/// In order; at once, as soon as somebody asks twice.
async fn stop(brokers: &mut [Broker], interrupt: &mut Interrupt) {
    for broker in brokers.iter() {
        broker.signal(Signal::TERM);
    }
    let ended = async {
        for broker in brokers.iter_mut() {
            while broker.child.is_some() && broker.ended().is_none() {
                sleep(LOOK_EVERY).await;
            }
        }
    };
    tokio::select! {
        () = ended => return,
        () = interrupt.next() => {}
    }
    for broker in brokers.iter_mut() {
        broker.signal(Signal::KILL);
        if let Some(mut child) = broker.child.take() {
            let _ = child.wait();
        }
    }
}

/// Reads to the end on a thread of its own, so that nobody who writes is held up.
fn each_line(pipe: impl Read + Send + 'static, mut take: impl FnMut(&str) + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
            take(&line);
        }
    });
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("has ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "has ended".to_owned(),
    }
}
