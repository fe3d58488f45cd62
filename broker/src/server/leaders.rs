//! On whichever node leads the quorum: leaders are moved to where they belong
//! ([`crate::controller::leaders`]).

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    clock::Instant,
    config::ControllerConfig,
    controller::{MetaQuorum, QuorumError, leaders},
    metadata::{Command, FeatureLevel, MetadataImage, command::ElectLeader},
    service::internal::{Door, Inside},
};

/// How often it is looked whether a drained broker leads anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Leaders moved at one look, so that a look ends; the rest waits for the next.
const MOVES_MAX: usize = 500;

/// See the module. Ends with the door.
pub(super) async fn look_after(door: Door, config: ControllerConfig) {
    let Ok(inside) = door.inside() else { return };
    // Since when this node leads, or has last looked at all leaders.
    let mut since: Option<(u64, Instant)> = None;
    loop {
        sleep(LOOK_EVERY.min(config.leader_imbalance_check_interval_ms)).await;
        let now = inside.clock.monotonic();
        let Some(term) = inside.term_led() else {
            since = None;
            continue;
        };
        let began = match since {
            Some((known, began)) if known == term => began,
            // Brokers whose leaders somebody else moved need time to come back as well.
            _ => now,
        };
        since = Some((term, began));
        let image = inside.quorum.image();
        if image.feature_level() < FeatureLevel::V2 {
            continue;
        }
        let mut elections = leaders::away_from_drained(&image);
        let interval = config.leader_imbalance_check_interval_ms;
        if config.auto_leader_rebalance_enable && now.duration_since(began) >= interval {
            since = Some((term, now));
            let percent = config.leader_imbalance_per_broker_percentage;
            elections.extend(leaders::back_to_preferred(&image, percent));
        }
        elections.truncate(MOVES_MAX);
        propose(inside, &image, elections).await;
    }
}

async fn propose(inside: &Inside, image: &MetadataImage, elections: Vec<ElectLeader>) {
    for election in elections {
        let partition = election.partition;
        let topic = image.topic_by_id(partition.topic).map(|topic| topic.name.to_string());
        match inside.quorum.here().propose(Command::ElectLeader(election)).await {
            Ok(_) => {
                tracing::info!(%partition, topic, choice = ?election.choice, "leadership moves to where it belongs");
            }
            // It was changed meanwhile: the next look sees it as it is.
            Err(QuorumError::Rejected(why)) => {
                tracing::debug!(%partition, topic, %why, "leadership not moved");
            }
            // Somebody else leads, or this node stops.
            Err(why) => {
                tracing::debug!(%why, "leaders are not moved any more");
                return;
            }
        }
    }
}
