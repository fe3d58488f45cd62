//! Options shared by producer, consumer and admin, and what they may be. Kafka's names without the
//! unit; times are `Duration`s, sizes are bytes.

use std::time::Duration;

use crate::{
    address::Address,
    error::{Error, Result},
    retry::RetryPolicy,
};

/// When a record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acks {
    /// All in-sync replicas have it, at least `min.insync.replicas` of them. The default.
    #[default]
    All,
    /// The leader has it.
    Leader,
    /// The leader's answer is not waited for by replicas or disk; it still comes, cheaply, so that
    /// errors are seen.
    None,
}

/// What an acknowledged record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The broker did not say.
    Unknown,
    /// In the memory of the replicas: survives their processes, not all their power at once.
    Memory,
    /// On the disks of the replicas: survives power loss.
    Disk,
}

/// What every part of a client shares.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) client_id: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) metadata_max_age: Duration,
    pub(crate) retry: RetryPolicy,
}

// === impl ClientConfig ===

impl ClientConfig {
    /// Longest `client_id`: it is a label of metrics and part of log lines.
    const CLIENT_ID_CHARS_MAX: usize = 255;

    pub(crate) fn verify(&self) -> Result<()> {
        if self.bootstrap.is_empty() {
            return Err(Error::invalid(
                "bootstrap_servers is empty; name at least one broker, such as localhost:9190",
            ));
        }
        if self.client_id.len() > Self::CLIENT_ID_CHARS_MAX
            || !self.client_id.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        {
            return Err(Error::invalid(format!(
                "client_id has at most {} printable ASCII characters, not {:?}",
                Self::CLIENT_ID_CHARS_MAX,
                self.client_id
            )));
        }
        not_zero("connect_timeout", self.connect_timeout)?;
        not_zero("request_timeout", self.request_timeout)?;
        not_zero("metadata_max_age", self.metadata_max_age)?;
        verify_retry(&self.retry)
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            client_id: "riverrun".into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            metadata_max_age: Duration::from_secs(300),
            retry: RetryPolicy::default(),
        }
    }
}

/// A time that has to pass some.
pub(crate) fn not_zero(name: &str, value: Duration) -> Result<()> {
    if value.is_zero() {
        return Err(Error::invalid(format!("{name} must be above zero")));
    }
    Ok(())
}

/// Bounds of a backoff.
pub(crate) fn verify_retry(retry: &RetryPolicy) -> Result<()> {
    not_zero("retry_backoff", retry.initial)?;
    if retry.max < retry.initial {
        return Err(Error::invalid(format!(
            "retry_backoff: the maximum ({:?}) is below the first wait ({:?})",
            retry.max, retry.initial
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> ClientConfig {
        ClientConfig { bootstrap: vec!["localhost".parse().unwrap()], ..ClientConfig::default() }
    }

    #[test]
    fn the_defaults_are_valid_and_each_mistake_is_named() {
        valid().verify().unwrap();
        let zero = Duration::ZERO;
        let cases: [(&str, ClientConfig); 7] = [
            ("bootstrap_servers", ClientConfig { bootstrap: vec![], ..valid() }),
            ("client_id", ClientConfig { client_id: "a\nb".into(), ..valid() }),
            ("client_id", ClientConfig { client_id: "x".repeat(256), ..valid() }),
            ("connect_timeout", ClientConfig { connect_timeout: zero, ..valid() }),
            ("request_timeout", ClientConfig { request_timeout: zero, ..valid() }),
            ("metadata_max_age", ClientConfig { metadata_max_age: zero, ..valid() }),
            (
                "retry_backoff",
                ClientConfig {
                    retry: RetryPolicy { max: Duration::from_millis(1), ..RetryPolicy::default() },
                    ..valid()
                },
            ),
        ];
        for (name, config) in cases {
            let error = config.verify().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
