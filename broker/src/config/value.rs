//! What the value of a configuration key can be: each type reads itself from text, says what it
//! expects, and shows itself for people and for machines.
//!
//! Everything passes through text, whatever its source, so that a file, an environment variable, a
//! flag and a topic's configuration obey one grammar.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

use super::units::{ByteSize, parse_duration, show_duration};

/// A type of configuration value.
pub(super) trait Value: Sized {
    /// What may be written, to follow "expected"; without bounds.
    fn expects() -> String;

    /// Reads it; the error says what is wrong with the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// As a person would write it. Parses back to the same value.
    fn show(&self) -> String;

    /// As it is stored and sent: bytes and milliseconds as plain numbers. Parses back too.
    fn canonical(&self) -> String {
        self.show()
    }
}

/// A value that can be compared with bounds.
pub(super) trait Bounded {
    /// What the bounds are given in.
    type Bound: PartialOrd + Value;

    /// What to compare; `None` where the value stands outside of all bounds (unlimited, unset).
    fn magnitude(&self) -> Option<Self::Bound>;
}

/// The file system's or the machine's share: `25%`, or a fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBudget {
    /// Per cent of the memory that this process may use.
    Share(u8),
    /// Just so much.
    Fixed(ByteSize),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Checks a value against its key's bounds.
pub(super) fn check_bounds<V: Bounded>(
    value: &V,
    low: V::Bound,
    high: V::Bound,
) -> Result<(), String> {
    match value.magnitude() {
        Some(m) if m < low => Err(format!("{} is below the least, {}", m.show(), low.show())),
        Some(m) if m > high => Err(format!("{} is above the most, {}", m.show(), high.show())),
        _ => Ok(()),
    }
}

/// A key's bounds as a person would write them.
pub(super) fn show_bounds<V: Bounded>(low: V::Bound, high: V::Bound) -> (String, String) {
    (low.show(), high.show())
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            fn expects() -> String {
                "a whole number".to_owned()
            }

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("{text:?} is not a whole number in range"))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

macro_rules! bounded_by_themselves {
    ($($ty:ty),*) => {$(
        impl Bounded for $ty {
            type Bound = Self;

            fn magnitude(&self) -> Option<Self> {
                Some(*self)
            }
        }
    )*};
}

/// An enum whose variants are words, in the order of the documentation.
macro_rules! words {
    ($ty:ty { $($word:literal => $variant:ident),* $(,)? }) => {
        impl Value for $ty {
            fn expects() -> String {
                [$($word),*].join(" | ")
            }

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is none of the possible words")),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $word,)* }.to_owned()
            }
        }
    };
}
pub(super) use words;

numbers!(u8, u16, u32, u64);
bounded_by_themselves!(u8, u16, u32, u64, ByteSize, Duration);
words!(LogFormat { "auto" => Auto, "human" => Human, "json" => Json });

