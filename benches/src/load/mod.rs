//! Load through the public client, as an application makes it: [`producers`] and [`consumers`].
//! Through the bare streams: [`wire`](crate::wire).

pub mod consumers;
pub mod producers;

use std::{sync::Arc, time::Duration};

use riverrun_client::{Client, Topic};

use crate::{
    recorder::Recorder,
    stop::{Quota, Stop},
    workload::Workload,
};

/// What senders and readers of one run share.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is done.
    pub workload: Arc<Workload>,
    /// To whom.
    pub client: Client,
    /// Where.
    pub topic: Topic,
    /// Where it is counted.
    pub recorder: Arc<Recorder>,
    /// When it ends.
    pub stop: Stop,
    /// Records that are still to be sent or read.
    pub quota: Arc<Quota>,
}

/// Longest wait for the answers to what was sent.
const CLOSE_MAX: Duration = Duration::from_secs(60);
