//! How `consume --format` shows a record: as JSON, as its value, or by a template in the notation of
//! kcat and rpk.
//!
//! ```text
//!   %t topic   %p partition   %o offset   %e leader epoch   %% percent sign
//!   %k key     %v or %s value             %h headers as name=value,name=value
//!   %K, %V or %S, %H   length of key and value in bytes (null: -1), number of headers
//!   %T or %d   time of the record in milliseconds since 1970
//!   %k{hex} %k{base64} %k{json}, %v likewise     written so; json is null or a string
//!   %T{%Y-%m-%d %H:%M:%S}                        written so, in UTC
//!   \n \t \r \0 \\ \xHH                          those bytes
//! ```
//! A template ends a record only where it says `\n`, as in kcat and rpk. A null key, value or header
//! value is shown as nothing.

use std::{io, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{error::nearest, json_record::RecordView};

const NAMES: [&str; 3] = ["value", "json", "ndjson"];

/// How records are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The value's bytes and a line end.
    Value,
    /// An indented object.
    Json,
    /// An object on one line.
    Ndjson,
    /// As it says.
    Template(Vec<Piece>),
}

/// Part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    LeaderEpoch,
    Key(Encoding),
    Value(Encoding),
    Headers,
    KeyLength,
    ValueLength,
    HeaderCount,
    Millis,
    /// By a pattern of strftime, in UTC.
    Time(String),
}

/// How bytes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Hex,
    Base64,
    Json,
}

/// Not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidFormat(String);

// === impl Format ===

impl Format {
    /// Writes one record.
    pub(crate) fn write(
        &self,
        record: &RecordView<'_>,
        out: &mut impl io::Write,
    ) -> io::Result<()> {
        match self {
            Self::Value => out.write_all(record.value.unwrap_or_default())?,
            Self::Json => serde_json::to_writer_pretty(&mut *out, record)?,
            Self::Ndjson => serde_json::to_writer(&mut *out, record)?,
            Self::Template(pieces) => {
                return pieces.iter().try_for_each(|piece| piece.write(record, out));
            }
        }
        out.write_all(b"\n")
    }
}

impl FromStr for Format {
    type Err = InvalidFormat;

    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        match text {
            "value" => return Ok(Self::Value),
            "json" => return Ok(Self::Json),
            "ndjson" | "jsonl" => return Ok(Self::Ndjson),
            _ if text.contains(['%', '\\']) => {}
            _ => {
                let meant = nearest(text, NAMES.into_iter())
                    .map_or(String::new(), |near| format!("; did you mean {near}?"));
                return Err(InvalidFormat(format!(
                    "'{text}' is none of value, json, ndjson and no template such as \
                     '%p %o %k %v\\n'{meant}"
                )));
            }
        }
        Template { rest: text, pieces: Vec::new() }.parse().map(Self::Template)
    }
}

/// A template while it is read.
struct Template<'a> {
    rest: &'a str,
    pieces: Vec<Piece>,
}

// === impl Template ===

impl Template<'_> {
    fn parse(mut self) -> Result<Vec<Piece>, InvalidFormat> {
        while let Some(c) = self.take() {
            match c {
                '%' => self.verb()?,
                '\\' => self.escape()?,
                c => self.text(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(self.pieces)
    }

    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn text(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Text(bytes.to_vec())),
        }
    }

    fn verb(&mut self) -> Result<(), InvalidFormat> {
        let verb = self.take().ok_or_else(|| {
            InvalidFormat("the format ends in a single %; write %% for a percent sign".into())
        })?;
        let option = self.option(verb)?;
        let piece = match (verb, option) {
            ('%', None) => {
                self.text(b"%");
                return Ok(());
            }
            ('k', option) => Piece::Key(encoding(option)?),
            ('v' | 's', option) => Piece::Value(encoding(option)?),
            ('T' | 'd', Some(pattern)) => Piece::Time(strftime(pattern)?),
            ('T' | 'd', None) => Piece::Millis,
            ('t', None) => Piece::Topic,
            ('p', None) => Piece::Partition,
            ('o', None) => Piece::Offset,
            ('e', None) => Piece::LeaderEpoch,
            ('h', None) => Piece::Headers,
            ('K', None) => Piece::KeyLength,
            ('V' | 'S', None) => Piece::ValueLength,
            ('H', None) => Piece::HeaderCount,
            (verb, Some(_)) if "%tpoehKVSH".contains(verb) => {
                return Err(InvalidFormat(format!("%{verb} takes nothing in braces")));
            }
            (verb, _) => {
                return Err(InvalidFormat(format!(
                    "%{verb} is unknown; there are %t %p %o %e %k %v %h %K %V %H %T and %%"
                )));
            }
        };
        self.pieces.push(piece);
        Ok(())
    }

    /// What stands in braces after a verb that takes some. After others a brace is text.
    fn option(&mut self, verb: char) -> Result<Option<&'_ str>, InvalidFormat> {
        let Some(rest) = self.rest.strip_prefix('{') else { return Ok(None) };
        if verb == '%' {
            return Ok(None);
        }
        let Some((option, rest)) = rest.split_once('}') else {
            return Err(InvalidFormat(format!("%{verb}{{ has no closing brace")));
        };
        self.rest = rest;
        Ok(Some(option))
    }

    fn escape(&mut self) -> Result<(), InvalidFormat> {
        let byte = match self.take() {
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('r') => b'\r',
            Some('0') => b'\0',
            Some('\\') => b'\\',
            Some('x') => {
                let digits = self.rest.get(..2).unwrap_or(self.rest);
                let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2);
                self.rest = &self.rest[digits.len()..];
                byte.ok_or_else(|| {
                    InvalidFormat(format!("\\x{digits} is no byte; write two hexadecimal digits"))
                })?
            }
            other => {
                let other = other.map_or(String::new(), String::from);
                return Err(InvalidFormat(format!(
                    "\\{other} is unknown; there are \\n \\t \\r \\0 \\\\ and \\xHH"
                )));
            }
        };
        self.text(&[byte]);
        Ok(())
    }
}

