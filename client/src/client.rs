//! The client: what producers, consumers and admin calls share.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use crate::{
    address::Address,
    admin::Admin,
    clock::{self, Instant},
    config::ClientConfig,
    connection::{Connections, Dial, Tcp},
    consumer::ConsumerBuilder,
    error::{Error, Result},
    metadata::Metadata,
    producer::ProducerBuilder,
    reader::ReaderBuilder,
    retry::{self, RetryPolicy, Verdict},
    tls::{Tls, TlsDial},
};

/// A client of one cluster. Cheap to clone; all clones share connections and metadata.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use riverrun_client::{Client, Record};
///
/// let broker = riverrun_broker::Embedded::start().await?;
/// let client = Client::builder().bootstrap_servers([broker.address()]).build().await?;
/// client.admin().create_topic("orders").partitions(3).send().await?;
///
/// let producer = client.producer().build().await?;
/// let delivery = producer.send(Record::to("orders").key("42").value("one coffee")).await?;
/// let place = delivery.await?;
/// println!("partition {}, offset {:?}", place.partition(), place.offset());
/// producer.close(std::time::Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<ClientParts>);

pub(crate) struct ClientParts {
    pub(crate) config: ClientConfig,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metadata: Metadata,
}

/// Options of a [`Client`].
#[must_use = "call build()"]
pub struct ClientBuilder {
    config: ClientConfig,
    mistake: Option<Error>,
    tls: Option<Tls>,
    dial: Box<dyn Dial>,
}

// === impl Client ===

impl Client {
    /// Options, with their defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            config: ClientConfig::default(),
            mistake: None,
            tls: None,
            dial: Box::new(Tcp),
        }
    }

    /// Options of a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Options of a consumer of partitions named by the caller.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Options of a reader of one topic.
    pub fn reader(&self, topic: impl Into<Arc<str>>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic.into())
    }

    /// Calls that create, change and describe topics.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.0.connections
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// Repeats `call` while it fails retriably, for `within` in all. See [`Retrying`] for
    /// `repeatable`.
    pub(crate) async fn with_retries<T, F: Future<Output = Result<T>>>(
        &self,
        within: Duration,
        repeatable: bool,
        call: impl Fn() -> F,
    ) -> Result<T> {
        let mut retrying = self.retrying(within, repeatable);
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => retrying.after(error).await?,
            }
        }
    }

    /// Attempts at something, for `within` in all.
    pub(crate) fn retrying(&self, within: Duration, repeatable: bool) -> Retrying {
        let started = clock::now();
        Retrying { policy: self.config().retry, started, within, repeatable, attempt: 0 }
    }
}

/// Attempts at one call, and the waits between them.
#[derive(Debug)]
pub(crate) struct Retrying {
    policy: RetryPolicy,
    started: Instant,
    within: Duration,
    /// The call may be sent again although an earlier attempt may have been carried out.
    repeatable: bool,
    attempt: u32,
}

// === impl Retrying ===

impl Retrying {
    /// Waits before the next attempt; gives the error back if there is to be none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        if !self.repeatable && !error.is_definite() {
            return Err(error);
        }
        let left = self.within.saturating_sub(clock::now().duration_since(self.started));
        match self.policy.decide(self.attempt, &error, left, retry::jitter()) {
            Verdict::GiveUp => return Err(error),
            Verdict::RetryAfter(wait) => tokio::time::sleep(wait).await,
        }
        self.attempt += 1;
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.0.config).finish_non_exhaustive()
    }
}

// === impl ClientBuilder ===

impl ClientBuilder {
    /// Brokers to ask for the others; one that is up is enough. `host:port`, or a host with the
    /// default port 9190. Required.
    pub fn bootstrap_servers<I>(mut self, servers: I) -> Self
    where
        I: IntoIterator,
        I::Item: ToString,
    {
        self.config.bootstrap.clear();
        for server in servers {
            match server.to_string().parse::<Address>() {
                Ok(address) => self.config.bootstrap.push(address),
                Err(error) => self.mistake = self.mistake.or(Some(error)),
            }
        }
        self
    }

    /// Speaks TLS with all brokers: whom to believe, and what to show. Default: no TLS.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How this client is called in the broker's logs and metrics. Default `riverrun`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.config.client_id = id.into();
        self
    }

    /// Longest wait for a connection. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Longest wait for the answer to one request. Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Age after which topics and leaders are asked for again although nothing went wrong.
    /// Default 5 min.
    pub fn metadata_max_age(mut self, age: Duration) -> Self {
        self.config.metadata_max_age = age;
        self
    }

    /// Bounds of the wait between attempts: the first and the longest, doubling, each wait drawn
    /// evenly from zero to the bound; a broker's `retry_after` wins. Default 50 ms to 1 s.
    /// Whoever looks for the leader of a partition waits no longer than 250 ms between two questions,
    /// for as long as an election takes.
    pub fn retry_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.config.retry = retry::RetryPolicy { initial, max };
        self
    }

    /// Replaces the network.
    #[cfg(test)]
    pub(crate) fn dial(mut self, dial: impl Dial) -> Self {
        self.dial = Box::new(dial);
        self
    }

    /// Checks the options. Connections are made when they are needed: a broker that is down now is
    /// not an error here.
    ///
    /// Cancel safe: nothing has happened when it is dropped.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming the option.
    pub async fn build(self) -> Result<Client> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        self.config.verify()?;
        let dial = match self.tls {
            None => self.dial,
            Some(tls) => {
                let read = tokio::task::spawn_blocking(|| TlsDial::new(tls)).await;
                let read = read.map_err(|panic| Error::invalid(format!("tls: {panic}")))?;
                Box::new(read?)
            }
        };
        let connections = Connections::new(&self.config, dial);
        Ok(Client(Arc::new(ClientParts {
            metadata: Metadata::new(&self.config, Arc::clone(&connections)),
            connections,
            config: self.config,
        })))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
