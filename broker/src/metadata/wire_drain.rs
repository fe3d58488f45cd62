//! Persisted forms since feature level 3: brokers that are drained and removed, and the snapshot that
//! has what they say. As in [`wire`](super::wire), a form never changes.

use std::sync::Arc;

use riverrun_proto::ids::BrokerId;

use super::{
    Broker, Command, MetadataImage,
    command::{RemoveBroker, SetDraining},
    wire::{BadField, Parsed, broker_epoch},
    wire_cluster::ImageV2,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetDrainingV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(bool, tag = "2")]
    draining: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RemoveBrokerV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageV3 {
    #[prost(message, required, tag = "1")]
    image: ImageV2,
    #[prost(uint32, repeated, tag = "2")]
    draining: Vec<u32>,
}

impl From<&SetDraining> for SetDrainingV1 {
    fn from(command: &SetDraining) -> Self {
        Self { broker: command.broker.0, draining: command.draining }
    }
}

impl TryFrom<SetDrainingV1> for Command {
    type Error = BadField;

    fn try_from(form: SetDrainingV1) -> Parsed<Self> {
        let broker = BrokerId(form.broker);
        Ok(Self::SetDraining(SetDraining { broker, draining: form.draining }))
    }
}

impl From<&RemoveBroker> for RemoveBrokerV1 {
    fn from(command: &RemoveBroker) -> Self {
        Self { broker: command.broker.0, broker_epoch: command.broker_epoch.get() }
    }
}

impl TryFrom<RemoveBrokerV1> for Command {
    type Error = BadField;

    fn try_from(form: RemoveBrokerV1) -> Parsed<Self> {
        let broker_epoch = broker_epoch(form.broker_epoch)?;
        Ok(Self::RemoveBroker(RemoveBroker { broker: BrokerId(form.broker), broker_epoch }))
    }
}

impl From<&MetadataImage> for ImageV3 {
    fn from(image: &MetadataImage) -> Self {
        let draining = image.brokers().filter(|broker| broker.draining);
        Self { image: image.into(), draining: draining.map(|broker| broker.id.0).collect() }
    }
}

impl TryFrom<ImageV3> for MetadataImage {
    type Error = BadField;

    fn try_from(form: ImageV3) -> Parsed<Self> {
        let mut image = Self::try_from(form.image)?;
        for id in form.draining {
            let broker = image.broker(BrokerId(id)).ok_or(BadField("drained broker"))?;
            let broker = Broker { draining: true, ..Broker::clone(broker) };
            image.put_broker(Arc::new(broker));
        }
        Ok(image)
    }
}
