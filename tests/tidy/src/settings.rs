//! Every configuration key is read by something: a setting without effect is a lie in the reference.

use std::collections::BTreeSet;

use crate::{
    Finding, House,
    house::is_test_file,
    tokens::{Kind, Token},
};

/// Where the tables of keys are.
const TABLES: &str = "broker/src/config/";

/// Whose code uses them.
const READERS: &str = "broker/src/";

/// Checks keys against each other, which is no use of them.
const CHECKS: &str = "broker/src/config/check.rs";

/// Keys that nothing reads, and why they are there.
const READ_BY_NOBODY: [(&str, &str); 3] = [
    ("insecure", "is what the check of listening addresses asks"),
    ("cleanup_policy", "has one value, so that others are refused with a reason"),
    ("compression_type", "has one value, so that others are refused with a reason"),
];

/// All findings of this rule.
pub(crate) fn check(house: &House) -> Vec<Finding> {
    let mut read = BTreeSet::new();
    for (file, source) in house.files() {
        if file.starts_with(READERS) && file != CHECKS && !is_test_file(file) {
            read.extend(fields_read(&source.tokens));
        }
    }
    let tables = house.files().filter(|(file, _)| file.starts_with(TABLES) && !is_test_file(file));
    let rows = tables.flat_map(|(file, source)| rows(&source.tokens).map(move |row| (file, row)));
    let unread = rows.filter(|(_, (field, _))| {
        !read.contains(field) && !READ_BY_NOBODY.iter().any(|(known, _)| known == field)
    });
    let what = |field| format!("nothing reads {field}: use it or take the key out of the table");
    unread.map(|(file, (field, line))| Finding::new(file, line, what(field))).collect()
}

/// Fields that are read as `.field`; a name alone may be something else.
fn fields_read(tokens: &[Token]) -> impl Iterator<Item = &str> {
    tokens.windows(2).filter(|w| w[0].is_char('.') && !w[1].test).filter_map(|w| w[1].word())
}

/// Rows of a table, `"key" => field: Type`: field and line.
fn rows(tokens: &[Token]) -> impl Iterator<Item = (&str, usize)> {
    tokens.windows(5).filter_map(|w| {
        let row = matches!(w[0].kind, Kind::Str(_))
            && w[1].is_char('=')
            && w[2].is_char('>')
            && w[4].is_char(':');
        row.then(|| w[3].word().map(|field| (field, w[3].line))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        check(&House::of(files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_without_a_reader_are_found() {
        let table = ("broker/src/config/log.rs", "section! { \"a.b\" => a_b: u32 = 1; }");
        let message = "broker/src/config/log.rs:1: nothing reads a_b: use it or take the key out of \
                       the table";
        assert_eq!(found(&[table]), [message]);
        let not_reading = [
            ("broker/src/config/check.rs", "fn f(c: &C) { g(c.a_b) }"),
            ("broker/src/log_test.rs", "fn f(c: &C) { g(c.a_b) }"),
            ("broker/src/log.rs", "#[cfg(test)] mod tests { fn f(c: &C) { g(c.a_b) } }"),
            ("broker/src/log.rs", "fn f(a_b: u32) {}"),
            ("client/src/log.rs", "fn f(c: &C) { g(c.a_b) }"),
        ];
        for file in not_reading {
            assert_eq!(found(&[table, file]).len(), 1, "{file:?}");
        }
        assert_eq!(found(&[table, ("broker/src/log.rs", "fn f(c: &C) { g(c.a_b) }")]), [""; 0]);
    }

    #[test]
    fn the_exceptions_are_keys_of_the_table() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let house = House::read(&root).expect("the source can be read");
        let tables = house.files().filter(|(file, _)| file.starts_with(TABLES));
        let fields: BTreeSet<&str> =
            tables.flat_map(|(_, source)| rows(&source.tokens).map(|(field, _)| field)).collect();
        for (field, _) in READ_BY_NOBODY {
            assert!(fields.contains(field), "{field} is no key any more");
        }
    }
}