fn encoding(option: Option<&str>) -> Result<Encoding, InvalidFormat> {
    match option {
        None => Ok(Encoding::Raw),
        Some("hex") => Ok(Encoding::Hex),
        Some("base64") => Ok(Encoding::Base64),
        Some("json") => Ok(Encoding::Json),
        Some(other) => {
            Err(InvalidFormat(format!("{{{other}}} is none of {{hex}}, {{base64}}, {{json}}")))
        }
    }
}

/// A pattern, bare or in rpk's `strftime[…]`, tried once so that it cannot fail later.
fn strftime(option: &str) -> Result<String, InvalidFormat> {
    let bare = option.strip_prefix("strftime[").and_then(|rest| rest.strip_suffix(']'));
    let pattern = bare.unwrap_or(option);
    jiff::fmt::strtime::format(pattern, jiff::Timestamp::UNIX_EPOCH)
        .map(|_| pattern.to_owned())
        .map_err(|e| InvalidFormat(format!("{{{option}}} is no pattern of strftime: {e}")))
}

// === impl Piece ===

impl Piece {
    fn write(&self, record: &RecordView<'_>, out: &mut impl io::Write) -> io::Result<()> {
        match self {
            Self::Text(text) => out.write_all(text),
            Self::Topic => out.write_all(record.topic.as_bytes()),
            Self::Partition => write!(out, "{}", record.partition),
            Self::Offset => write!(out, "{}", record.offset),
            Self::LeaderEpoch => write!(out, "{}", record.leader_epoch),
            Self::Key(encoding) => encoding.write(record.key, out),
            Self::Value(encoding) => encoding.write(record.value, out),
            Self::KeyLength => write_length(record.key, out),
            Self::ValueLength => write_length(record.value, out),
            Self::HeaderCount => write!(out, "{}", record.headers.len()),
            Self::Headers => write_headers(record, out),
            Self::Millis => write!(out, "{}", record.timestamp_ms),
            Self::Time(pattern) => write_time(pattern, record.timestamp_ms, out),
        }
    }
}

impl Encoding {
    fn write(self, bytes: Option<&[u8]>, out: &mut impl io::Write) -> io::Result<()> {
        let Some(bytes) = bytes else {
            return if self == Self::Json { out.write_all(b"null") } else { Ok(()) };
        };
        match self {
            Self::Raw => out.write_all(bytes),
            Self::Hex => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Self::Base64 => out.write_all(BASE64.encode(bytes).as_bytes()),
            Self::Json => Ok(serde_json::to_writer(out, &String::from_utf8_lossy(bytes))?),
        }
    }
}

fn write_length(bytes: Option<&[u8]>, out: &mut impl io::Write) -> io::Result<()> {
    match bytes {
        Some(bytes) => write!(out, "{}", bytes.len()),
        None => out.write_all(b"-1"),
    }
}

fn write_headers(record: &RecordView<'_>, out: &mut impl io::Write) -> io::Result<()> {
    for (i, (name, value)) in record.headers.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(name.as_bytes())?;
        out.write_all(b"=")?;
        out.write_all(value.unwrap_or_default())?;
    }
    Ok(())
}

