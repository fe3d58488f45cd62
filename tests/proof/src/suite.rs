//! Which searches there are, how far each goes, and which one finds which mutation.

use std::fmt;

use stateright::{Checker, Model};

use crate::{
    cluster::Setup,
    metadata,
    model::{Bounds, Search},
    replica::{self, Durability},
};

/// Nothing beyond what each search adds.
const STILL: Bounds = Bounds {
    writes: 1,
    versions: 3,
    messages: 0,
    restarts: 0,
    orders: 0,
    lapses: 0,
    sessions: 6,
    proofs: false,
    unclean: false,
    reassignments: false,
    copies: false,
};

/// A search's name, and how far it goes.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// For the report.
    pub name: &'static str,
    /// What acknowledgements survive.
    pub durability: Durability,
    /// `min.insync.replicas`.
    pub min_isr: u32,
    /// Replicas at first.
    pub replicas: usize,
    /// How much may happen.
    pub bounds: Bounds,
}

/// All states within the bounds: in a few seconds.
pub const EXHAUSTIVE_SHORT: [Scope; 2] = [
    Scope {
        name: "one restart that may lose everything",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { restarts: 1, versions: 2, ..STILL },
    },
    Scope {
        name: "an election or a fenced broker",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { orders: 1, ..STILL },
    },
];

/// All states within the bounds: in minutes.
pub const EXHAUSTIVE_LONG: [Scope; 4] = [
    Scope {
        name: "an order, and a leader that waits too long for a follower",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { orders: 1, lapses: 1, ..STILL },
    },
    Scope {
        name: "a restart that may lose everything, and an order",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { restarts: 1, orders: 1, ..STILL },
    },
    Scope {
        name: "an order and a message that crosses others",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { orders: 1, messages: 1, ..STILL },
    },
    Scope {
        name: "two replicas: a restart, an order, a wait, proposals that arrive twice",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 2,
        bounds: Bounds { restarts: 1, orders: 1, lapses: 1, copies: true, ..STILL },
    },
];

const BUSY: Bounds = Bounds {
    writes: 3,
    versions: 7,
    messages: 2,
    restarts: 1,
    orders: 4,
    lapses: 2,
    sessions: 12,
    copies: true,
    ..STILL
};

/// For random walks.
pub const WALKS: [Scope; 6] = [
    Scope {
        name: "memory, min ISR 2, one lossy restart",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: BUSY,
    },
    Scope {
        name: "memory, min ISR 3, two lossy restarts",
        durability: Durability::Memory,
        min_isr: 3,
        replicas: 3,
        bounds: Bounds { restarts: 2, ..BUSY },
    },
    Scope {
        name: "memory, restarts that prove to be whole",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { proofs: true, ..BUSY },
    },
    Scope {
        name: "disk, min ISR 1, any three power losses",
        durability: Durability::Disk,
        min_isr: 1,
        replicas: 3,
        bounds: Bounds { restarts: 3, ..BUSY },
    },
    Scope {
        name: "memory, unclean elections",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { orders: 6, versions: 9, unclean: true, ..BUSY },
    },
    Scope {
        name: "memory, reassignments and brokers that leave",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { versions: 8, reassignments: true, ..BUSY },
    },
];

const MEMORY: usize = 0;
const DISK: usize = 3;
const UNCLEAN: usize = 4;
const REASSIGNED: usize = 5;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// One of the replication protocol.
    Replica(replica::Mutation),
    /// One of the controller.
    Controller(metadata::Mutation),
}

/// What finds a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finder {
    /// Random walks in one of [`WALKS`].
    Walk(usize),
    /// The exhaustive search in one of [`HIDDEN`], where walks do not get in any reasonable time.
    Exhaustive(usize),
}

/// Where the search looks for what walks do not find.
pub const HIDDEN: [Scope; 2] = [
    Scope {
        name: "two orders",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { orders: 2, ..STILL },
    },
    Scope {
        name: "a restart that may lose everything, and an order",
        durability: Durability::Memory,
        min_isr: 2,
        replicas: 3,
        bounds: Bounds { restarts: 1, orders: 1, ..STILL },
    },
];