impl Value for bool {
    fn expects() -> String {
        "true | false".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for ByteSize {
    fn expects() -> String {
        "a size: bytes, or such as 64MiB or 1GB".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: super::units::InvalidUnit| e.to_string())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn canonical(&self) -> String {
        self.get().to_string()
    }
}

impl Value for Duration {
    fn expects() -> String {
        "a duration: milliseconds, or such as 500ms, 10s or 7d".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text).map_err(|e| e.to_string())
    }

    fn show(&self) -> String {
        show_duration(*self)
    }

    fn canonical(&self) -> String {
        self.as_millis().to_string()
    }
}

/// Limits that may be absent, Kafka's `-1`.
macro_rules! unlimited {
    ($($ty:ty),*) => {$(
        impl Value for Option<$ty> {
            fn expects() -> String {
                format!("{}, or -1 for no limit", <$ty>::expects())
            }

            fn parse(text: &str) -> Result<Self, String> {
                if text.trim() == "-1" { Ok(None) } else { <$ty>::parse(text).map(Some) }
            }

            fn show(&self) -> String {
                self.as_ref().map_or_else(|| "-1".to_owned(), Value::show)
            }

            fn canonical(&self) -> String {
                self.as_ref().map_or_else(|| "-1".to_owned(), Value::canonical)
            }
        }

        impl Bounded for Option<$ty> {
            type Bound = $ty;

            fn magnitude(&self) -> Option<$ty> {
                *self
            }
        }
    )*};
}
unlimited!(ByteSize, Duration);

impl Value for PathBuf {
    fn expects() -> String {
        "a path".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for Option<PathBuf> {
    fn expects() -> String {
        "a path; empty for none".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn show(&self) -> String {
        self.as_deref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl Value for SocketAddr {
    fn expects() -> String {
        "an address and a port, such as 127.0.0.1:9190 or [::1]:9190".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("{text:?} is not an IP address with a port (names are not resolved here)")
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Option<String> {
    fn expects() -> String {
        "a text; empty for none".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{text:?} contains white space"));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// Where others are: `host:port`, comma-separated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerList(Vec<String>);

impl ServerList {
    /// Each of them, in order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl Value for ServerList {
    fn expects() -> String {
        "host:port, comma-separated; empty for none".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let servers = text.split(',').map(str::trim).filter(|server| !server.is_empty());
        let checked = servers.map(|server| {
            let (host, port) = server.rsplit_once(':').unwrap_or_default();
            let is_address = port.parse::<u16>().is_ok_and(|port| port > 0)
                && !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._[]:".contains(c));
            is_address.then(|| server.to_owned()).ok_or_else(|| {
                format!("{server:?} is no host with a port, such as node-1.example:9192")
            })
        });
        Ok(Self(checked.collect::<Result<_, _>>()?))
    }

    fn show(&self) -> String {
        self.0.join(",")
    }
}

impl Value for MemoryBudget {
    fn expects() -> String {
        "a share such as 25%, or a size such as 2GiB".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let Some(share) = text.trim().strip_suffix('%') else {
            return ByteSize::parse(text).map(Self::Fixed);
        };
        match share.parse() {
            Ok(share @ 1..=90) => Ok(Self::Share(share)),
            _ => Err(format!("{text:?} is not between 1% and 90%")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Share(percent) => format!("{percent}%"),
            Self::Fixed(size) => size.show(),
        }
    }
}

/// Directives of `tracing` (`info,riverrun_broker::log=debug`), checked when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// One of the plain levels.
    pub(super) fn level(level: &'static str) -> Self {
        Self(level.to_owned())
    }

    /// The directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for LogFilter {
    fn expects() -> String {
        "error | warn | info | debug | trace | off, or directives such as info,h2=warn".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("the filter is empty".to_owned());
        }
        EnvFilter::try_new(text).map_err(|e| format!("{text:?} is no filter: {e}"))?;
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_back<V: Value + PartialEq + std::fmt::Debug>(texts: &[&str]) {
        for text in texts {
            let value = V::parse(text).unwrap();
            assert_eq!(V::parse(&value.show()).as_ref(), Ok(&value), "{text} shown");
            assert_eq!(V::parse(&value.canonical()).as_ref(), Ok(&value), "{text} canonical");
        }
    }

    #[test]
    fn every_type_reads_what_it_writes() {
        reads_back::<u32>(&["0", "4294967295"]);
        reads_back::<bool>(&["true", "false"]);
        reads_back::<Option<ByteSize>>(&["-1", "0", "64MiB", "17"]);
        reads_back::<Option<Duration>>(&["-1", "0", "7d", "1001"]);
        reads_back::<SocketAddr>(&["127.0.0.1:0", "[::]:9190"]);
        reads_back::<Option<String>>(&["", "eu-1a"]);
        reads_back::<ServerList>(&["", "a:1", "node-1.example:9192,10.0.0.2:9192", "[::1]:9192"]);
        reads_back::<MemoryBudget>(&["25%", "2GiB", "90%"]);
        reads_back::<LogFilter>(&["info", "warn,riverrun_broker::log=debug"]);
        reads_back::<LogFormat>(&["auto", "human", "json"]);
    }

    #[test]
    fn bad_values_are_refused_with_the_reason() {
        assert!(u32::parse("-1").is_err());
        assert!(bool::parse("yes").unwrap_err().contains("neither"));
        assert!(SocketAddr::parse("localhost:9190").unwrap_err().contains("not resolved"));
        for bad in ["0%", "91%", "x%", "1M"] {
            assert!(MemoryBudget::parse(bad).is_err(), "{bad}");
        }
        assert!(PathBuf::parse("").is_err());
        assert!(LogFilter::parse("info,=,=").is_err());
        assert!(Option::<String>::parse("two words").is_err());
        for bad in ["node-1", ":9192", "a:0", "a:99999", "http://a:1", "a b:1"] {
            assert!(ServerList::parse(bad).unwrap_err().contains("no host"), "{bad}");
        }
    }

    #[test]
    fn bounds_do_not_touch_the_unlimited() {
        let bounds = || (ByteSize::kib(1), ByteSize::mib(1));
        let check = |v: Option<ByteSize>| check_bounds(&v, bounds().0, bounds().1);
        assert_eq!(check(None), Ok(()));
        assert_eq!(check(Some(ByteSize::kib(1))), Ok(()));
        assert_eq!(check(Some(ByteSize::mib(1))), Ok(()));
        assert_eq!(check(Some(ByteSize::bytes(1))).unwrap_err(), "1 is below the least, 1KiB");
        assert_eq!(check(Some(ByteSize::gib(1))).unwrap_err(), "1GiB is above the most, 1MiB");
    }
}