/// A time that no calendar has is written in milliseconds.
fn write_time(pattern: &str, ms: i64, out: &mut impl io::Write) -> io::Result<()> {
    let formatted = jiff::Timestamp::from_millisecond(ms)
        .and_then(|stamp| jiff::fmt::strtime::format(pattern, stamp));
    match formatted {
        Ok(text) => out.write_all(text.as_bytes()),
        Err(_) => write!(out, "{ms}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RecordView<'static> {
        RecordView {
            topic: "orders",
            partition: 3,
            offset: 42,
            timestamp_ms: 1_795_219_200_123,
            leader_epoch: 7,
            key: Some(b"k\xff"),
            value: Some(b"a \"v\""),
            headers: vec![("h", Some(b"1")), ("n", None)],
        }
    }

    fn shown(format: &str, record: &RecordView<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        format.parse::<Format>().unwrap().write(record, &mut out).unwrap();
        out
    }

    #[test]
    fn each_verb_shows_its_part() {
        for (format, expected) in [
            ("%t/%p@%o e%e\\n", &b"orders/3@42 e7\n"[..]),
            ("%k:%v", b"k\xff:a \"v\""),
            ("%s", b"a \"v\""),
            ("%k{hex} %k{base64}", b"6bff a/8="),
            ("%v{json}", br#""a \"v\"""#),
            ("%K %V %S %H", b"2 5 5 2"),
            ("%h", b"h=1,n="),
            ("%T %d", b"1795219200123 1795219200123"),
            ("%T{%Y-%m-%d %H:%M}", b"2026-11-21 00:00"),
            ("%d{strftime[%F]}", b"2026-11-21"),
            ("100%%{x}\\t\\\\\\x41\\0", b"100%{x}\t\\A\0"),
            ("ä%pä", "ä3ä".as_bytes()),
        ] {
            assert_eq!(shown(format, &record()), expected, "{format}");
        }
    }

    #[test]
    fn null_is_nothing_but_has_a_length_of_its_own() {
        let null = RecordView { key: None, value: None, headers: vec![], ..record() };
        assert_eq!(shown("[%k|%v|%h|%k{hex}]", &null), b"[|||]");
        assert_eq!(shown("%K %V %H %v{json}", &null), b"-1 -1 0 null");
        assert_eq!(shown("value", &null), b"\n");
        let empty = RecordView { key: Some(b""), value: Some(b""), ..record() };
        assert_eq!(shown("%K %V %v{json}", &empty), b"0 0 \"\"");
        let impossible = RecordView { timestamp_ms: i64::MAX, ..record() };
        assert_eq!(shown("%T{%F}", &impossible), i64::MAX.to_string().as_bytes());
    }

    #[test]
    fn json_says_where_bytes_are_not_text() {
        let line = String::from_utf8(shown("ndjson", &record())).unwrap();
        assert_eq!(
            line,
            "{\"topic\":\"orders\",\"partition\":3,\"offset\":42,\"timestamp\":1795219200123,\
             \"leader_epoch\":7,\"key_base64\":\"a/8=\",\"value\":\"a \\\"v\\\"\",\
             \"headers\":[{\"key\":\"h\",\"value\":\"1\"},{\"key\":\"n\",\"value\":null}]}\n"
        );
        let indented = shown("json", &record());
        let same: serde_json::Value = serde_json::from_slice(&indented).unwrap();
        assert_eq!(same, serde_json::from_str::<serde_json::Value>(&line).unwrap());
        assert!(indented.iter().filter(|byte| **byte == b'\n').count() > 5);
    }

    #[test]
    fn what_is_no_format_says_why() {
        for (format, why) in [
            ("josn", "did you mean json?"),
            ("", "none of value, json, ndjson"),
            ("%x", "%x is unknown"),
            ("%", "ends in a single %"),
            ("%p{hex}", "%p takes nothing in braces"),
            ("%k{rot13}", "{rot13} is none of"),
            ("%k{hex", "no closing brace"),
            ("%T{%!}", "no pattern of strftime"),
            ("\\q", "\\q is unknown"),
            ("%p\\", "\\ is unknown"),
            ("\\xZZ", "\\xZZ is no byte"),
            ("\\x4", "\\x4 is no byte"),
            ("\\xä", "is no byte"),
        ] {
            let error = format.parse::<Format>().unwrap_err().to_string();
            assert!(error.contains(why), "{format}: {error}");
        }
    }
}
