//! Where a broker listens: `host:port`, `[ipv6]:port`, or a host alone with the default port.

use std::{fmt, str::FromStr, sync::Arc};

use crate::error::Error;

/// The gRPC port of a broker.
pub const DEFAULT_PORT: u16 = 9190;

/// A host and a port. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

// === impl Address ===

impl Address {
    /// `host` is a name, an IPv4 or an IPv6 address, without brackets.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if `host` is empty or has characters
    /// no host has, or `port` is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, Error> {
        let allowed =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(Error::invalid(format!("{host:?} is not the name or address of a host")));
        }
        if port == 0 {
            return Err(Error::invalid(format!("{host}:0: a broker's port is 1 to 65535")));
        }
        Ok(Self { host: host.into(), port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::invalid(format!(
                "{text:?} is not an address; write host:port, such as localhost:{DEFAULT_PORT}"
            ))
        };
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(invalid)?;
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err(invalid()),
            }
        } else if text.matches(':').count() > 1 {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| invalid())?,
            None => DEFAULT_PORT,
        };
        Self::new(host, port).map_err(|_| invalid())
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(addr: std::net::SocketAddr) -> Self {
        Self { host: addr.ip().to_string().into(), port: addr.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, expected) in [
            ("localhost:9190", "localhost:9190"),
            ("localhost", "localhost:9190"),
            ("http://10.0.0.1:80/", "10.0.0.1:80"),
            ("[::1]:9999", "[::1]:9999"),
            ("[::1]", "[::1]:9190"),
            ("::1", "[::1]:9190"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected, "{text}");
        }
        let socket: std::net::SocketAddr = "[::1]:7".parse().unwrap();
        assert_eq!(Address::from(socket).to_string(), "[::1]:7");
    }

    #[test]
    fn what_cannot_be_an_address_says_how_one_looks() {
        for text in ["", ":9190", "a:0", "a:b", "a:70000", "[::1", "[::1]x", "https://a:1", "a b:1"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("host:port"), "{text:?}: {error}");
        }
    }
}
