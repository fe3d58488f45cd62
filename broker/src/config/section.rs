//! One table per part of the configuration: key, field, type, default, bounds, documentation.
//!
//! The [`section!`] macro turns such a table into a plain struct and the list of its [`Key`]s.
//! Reading, bounds, the annotated file and the configuration reference all come from that list, so
//! that they cannot disagree.

/// A key of the configuration: one row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// With its section: `log.reserve.bytes`.
    pub name: &'static str,
    /// Lines of the documentation, each with its leading space.
    pub(super) doc: &'static [&'static str],
    pub(super) expects: fn() -> String,
    /// The default as a person would write it.
    pub(super) default: fn() -> String,
    /// Least and most, where there are any.
    pub(super) bounds: fn() -> Option<(String, String)>,
}

impl Key {
    /// What the key means and why its default is what it is.
    pub fn documentation(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }

    /// Its default, as a person would write it.
    pub fn default_value(&self) -> String {
        (self.default)()
    }

    /// What may be written: `a size: bytes, or such as 64MiB or 1GB; from 1MiB to 1GiB`.
    pub fn expects(&self) -> String {
        match (self.bounds)() {
            None => (self.expects)(),
            Some((low, high)) => format!("{}; from {low} to {high}", (self.expects)()),
        }
    }

    /// To a person whose value was refused.
    pub(super) fn advice(&self) -> String {
        format!("expected {}", self.expects())
    }
}

/// A part of the configuration, reached by the names of its keys.
pub(super) trait Section {
    /// What the part is about: lines of documentation.
    fn about(&self) -> &'static [&'static str];

    /// All keys, in the order of the documentation.
    fn keys(&self) -> &'static [Key];

    /// Sets a key of this section (full name) from text. The error says what is wrong with the text.
    fn set(&mut self, key: &str, text: &str) -> Result<(), SetError>;

    /// The value in force, canonical; `None` for a key that is not of this section.
    fn get(&self, key: &str) -> Option<String>;
}

/// Why a key was not set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SetError {
    /// No such key in this section.
    UnknownKey,
    /// The text is no value for it, and why.
    BadValue(String),
}

/// Makes a section from its table:
///
/// ```text
/// section! {
///     /// What it is about.
///     pub struct LogConfig in "log";
///
///     /// What the key means.
///     "reserve.bytes" => reserve_bytes: ByteSize = ByteSize::mib(64), in ByteSize::mib(1) => ByteSize::gib(1);
/// }
/// ```
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $Section:ident in $name:literal;
        $(
            $(#[doc = $doc:literal])*
            $key:literal => $field:ident: $ty:ty = $default:expr $(, in $low:expr => $high:expr)?;
        )*
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Section {
            $($(#[doc = $doc])* pub $field: $ty,)*
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Section for $Section {
            fn about(&self) -> &'static [&'static str] {
                &[$($about),*]
            }

            fn keys(&self) -> &'static [$crate::config::section::Key] {
                use $crate::config::{section::Key, value::Value};
                &[$(Key {
                    name: concat!($name, ".", $key),
                    doc: &[$($doc),*],
                    expects: <$ty as Value>::expects,
                    default: || { let default: $ty = $default; default.show() },
                    bounds: || $crate::config::section::bounds_text!($ty $(, $low, $high)?),
                }),*]
            }

            fn set(
                &mut self,
                key: &str,
                text: &str,
            ) -> Result<(), $crate::config::section::SetError> {
                use $crate::config::{section::SetError, value::Value};
                match key {
                    $(concat!($name, ".", $key) => {
                        let value = <$ty as Value>::parse(text).map_err(SetError::BadValue)?;
                        $($crate::config::value::check_bounds(&value, $low, $high)
                            .map_err(SetError::BadValue)?;)?
                        self.$field = value;
                        Ok(())
                    })*
                    _ => Err(SetError::UnknownKey),
                }
            }

            fn get(&self, key: &str) -> Option<String> {
                use $crate::config::value::Value;
                match key {
                    $(concat!($name, ".", $key) => Some(self.$field.canonical()),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        impl $Section {
            /// Pairs of key and field, for the test that holds them together.
            pub(super) const FIELDS: &'static [(&'static str, &'static str)] =
                &[$(($key, stringify!($field))),*];
        }
    };
}
pub(super) use section;

/// The bounds of a row as text, if it has any.
macro_rules! bounds_text {
    ($ty:ty) => {
        None
    };
    ($ty:ty, $low:expr, $high:expr) => {
        Some($crate::config::value::show_bounds::<$ty>($low, $high))
    };
}
pub(super) use bounds_text;
