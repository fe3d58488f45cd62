//! The configuration as documents: the annotated file and the reference, both made from the table
//! of keys.

use std::fmt::Write as _;

use super::{Config, load::variable_of, section::Key};

/// Width of comments in the annotated file.
const COMMENT_WIDTH: usize = 98;

const TOML_HEAD: &str = "\
# The configuration of a Riverrun broker: every key with its default.
#
# Generated from the broker's own table of keys; a test keeps it current. A broker needs none of
# it: take over the lines you change.
#
# Strength: default < this file < environment (RIVERRUN_ and the key in capitals, dots as
# underscores: RIVERRUN_NETWORK_GRPC_LISTEN) < flags (--set network.grpc.listen=127.0.0.1:9190).
# Sizes: bytes, or 64MiB (powers of 1024), or 1GB (powers of 1000). Durations: milliseconds, or
# 500ms, 10s, 7d. `riverrun serve --check` reads it and reports everything that is wrong.
";

const MARKDOWN_HEAD: &str = "\
# Configuration reference

Generated from the broker's own table of keys; a test keeps it current. `broker.toml` beside it is
the same as a file to start from.

Strength: default < file < environment < flags (`--set key=value`). An environment variable is
`RIVERRUN_` and the key in capitals with underscores for dots. Sizes are bytes or such as `64MiB`
(powers of 1024) and `1GB` (powers of 1000); durations are milliseconds or such as `500ms`, `10s`,
`7d`; `-1` is \"no limit\" where Kafka has it. Unknown keys are errors. `riverrun serve --check`
reports everything that is wrong at once.

The keys of `[topic]`, without `topic.`, are what `riverrun topic create --config key=value` and the
admin API take for a single topic.
";

impl Config {
    /// The whole configuration as an annotated TOML file. Reading it gives [`Config::default`].
    pub fn annotated_toml() -> String {
        let mut out = TOML_HEAD.to_owned();
        for (name, section) in Self::default().sections() {
            let _ = writeln!(out, "\n# {}\n[{name}]", lines(section.about()).join(" "));
            for key in section.keys() {
                out.push('\n');
                comment(&mut out, &key.documentation());
                comment(&mut out, &format!("{}.", sentence(&key.expects())));
                let _ = writeln!(out, "{} = {}", short(name, key), toml_value(key));
            }
        }
        out
    }

    /// The configuration reference as Markdown.
    pub fn reference_markdown() -> String {
        let mut out = MARKDOWN_HEAD.to_owned();
        for (name, section) in Self::default().sections() {
            let _ = writeln!(out, "\n## `[{name}]`\n\n{}", lines(section.about()).join(" "));
            for key in section.keys() {
                let default = match key.default_value() {
                    none if none.is_empty() => "none".to_owned(),
                    default => format!("`{default}`"),
                };
                let _ = writeln!(
                    out,
                    "\n### `{}`\n\n{}\n\nDefault: {default}. {}. Environment: `{}`.",
                    key.name,
                    key.documentation(),
                    sentence(&key.expects()),
                    variable_of(key)
                );
            }
        }
        out
    }
}

fn lines(doc: &[&'static str]) -> Vec<&'static str> {
    doc.iter().map(|line| line.trim()).collect()
}

fn short<'a>(section: &str, key: &'a Key) -> &'a str {
    key.name[section.len()..].trim_start_matches('.')
}

/// Numbers and booleans bare, everything else quoted.
fn toml_value(key: &Key) -> String {
    let value = key.default_value();
    let bare = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
    if bare { value } else { toml::Value::String(value).to_string() }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    // Words that are values stay as they are written.
    match chars.next() {
        Some(first) if !text.contains(" | ") => first.to_uppercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

/// Adds comment lines, broken between words.
fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + 1 + word.len() > COMMENT_WIDTH {
            out.push_str(if width == 0 { "# " } else { "\n# " });
            width = 1;
        } else {
            out.push(' ');
        }
        out.push_str(word);
        width += 1 + word.len();
    }
    out.push('\n');
}
