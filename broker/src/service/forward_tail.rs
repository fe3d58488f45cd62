//! `Tail` of a topic whose partitions several brokers lead: each tails its own, and what they say is
//! one stream. Whoever reads slowly slows all of them: nothing is read of a leader's stream before
//! there is room for it in the client's.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::{
    Stream, StreamExt as _,
    stream::{self, select_all},
};
use riverrun_proto::{ids::BrokerId, rpc::v1};
use tonic::Status;
use v1::{consume_service_client::ConsumeServiceClient, partition_data::Outcome};

use super::{
    convert::{self, PartitionRef},
    core::Core,
    forward::marked,
    status::Failure,
    tail,
};

/// What a tail sends.
pub(super) type Tailed = Pin<Box<dyn Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

/// Opens a stream.
pub(super) async fn open(
    core: &Arc<Core>,
    request: &v1::TailRequest,
    may_forward: bool,
) -> Result<Tailed, Status> {
    let refused = |failure: Failure| core.catalog.status(&failure);
    let parts = match may_forward {
        true => split(core, request).await,
        false => BTreeMap::new(),
    };
    if parts.keys().all(Option::is_none) {
        return Ok(Box::pin(tail::open(core, request).await.map_err(refused)?));
    }
    let mut tails: Vec<Tailed> = Vec::with_capacity(parts.len());
    for (leader, partitions) in parts {
        let request = v1::TailRequest { partitions, ..request.clone() };
        tails.push(match leader {
            None => Box::pin(tail::open(core, &request).await.map_err(refused)?),
            Some(leader) => elsewhere(core, leader, request).await?,
        });
    }
    Ok(limited(select_all(tails).boxed(), request.limit))
}

/// Partitions by who leads; none that leads none.
async fn split(
    core: &Arc<Core>,
    request: &v1::TailRequest,
) -> BTreeMap<Option<BrokerId>, Vec<i32>> {
    let mut parts = BTreeMap::<_, Vec<i32>>::new();
    let Ok(named) = convert::topic_ref(&request.topic, &request.topic_id) else { return parts };
    core.hear_of_topics([named.clone()]).await;
    let Ok(topic) = core.catalog.topic(&named) else { return parts };
    let wanted = match request.partitions.is_empty() {
        true => topic.partitions().map(|(index, _)| index.to_wire()).collect(),
        false => request.partitions.clone(),
    };
    let start = convert::start(request.start.as_ref());
    let start = start.ok().filter(|_| !request.client_rack.is_empty());
    for partition in wanted {
        let named = PartitionRef { topic: named.clone(), partition };
        // Followers serve those who said where they are.
        let is_here = start.is_some_and(|start| core.catalog.in_sync_here(&named, start));
        let leader = core.catalog.led_elsewhere(&named).filter(|_| !is_here);
        parts.entry(leader).or_default().push(partition);
    }
    parts
}

/// The tail of a leader; it holds its place among those passed on while it lasts.
async fn elsewhere(
    core: &Arc<Core>,
    leader: BrokerId,
    request: v1::TailRequest,
) -> Result<Tailed, Status> {
    let passage = core.forwarder.to_tail(leader).await;
    let passage = passage.map_err(|failure| core.catalog.status(&failure))?;
    let mut client = ConsumeServiceClient::new(passage.channel.clone())
        .max_decoding_message_size(core.limits.forwarded_answer_bytes_max);
    let opened = client.tail(marked(request, None)).await;
    let answers = opened.map_err(|status| core.forwarder.status_of(leader, status))?.into_inner();
    let ongoing = Some((answers, passage, Arc::clone(core)));
    Ok(Box::pin(stream::unfold(ongoing, |ongoing| async {
        let (mut answers, passage, core) = ongoing?;
        tokio::select! {
            next = answers.next() => Some((next?, Some((answers, passage, core)))),
            () = core.shutdown.draining() => {
                Some((Err(core.catalog.status(&Failure::draining())), None))
            }
        }
    })))
}

/// `limit` records of it; 0: all.
fn limited(tails: Tailed, limit: u64) -> Tailed {
    if limit == 0 {
        return tails;
    }
    let cut = stream::unfold((tails, limit), |(mut tails, mut left)| async move {
        if left == 0 {
            return None;
        }
        let mut next = tails.next().await?;
        if let Ok(v1::TailResponse { data: Some(data) }) = &mut next
            && let Some(Outcome::Records(read)) = &mut data.outcome
        {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            if read.records.len() > wanted {
                read.records.truncate(wanted);
                data.next_offset = read.records.last().map(|record| record.offset + 1);
                data.caught_up = false;
            }
            left -= read.records.len() as u64;
        }
        Some((next, (tails, left)))
    });
    Box::pin(cut)
}
