//! A record as a JSON object: what `consume --format json|ndjson` writes and `produce --format json`
//! reads. One comes out as the other went in.
//!
//! ```json
//! {"topic":"orders","partition":0,"offset":17,"timestamp":1795219200000,"leader_epoch":0,
//!  "key":"42","value":"{\"total\":7}","headers":[{"key":"source","value":"web"}]}
//! ```
//! Bytes that are not UTF-8 stand in Base64 under a name that says so, `key_base64` or
//! `value_base64`, instead of `key` or `value`. Null is `null`, or absent in what is read.
//!
//! What is read may be shorter: a `value` or `key` that is an object, an array, a number or a
//! boolean is stored as it is written; `headers` may be an object; `timestamp` may be a date and
//! time. `topic`, `offset` and `leader_epoch` are passed over. Any other name is an error, since a
//! mistyped `value` would otherwise be a record without one.

use std::{borrow::Cow, fmt, str};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use riverrun_client::ConsumerRecord;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    input::InputRecord,
    offset_spec::{self, TimeSpec},
};

/// What of a record commands show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordView<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// The object, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: u32,
    offset: i64,
    timestamp: i64,
    leader_epoch: i32,
    #[serde(flatten)]
    key: WrittenKey<'a>,
    #[serde(flatten)]
    value: WrittenValue<'a>,
    headers: Vec<WrittenHeader<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum WrittenKey<'a> {
    Key(Option<&'a str>),
    KeyBase64(String),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum WrittenValue<'a> {
    Value(Option<&'a str>),
    ValueBase64(String),
}

#[derive(Serialize)]
struct WrittenHeader<'a> {
    key: &'a str,
    #[serde(flatten)]
    value: WrittenValue<'a>,
}

/// The object, as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    value_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    headers: ReadHeaders,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    partition: Option<u32>,
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "leader_epoch")]
    _leader_epoch: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadHeader {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// A list of objects, or an object whose order is kept.
#[derive(Default)]
struct ReadHeaders(Vec<ReadHeader>);

// === impl RecordView ===

impl<'a> From<&'a ConsumerRecord> for RecordView<'a> {
    fn from(record: &'a ConsumerRecord) -> Self {
        Self {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            leader_epoch: record.leader_epoch(),
            key: record.key(),
            value: record.value(),
            headers: record.headers().iter().map(|h| (h.key(), h.value())).collect(),
        }
    }
}

impl Serialize for RecordView<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = self.headers.iter();
        Written {
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp_ms,
            leader_epoch: self.leader_epoch,
            key: match text_or_base64(self.key) {
                Ok(text) => WrittenKey::Key(text),
                Err(base64) => WrittenKey::KeyBase64(base64),
            },
            value: written_value(self.value),
            headers: headers
                .map(|(key, value)| WrittenHeader { key, value: written_value(*value) })
                .collect(),
        }
        .serialize(serializer)
    }
}

fn written_value(bytes: Option<&[u8]>) -> WrittenValue<'_> {
    match text_or_base64(bytes) {
        Ok(text) => WrittenValue::Value(text),
        Err(base64) => WrittenValue::ValueBase64(base64),
    }
}

fn text_or_base64(bytes: Option<&[u8]>) -> Result<Option<&str>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    str::from_utf8(bytes).map(Some).map_err(|_| BASE64.encode(bytes))
}

/// Reads one object. The error says what is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<InputRecord, String> {
    let read: Read<'_> = serde_json::from_slice(line).map_err(|e| without_line(&e))?;
    let header = |header: ReadHeader| {
        let value = one_of("value", header.value.map(Bytes::from), header.value_base64.as_deref())?;
        Ok::<_, String>((header.key, value))
    };
    Ok(InputRecord {
        key: one_of("key", read.key.map(stored).transpose()?, read.key_base64.as_deref())?,
        value: one_of("value", read.value.map(stored).transpose()?, read.value_base64.as_deref())?,
        headers: read.headers.0.into_iter().map(header).collect::<Result<_, _>>()?,
        timestamp_ms: read.timestamp.map(timestamp).transpose()?,
        partition: read.partition,
    })
}

/// Input is one line of many: the line that serde counts is always the first.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    }
}

/// A string is its text; anything else is stored as it is written.
fn stored(raw: &RawValue) -> Result<Bytes, String> {
    if !raw.get().starts_with('"') {
        return Ok(Bytes::copy_from_slice(raw.get().as_bytes()));
    }
    serde_json::from_str::<String>(raw.get()).map(Bytes::from).map_err(|e| without_line(&e))
}

