//! What `produce` makes of a line: the record that is stored.

use bytes::Bytes;
use clap::ValueEnum;
use memchr::memmem;

use super::json_record;

/// A record as the input has it; the command adds what it was told for all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InputRecord {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) partition: Option<u32>,
}

/// What a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// A value, or key, delimiter and value.
    #[default]
    Lines,
    /// A JSON object: what `consume --format ndjson` writes, or less.
    #[value(alias = "ndjson", alias = "jsonl")]
    Json,
}

/// How lines become records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub(crate) format: InputFormat,
    /// Between key and value of a line; `None`: lines are values.
    pub(crate) key_delimiter: Option<String>,
    /// An empty value is null.
    pub(crate) tombstones: bool,
    /// For records that have none of their own.
    pub(crate) key: Option<Bytes>,
    /// Before the record's own.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    /// For records that have none of their own.
    pub(crate) partition: Option<u32>,
}

// === impl Input ===

impl Input {
    /// The record of a line; `None` for a line that is no record (a blank one between JSON
    /// objects). The error says what is wrong with it.
    pub(crate) fn record(&self, line: Bytes) -> Result<Option<InputRecord>, String> {
        let mut record = match self.format {
            InputFormat::Lines => self.line(line)?,
            InputFormat::Json if line.iter().all(u8::is_ascii_whitespace) => return Ok(None),
            InputFormat::Json => json_record::parse(&line)?,
        };
        if self.tombstones && record.value.as_ref().is_some_and(Bytes::is_empty) {
            record.value = None;
        }
        record.key = record.key.or_else(|| self.key.clone());
        record.partition = record.partition.or(self.partition);
        if !self.headers.is_empty() {
            record.headers.splice(0..0, self.headers.iter().cloned());
        }
        Ok(Some(record))
    }

    fn line(&self, mut line: Bytes) -> Result<InputRecord, String> {
        let Some(delimiter) = &self.key_delimiter else {
            return Ok(InputRecord { value: Some(line), ..InputRecord::default() });
        };
        let at = memmem::find(&line, delimiter.as_bytes()).ok_or_else(|| {
            format!("no key: the line does not contain the key delimiter {delimiter:?}")
        })?;
        let key = line.split_to(at);
        let value = line.split_off(delimiter.len());
        Ok(InputRecord { key: Some(key), value: Some(value), ..InputRecord::default() })
    }
}

/// A header of the command line: `name=value` or `name:value`, whichever sign comes first.
pub(crate) fn header(text: &str) -> Result<(String, Option<Bytes>), String> {
    match text.split_once(['=', ':']) {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes()))))
        }
        _ => Err("a header is written name=value".to_owned()),
    }
}

/// A delimiter of the command line: `\n`, `\t`, `\r`, `\0` and `\\` mean those bytes.
pub(crate) fn delimiter(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match (c, c == '\\') {
            (c, false) => c,
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('0') => '\0',
                Some('\\') => '\\',
                _ => return Err(format!("{text:?}: there are \\n \\t \\r \\0 and \\\\")),
            },
        });
    }
    if out.is_empty() { Err("a delimiter has at least one character".into()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    fn record(input: &Input, line: &'static str) -> InputRecord {
        input.record(Bytes::from_static(line.as_bytes())).unwrap().unwrap()
    }

    #[test]
    fn a_line_is_a_value_or_a_key_and_a_value() {
        let plain = Input::default();
        assert_eq!(record(&plain, "a:b").value, bytes("a:b"));
        assert_eq!(record(&plain, "").value, bytes(""));
        let keyed = Input { key_delimiter: Some("::".into()), ..Input::default() };
        for (line, key, value) in
            [("k::v", "k", "v"), ("k::v::w", "k", "v::w"), ("::v", "", "v"), ("k::", "k", "")]
        {
            let record = record(&keyed, line);
            assert_eq!((record.key, record.value), (bytes(key), bytes(value)), "{line}");
        }
        let error = keyed.record(Bytes::from_static(b"k:v")).unwrap_err();
        assert!(error.contains("\"::\""), "{error}");
    }

    #[test]
    fn what_was_told_for_all_fills_what_a_record_lacks() {
        let input = Input {
            format: InputFormat::Json,
            key: bytes("all"),
            partition: Some(3),
            headers: vec![("a".into(), bytes("1"))],
            tombstones: true,
            ..Input::default()
        };
        let bare = record(&input, r#"{"value":""}"#);
        assert_eq!((bare.key, bare.value, bare.partition), (bytes("all"), None, Some(3)));
        let own = record(&input, r#"{"key":"own","value":"v","partition":1,"headers":{"b":"2"}}"#);
        assert_eq!((own.key, own.value, own.partition), (bytes("own"), bytes("v"), Some(1)));
        assert_eq!(own.headers, [("a".into(), bytes("1")), ("b".into(), bytes("2"))]);
        assert_eq!(input.record(Bytes::from_static(b" \r")), Ok(None));
    }

    #[test]
    fn headers_and_delimiters_as_typed() {
        assert_eq!(header("a=b:c"), Ok(("a".into(), bytes("b:c"))));
        assert_eq!(header("a:b=c"), Ok(("a".into(), bytes("b=c"))));
        assert_eq!(header("a="), Ok(("a".into(), bytes(""))));
        assert!(header("a").is_err() && header("=b").is_err());
        assert_eq!(delimiter(r"\t"), Ok("\t".into()));
        assert_eq!(delimiter(r"a\0\\"), Ok("a\0\\".into()));
        assert!(delimiter("").is_err() && delimiter(r"\q").is_err() && delimiter("\\").is_err());
    }
}
