//! Who can reach whom, and which connections stand. What becomes of a message is decided in
//! [`Stage::send`](crate::stage::Stage::send).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::message::{Connection, End, Node};

/// The state of all links.
#[derive(Debug, Default)]
pub struct Network {
    /// Directions in which nothing gets through.
    cuts: BTreeSet<(Node, Node)>,
    /// The run of each process that is up.
    up: BTreeMap<Node, u32>,
    connections: BTreeMap<Connection, Link>,
    made: u64,
}

/// A connection as it stands.
#[derive(Debug)]
pub struct Link {
    /// Who made it, and to whom.
    pub ends: [End; 2],
    /// When the last message in each direction is to arrive.
    pub last_at: [Duration; 2],
}

impl Network {
    /// A process runs.
    pub fn note_up(&mut self, end: End) {
        self.up.insert(end.node, end.run);
    }

    /// It does no more; its connections, which are gone, are returned with the other ends.
    pub fn note_down(&mut self, node: Node) -> Vec<(Connection, End)> {
        self.up.remove(&node);
        let mut gone = Vec::new();
        self.connections.retain(|id, link| {
            let [a, b] = link.ends;
            if a.node != node && b.node != node {
                return true;
            }
            gone.push((*id, if a.node == node { b } else { a }));
            false
        });
        gone
    }

    /// The process that runs there.
    pub fn running(&self, node: Node) -> Option<End> {
        self.up.get(&node).map(|run| End { node, run: *run })
    }

    /// A new connection; whether it stands is seen when something is sent.
    pub fn connect(&mut self, from: End, to: Node) -> Connection {
        self.made += 1;
        let id = Connection(self.made);
        if let Some(to) = self.running(to) {
            let last_at = [Duration::ZERO; 2];
            self.connections.insert(id, Link { ends: [from, to], last_at });
        }
        id
    }

    /// The connection, if it stands.
    pub fn link(&mut self, connection: Connection) -> Option<&mut Link> {
        self.connections.get_mut(&connection)
    }

    /// Whether it stands.
    pub fn stands(&self, connection: Connection) -> bool {
        self.connections.contains_key(&connection)
    }

    /// It does no more; its ends.
    pub fn drop_connection(&mut self, connection: Connection) -> Option<[End; 2]> {
        self.connections.remove(&connection).map(|link| link.ends)
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: Node, to: Node) {
        self.cuts.insert((from, to));
    }

    /// Mends all that was cut.
    pub fn mend(&mut self) {
        self.cuts.clear();
    }

    /// Whether anything gets through.
    pub fn is_cut(&self, from: Node, to: Node) -> bool {
        from != to && self.cuts.contains(&(from, to))
    }
}
