//! Looks at topics while faults strike, and counts what becomes of their partitions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use riverrun_client::{Admin, BrokerId};
use tokio::{task::JoinHandle, time::sleep};

/// Between two looks. What comes and goes in between is not counted.
const LOOK: Duration = Duration::from_millis(100);

/// Counts until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    partitions: HashMap<(String, u32), (i32, Vec<BrokerId>)>,
    isr_changes: usize,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leaders of partitions that were elected: their epochs tell all of them.
    pub elections: usize,
    /// Changes of ISRs that were seen.
    pub isr_changes: usize,
}

// === impl Watcher ===

impl Watcher {
    /// Looks at these topics from now on.
    pub fn on(topics: Vec<String>, admin: Admin) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let looking = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    for topic in &topics {
                        if let Ok(topic) = admin.topic(topic.as_str()).await {
                            let mut seen = seen.lock().expect("nobody panics while holding it");
                            for p in topic.partitions {
                                let name = topic.name.to_string();
                                seen.look(name, p.index, p.leader_epoch, p.in_sync_replicas);
                            }
                        }
                    }
                    sleep(LOOK).await;
                }
            }
        });
        Self { seen, looking }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let seen = self.seen.lock().expect("nobody panics while holding it");
        let epochs =
            seen.partitions.values().map(|(epoch, _)| usize::try_from(*epoch).unwrap_or(0));
        Counts { elections: epochs.sum(), isr_changes: seen.isr_changes }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

// === impl Seen ===

impl Seen {
    fn look(&mut self, topic: String, partition: u32, epoch: i32, mut isr: Vec<BrokerId>) {
        isr.sort_unstable();
        let known = self.partitions.entry((topic, partition)).or_insert((epoch, isr.clone()));
        self.isr_changes += usize::from(known.1 != isr);
        // Whoever answers may have heard less than whoever answered before.
        *known = (known.0.max(epoch), isr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_and_epochs_never_go_back() {
        let mut seen = Seen::default();
        let isr = |ids: &[u32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
        seen.look("t".to_owned(), 0, 0, isr(&[1, 2, 3]));
        seen.look("t".to_owned(), 0, 1, isr(&[3, 2, 1]));
        assert_eq!((seen.isr_changes, seen.partitions[&("t".to_owned(), 0)].0), (0, 1));
        seen.look("t".to_owned(), 0, 0, isr(&[1, 2]));
        assert_eq!((seen.isr_changes, seen.partitions[&("t".to_owned(), 0)].0), (1, 1));
    }
}