impl Broken {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let replica = replica::Mutation::ALL.into_iter().map(Self::Replica);
        replica.chain(metadata::Mutation::ALL.into_iter().map(Self::Controller))
    }

    /// What is known to find it.
    pub fn finder(self) -> Finder {
        use metadata::Mutation::{
            ElrSurvivesUncleanElection, NoBrokerEpochCheck, ReassignBeforeCaughtUp,
        };
        use replica::Mutation::{CommitUnflushed, KeepProgressOnReelection};
        match self {
            Self::Replica(KeepProgressOnReelection) => Finder::Exhaustive(0),
            Self::Controller(NoBrokerEpochCheck) => Finder::Exhaustive(1),
            Self::Replica(CommitUnflushed) => Finder::Walk(DISK),
            Self::Controller(ElrSurvivesUncleanElection) => Finder::Walk(UNCLEAN),
            Self::Controller(ReassignBeforeCaughtUp) => Finder::Walk(REASSIGNED),
            _ => Finder::Walk(MEMORY),
        }
    }

    fn rules(self) -> (Option<replica::Mutation>, Option<metadata::Mutation>) {
        match self {
            Self::Replica(mutation) => (Some(mutation), None),
            Self::Controller(mutation) => (None, Some(mutation)),
        }
    }

    /// Looks for it with what finds it, and says what was found.
    pub fn hunt(self, seeds: u64) -> Report {
        let (replica_rules, controller_rules) = self.rules();
        match self.finder() {
            Finder::Walk(scope) => {
                let search = WALKS[scope].search(replica_rules, controller_rules);
                walk(&search, seeds)
            }
            Finder::Exhaustive(scope) => {
                exhaust(HIDDEN[scope].search(replica_rules, controller_rules))
            }
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(mutation) => write!(f, "{mutation:?}"),
            Self::Controller(mutation) => write!(f, "{mutation:?}"),
        }
    }
}

impl Scope {
    /// The search, by these rules.
    pub fn search<R, C>(&self, replica_rules: R, controller_rules: C) -> Search<R, C> {
        let setup = Setup {
            replica_rules,
            controller_rules,
            durability: self.durability,
            min_isr: self.min_isr,
            replicas: self.replicas,
        };
        Search { setup, bounds: self.bounds }
    }

    /// The search over the code as it ships: not only by the same rules, but the same instance.
    pub fn sound(&self) -> Search<replica::Sound, metadata::Sound> {
        self.search(replica::Sound, metadata::Sound)
    }
}

/// What a search or some walks came to.
#[derive(Debug)]
pub struct Report {
    /// Different states; none are counted on walks.
    pub states: Option<usize>,
    /// Steps tried.
    pub transitions: u64,
    /// The longest way to a state.
    pub depth: usize,
    /// Whether all there is within the bounds was seen.
    pub complete: bool,
    /// The broken law, and the steps to it.
    pub found: Option<(&'static str, Vec<String>)>,
    /// What was seen on the way that must be, for the search to mean anything.
    pub seen: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.states {
            Some(states) => write!(
                f,
                "{states} states, {} transitions, depth {}",
                self.transitions, self.depth
            )?,
            None => write!(f, "{} transitions", self.transitions)?,
        }
        if self.complete {
            f.write_str(", complete")?;
        }
        match &self.found {
            Some((law, steps)) => write!(f, ": {law}, after {} steps", steps.len()),
            None => f.write_str(": nothing found"),
        }
    }
}

/// Looks at every state there is.
pub fn exhaust<R, C>(search: Search<R, C>) -> Report
where
    R: replica::Rules + Send + Sync + 'static,
    C: metadata::Rules + Send + Sync + 'static,
{
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = search.checker().threads(threads).spawn_bfs().join();
    let mut found = None;
    let mut seen = Vec::new();
    for (property, path) in checker.discoveries() {
        if property == "safe" {
            let law = path.last_state().violation().unwrap_or("none");
            let steps = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
            found = Some((law, steps));
        } else {
            seen.push(property);
        }
    }
    Report {
        states: Some(checker.unique_state_count()),
        transitions: checker.state_count() as u64,
        depth: checker.max_depth(),
        complete: found.is_none() && checker.is_done(),
        found,
        seen,
    }
}

/// Steps of one walk.
pub const WALK_STEPS: usize = 60;

/// Walks from each of so many seeds.
pub fn walk<R: replica::Rules, C: metadata::Rules>(search: &Search<R, C>, seeds: u64) -> Report {
    let walked = search.walk(1..=seeds, WALK_STEPS);
    Report {
        states: None,
        transitions: walked.transitions,
        depth: WALK_STEPS,
        complete: false,
        found: walked.found.map(|(law, seed, steps)| {
            let first = std::iter::once(format!("seed {seed}"));
            (law, first.chain(steps.iter().map(|step| format!("{step:?}"))).collect())
        }),
        seen: walked.seen,
    }
}

/// Checks that fail on purpose need not say so on the terminal.
pub fn hush() {
    std::panic::set_hook(Box::new(|_| {}));
}
