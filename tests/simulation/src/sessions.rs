//! The one controller over an ideal log: it never dies. Who is there it decides by sessions of its
//! own, and it sends the metadata to everybody.

use std::{sync::Arc, time::Duration};

use riverrun_broker::metadata::{FeatureLevel, MetadataOffset, Presence};
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ProducerId},
};

use crate::{
    controller::{Controller, Heard, beginning, broker_id},
    message::{Body, Extent, Node},
    metadata_log::{Ideal, MetadataLog, Told},
    setup::SESSION_TIMEOUT,
    stage::{Event, Stage},
};

/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(50);

impl Controller<Ideal> {
    /// With the topic made, and every broker registered.
    pub fn ideal(stage: &mut Stage) -> Self {
        let partitions = stage.setup.partitions;
        let mut controller = Self::over(Ideal::default(), Node::Controller, partitions);
        for command in beginning(&stage.setup, FeatureLevel::NONE) {
            controller.order(command);
        }
        controller.take_told(stage);
        stage.schedule.after(TICK, Event::ControllerTick);
        controller
    }

    /// A producer id nobody else has.
    pub fn producer_id(&mut self, client: usize, stage: &mut Stage) -> Option<ProducerId> {
        self.identify(client);
        self.take_told(stage)
    }

    /// Takes a message.
    pub fn hear(&mut self, from: Node, body: Body, stage: &mut Stage) {
        let Node::Broker(broker) = from else { return };
        match body {
            Body::Join { incarnation, whole_since } => self.join(broker, incarnation, whole_since),
            Body::Heartbeat { epoch, applied, copies, .. } => {
                self.heartbeat(broker, epoch, applied, copies, stage);
            }
            Body::Leave { epoch } => self.stand(broker_id(broker), epoch, Presence::Leaving),
            Body::Propose { partition, proposal } => self.alter_isr(partition, proposal),
            _ => {}
        }
        self.take_told(stage);
    }

    /// Looks at sessions, and at partitions that nobody leads.
    pub fn tick(&mut self, stage: &mut Stage) {
        stage.schedule.after(TICK, Event::ControllerTick);
        let now = stage.now();
        for broker in self.image().brokers() {
            let heard = self.heard.get(&broker.id).filter(|heard| heard.epoch == broker.epoch);
            let silent_since = heard.map_or(Duration::ZERO, |heard| heard.at);
            if broker.presence != Presence::Fenced
                && now.saturating_sub(silent_since) > SESSION_TIMEOUT
            {
                self.stand(broker.id, broker.epoch, Presence::Fenced);
            }
        }
        self.take_told(stage);
        for partition in 0..stage.setup.partitions {
            self.elect_by_log(partition, stage);
            self.take_told(stage);
        }
    }

    /// As another controller would begin: it knows nobody, and gives everybody a full session.
    pub fn forget_sessions(&mut self, now: Duration) {
        for heard in self.heard.values_mut() {
            heard.at = now;
            heard.copies.clear();
        }
    }

    fn heartbeat(
        &mut self,
        broker: usize,
        epoch: BrokerEpoch,
        applied: MetadataOffset,
        copies: Vec<Extent>,
        stage: &mut Stage,
    ) {
        let image = self.image();
        let Some(known) = image.broker(broker_id(broker)) else { return };
        if known.epoch != epoch {
            return;
        }
        let at = stage.now();
        let newer = |heard: &Heard| heard.epoch == epoch && heard.applied > applied;
        if self.heard.get(&known.id).is_some_and(newer) {
            return;
        }
        let id: BrokerId = known.id;
        self.heard.insert(id, Heard { epoch, at, applied, copies });
        if applied < image.offset() {
            stage.send(Node::Controller, Node::Broker(broker), Body::Metadata(Arc::clone(&image)));
        }
        let caught_up = i64::try_from(applied.get()).is_ok_and(|applied| applied >= epoch.get());
        if known.presence == Presence::Fenced && caught_up {
            self.stand(id, epoch, Presence::Active);
        }
    }

    /// Takes note of what was applied, and tells everybody.
    pub fn take_told(&mut self, stage: &mut Stage) -> Option<ProducerId> {
        let mut identity = None;
        while let Some(told) = self.log.told() {
            let Told::Applied(applied) = told else { continue };
            if let Some((_, id)) = self.note(&applied, stage) {
                identity = Some(id);
            }
            if !matches!(applied.answer, Some((_, Ok(_)))) {
                continue;
            }
            for broker in 0..stage.setup.brokers {
                let metadata = Body::Metadata(Arc::clone(&applied.images[1]));
                stage.send(Node::Controller, Node::Broker(broker), metadata);
            }
        }
        identity
    }
}
