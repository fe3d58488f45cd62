//! What a command needs of its surroundings: which brokers, how long to wait, who reads what it
//! says.

use std::{env, sync::Arc, time::Duration};

use riverrun_client::{Admin, Client, Error, ErrorKind, SendError, Tls};
use tokio::{net::TcpStream, time::timeout};

use super::{
    error::{Exit, Failure, Result},
    interrupt::Interrupt,
    output,
};
use crate::{
    clock::{Clock, Instant, SystemClock},
    config::Config,
    telemetry,
};

/// Longest wait for a TCP connection when it is tried whether any broker is there at all.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Topics that are looked through for one that was meant.
const SUGGESTIONS_TIMEOUT: Duration = Duration::from_secs(3);

/// Surroundings of a command.
#[derive(Debug)]
pub(crate) struct Session {
    brokers: Vec<String>,
    tls: Option<Tls>,
    timeout: Duration,
    quiet: bool,
    start: Instant,
    clock: Arc<dyn Clock>,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(
        brokers: Vec<String>,
        tls: Option<Tls>,
        timeout: Duration,
        quiet: bool,
        (start, clock): (Instant, Arc<dyn Clock>),
    ) -> Self {
        Self { brokers, tls, timeout, quiet, start, clock }
    }

    /// What a broker in this process goes by.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// A client of the brokers. Fails at once, and with advice, where nobody listens.
    pub(crate) async fn client(&self) -> Result<Client> {
        let mut client = Client::builder()
            .bootstrap_servers(&self.brokers)
            .client_id("riverrun-cli")
            .connect_timeout(self.timeout.min(Duration::from_secs(10)))
            .request_timeout(self.timeout);
        if let Some(tls) = &self.tls {
            client = client.tls(tls.clone());
        }
        let client = client.build().await?;
        self.knock().await?;
        Ok(client)
    }

    /// A client retries until its timeout, which is right for services and a long silence for a
    /// person who forgot to start the broker.
    pub(crate) async fn knock(&self) -> Result<()> {
        let mut refused = Vec::new();
        for broker in &self.brokers {
            let Ok(address) = broker.parse::<riverrun_client::Address>() else { continue };
            let dial = TcpStream::connect((address.host().to_owned(), address.port()));
            match timeout(KNOCK_TIMEOUT.min(self.timeout), dial).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => refused.push(format!("{address} ({error})")),
                Err(_) => refused.push(format!("{address} (no answer)")),
            }
        }
        Err(unavailable(format!("no broker can be reached: {}", refused.join(", "))))
    }

    /// Calls about topics, within the timeout.
    pub(crate) fn admin(&self, client: &Client) -> Admin {
        client.admin().timeout(self.timeout)
    }

    /// Explains an error about `topic`: with the name that was meant, if that is what is wrong.
    pub(crate) async fn explain(&self, client: &Client, topic: &str, error: Error) -> Failure {
        if error.kind() != ErrorKind::UnknownTopic {
            return error.into();
        }
        let topics = timeout(SUGGESTIONS_TIMEOUT, client.admin().list_topics()).await;
        let Ok(Ok(topics)) = topics else {
            return Failure::no_such_topic(topic, std::iter::empty());
        };
        // It exists: then it is the partition that does not.
        if topics.iter().any(|known| &*known.name == topic) {
            return error.into();
        }
        Failure::no_such_topic(topic, topics.iter().map(|known| &*known.name))
    }

    /// Tells people, not programs.
    pub(crate) fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Whether somebody sits there who wants to see progress.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && output::stderr_is_terminal()
    }

    /// What `--brokers` says.
    pub(crate) fn brokers(&self) -> &[String] {
        &self.brokers
    }

    /// Longest wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When the process began.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }
}

/// Takes over Ctrl-C.
pub(crate) fn interrupt() -> Result<Interrupt> {
    Interrupt::listen().map_err(|e| Failure::io("cannot listen for Ctrl-C", &e))
}

/// Now, for measuring.
pub(crate) fn monotonic() -> Instant {
    SystemClock.monotonic()
}

/// Warnings of the libraries go to standard error; `RIVERRUN_LOG` shows more.
pub(crate) fn init_logging() {
    let variable = env::vars().filter(|(name, _)| name == "RIVERRUN_LOG").collect::<Vec<_>>();
    let mut flags = vec!["telemetry.log.format=human"];
    if variable.is_empty() {
        flags.push("telemetry.log.filter=warn");
    }
    let config = Config::load(None, variable, flags).unwrap_or_default();
    // A process that has a subscriber already keeps it.
    let _ = telemetry::init_logging(&config.telemetry);
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::failed(error.to_string())
    }
}

fn unavailable(what: String) -> Failure {
    Failure::new(Exit::Unavailable, what)
        .advise("start one: riverrun dev")
        .advise("or say where it is: --brokers HOST:PORT, or the variable RIVERRUN_BROKERS")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::InvalidArgument => Exit::Usage,
            ErrorKind::UnknownTopic => Exit::NotFound,
            ErrorKind::Connection
            | ErrorKind::Timeout
            | ErrorKind::NotLeader
            | ErrorKind::NotEnoughReplicas
            | ErrorKind::Throttled => Exit::Unavailable,
            _ => Exit::Failure,
        };
        let failure = Self::new(exit, error.to_string());
        match error.kind() {
            ErrorKind::Connection | ErrorKind::Timeout => {
                failure.advise("is the broker up? riverrun topic list")
            }
            ErrorKind::Security => failure.advise(
                "say whom to believe (--tls-ca FILE), and who you are where brokers ask for it \
                 (--tls-cert FILE --tls-key FILE)",
            ),
            ErrorKind::TooLarge => failure
                .advise("allow more: riverrun topic alter TOPIC --config max.message.bytes=BYTES"),
            _ => failure,
        }
    }
}