fn one_of(name: &str, text: Option<Bytes>, base64: Option<&str>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64 are given")),
        (None, Some(base64)) => match BASE64.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) => Err(format!("{name}_base64 is no Base64: {e}")),
        },
        (text, None) => Ok(text),
    }
}

fn timestamp(raw: &RawValue) -> Result<i64, String> {
    if let Ok(ms) = serde_json::from_str::<i64>(raw.get()) {
        return Ok(ms);
    }
    let text = serde_json::from_str::<String>(raw.get()).unwrap_or_default();
    match offset_spec::time(&text) {
        Some(TimeSpec::At(ms)) => Ok(ms),
        _ => Err(format!(
            "timestamp {raw} is neither milliseconds since 1970 nor a date and time such as \
             \"2026-11-21T07:35:00Z\""
        )),
    }
}

impl<'de> Deserialize<'de> for ReadHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadersVisitor).map(Self)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Vec<ReadHeader>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"headers as [{"key": …, "value": …}] or {"name": "value"}"#)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some(header) = list.next_element()? {
            headers.push(header);
        }
        Ok(headers)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some((key, value)) = map.next_entry()? {
            headers.push(ReadHeader { key, value, value_base64: None });
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn value_of(json: &str) -> Option<Bytes> {
        parse(json.as_bytes()).unwrap().value
    }

    #[test]
    fn what_people_write_is_understood() {
        assert_eq!(value_of(r#"{"value":"a\nb"}"#), bytes("a\nb"));
        assert_eq!(value_of(r#"{"value":{"b": 1, "a":[1.50]}}"#), bytes(r#"{"b": 1, "a":[1.50]}"#));
        assert_eq!(value_of(r#"{"value":1e400}"#), bytes("1e400"));
        assert_eq!(value_of(r#"{"value":""}"#), bytes(""));
        assert_eq!(value_of(r#"{"value":null}"#), None);
        assert_eq!(value_of("{}"), None);
        let record = parse(
            br#" {"key":7,"headers":{"b":"1","a":null},"timestamp":"2026-11-21","partition":3,
                "topic":"else","offset":9,"leader_epoch":1} "#,
        )
        .unwrap();
        assert_eq!(record.key, bytes("7"));
        assert_eq!(record.headers, [("b".into(), bytes("1")), ("a".into(), None)]);
        assert_eq!(record.timestamp_ms, Some(1_795_219_200_000));
        assert_eq!(record.partition, Some(3));
    }

    #[test]
    fn what_cannot_be_says_why() {
        for (json, why) in [
            (r#"{"vlaue":"x"}"#, "unknown field `vlaue`"),
            (r#"{"value":"x","value_base64":"eA=="}"#, "both value and value_base64"),
            (r#"{"key_base64":"?"}"#, "key_base64 is no Base64"),
            (r#"{"timestamp":"noon"}"#, "timestamp \"noon\" is neither"),
            (r#"{"timestamp":1.5}"#, "timestamp 1.5 is neither"),
            (r#"{"partition":-1}"#, "invalid value: integer `-1`"),
            (r#"{"headers":"x"}"#, "headers as [{"),
            (r#"{"headers":[{"value":"x"}]}"#, "missing field `key`"),
            (r#"{"value":"x""#, "EOF"),
            (r#"{"value":"x"} {}"#, "trailing characters (column 15)"),
            ("7", "expected struct"),
            ("", "EOF"),
        ] {
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
            assert!(!error.contains("at line 1"), "{error}");
        }
    }

    proptest! {
        /// consume --format ndjson | produce --format json keeps a record as it is.
        #[test]
        fn what_is_written_is_read_back(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            headers in proptest::collection::vec(
                (".{0,5}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5))), 0..4),
            timestamp_ms in any::<i64>(),
        ) {
            let view = RecordView {
                topic: "t", partition: 2, offset: 9, timestamp_ms, leader_epoch: 1,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect(),
            };
            let line = serde_json::to_vec(&view).unwrap();
            prop_assert!(!line.contains(&b'\n'));
            let read = parse(&line).unwrap();
            prop_assert_eq!(read.key.as_deref(), view.key);
            prop_assert_eq!(read.value.as_deref(), view.value);
            prop_assert_eq!(read.timestamp_ms, Some(timestamp_ms));
            prop_assert_eq!(read.partition, Some(2));
            let read: Vec<_> =
                read.headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            prop_assert_eq!(read, view.headers);
        }
    }
}
