//! Where nodes are reached on the internal port.
//!
//! A broker says it in its registration, which everybody has who has the metadata. But a node that
//! is to be sent the metadata has registered nowhere yet, and one that came back elsewhere while
//! nobody leads cannot register anew: so a node also says it with the first word on every
//! connection. What was heard last is tried first.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use riverrun_proto::ids::BrokerId;

use crate::metadata::{Endpoint, MetadataImage};

/// Nodes remembered by what they said: more than any cluster has. Past it whoever was not heard of
/// yet is found by its registration only.
pub const HEARD_MAX: usize = 1024;
/// Characters of an address: a host name and a port.
pub const ADDRESS_CHARS_MAX: usize = 270;

/// See the module.
#[derive(Debug, Default)]
pub struct Addresses {
    heard: Mutex<BTreeMap<BrokerId, String>>,
}

impl Addresses {
    /// `node` says, or was found to be, at `address`.
    pub fn hear(&self, node: BrokerId, address: &str) {
        if address.is_empty() || address.chars().count() > ADDRESS_CHARS_MAX {
            return;
        }
        let mut heard = self.heard.lock();
        if heard.len() < HEARD_MAX || heard.contains_key(&node) {
            heard.insert(node, address.to_owned());
        }
    }

    /// Where `node` may be, best guess first.
    pub fn of(&self, node: BrokerId, image: &MetadataImage) -> Vec<String> {
        let heard = self.heard.lock().get(&node).cloned();
        let registered = image.broker(node).and_then(|broker| broker.endpoint(Endpoint::INTERNAL));
        let registered = registered.map(|Endpoint { host, port, .. }| address(host, *port));
        let mut all: Vec<_> = heard.into_iter().chain(registered).collect();
        all.dedup();
        all
    }
}

/// `host:port`, also where the host is an IPv6 address.
pub fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Command,
        test_support::{after, level_1, register},
    };

    fn image() -> MetadataImage {
        let Command::RegisterBroker(mut broker) = register(1, 1) else { unreachable!() };
        broker.endpoints.push(Endpoint {
            listener: Endpoint::INTERNAL.into(),
            host: "::1".into(),
            port: 9192,
        });
        after(&[level_1(), Command::RegisterBroker(broker)])
    }

    #[test]
    fn what_was_heard_last_is_tried_first() {
        let (addresses, image) = (Addresses::default(), image());
        let node = BrokerId(1);
        assert_eq!(addresses.of(node, &image), ["[::1]:9192"]);
        addresses.hear(node, "elsewhere:1");
        addresses.hear(node, "elsewhere:2");
        assert_eq!(addresses.of(node, &image), ["elsewhere:2", "[::1]:9192"]);
        addresses.hear(node, "[::1]:9192");
        assert_eq!(addresses.of(node, &image), ["[::1]:9192"], "one place is tried once");
        assert!(addresses.of(BrokerId(2), &image).is_empty());
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (addresses, image) = (Addresses::default(), MetadataImage::default());
        for n in 0..2 * HEARD_MAX {
            addresses.hear(BrokerId(u32::try_from(n).unwrap()), "a:1");
        }
        assert_eq!(addresses.heard.lock().len(), HEARD_MAX);
        addresses.hear(BrokerId(0), &"x".repeat(ADDRESS_CHARS_MAX + 1));
        addresses.hear(BrokerId(0), "");
        assert_eq!(addresses.of(BrokerId(0), &image), ["a:1"]);
        addresses.hear(BrokerId(0), "b:1");
        assert_eq!(addresses.of(BrokerId(0), &image), ["b:1"], "who is known may move");
    }
}
