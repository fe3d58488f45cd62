//! `Fetch` of partitions that several brokers lead: each is asked for its own, the answers are one.
//!
//! All are asked first for what there is now. Only where that is not enough do all wait, and the first
//! that has something ends the wait for everybody: none of them is starved by another that always
//! has something, and none waits beside what is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{join_all, select_all},
};
use prost::Message as _;
use riverrun_proto::{ids::BrokerId, rpc::v1};
use v1::{consume_service_client::ConsumeServiceClient, partition_data::Outcome};

use super::{
    admission::BytePermit, convert, core::Core, fetch_unary, forward::marked, status::Failure,
};

/// What one broker is asked for, and whose partitions of the request they are.
struct Part {
    /// `None`: this broker.
    leader: Option<BrokerId>,
    at: Vec<usize>,
    request: v1::FetchRequest,
}

/// What it answered; the permit is for its memory.
type Answered = (Vec<v1::PartitionData>, Option<BytePermit>);

/// Handles one call. What it holds of the readers' memory goes with the answer.
pub(super) async fn fetch(
    core: &Arc<Core>,
    request: v1::FetchRequest,
    time: Duration,
    may_forward: bool,
) -> Result<(v1::FetchResponse, Vec<BytePermit>), Failure> {
    // Too many are refused as ever.
    let in_reason = request.partitions.len() <= core.limits.fetch_partitions_max;
    let mut parts = match may_forward && in_reason {
        true => split(core, &request),
        false => Vec::new(),
    };
    if parts.iter().all(|part| part.leader.is_none()) {
        let (response, permit) = fetch_unary::fetch(core, request, time).await?;
        return Ok((response, permit.into_iter().collect()));
    }
    let asked = convert::duration(request.max_wait.as_ref(), "max_wait")?;
    let limits = &core.limits;
    let wait = asked.unwrap_or(limits.fetch_wait).min(limits.fetch_wait_max).min(time);
    let mut answers = Answers::new(request.partitions.len());
    if let [part] = &mut parts[..] {
        part.request.max_wait = Some(convert::wire_duration(wait));
        answers.take(part, ask(core, part, time).await?);
        return Ok(answers.finish());
    }

    for part in &mut parts {
        part.request.max_wait = Some(convert::wire_duration(Duration::ZERO));
    }
    let now = join_all(parts.iter().map(|part| ask(core, part, time))).await;
    for (part, answer) in parts.iter().zip(now) {
        answers.take(part, answer?);
    }
    if answers.are_due(request.min_bytes as usize) || wait.is_zero() {
        return Ok(answers.finish());
    }
    for part in &mut parts {
        part.request.max_wait = Some(convert::wire_duration(wait));
    }
    let waiting = parts.iter().map(|part| ask(core, part, time).boxed());
    let (answer, which, _) = select_all(waiting).await;
    answers.take(&parts[which], answer?);
    Ok(answers.finish())
}

/// By who leads; what is not known, or led by nobody, is for this broker to explain.
fn split(core: &Core, request: &v1::FetchRequest) -> Vec<Part> {
    let mut by_leader = BTreeMap::<Option<BrokerId>, Vec<usize>>::new();
    for (at, wanted) in request.partitions.iter().enumerate() {
        let named = convert::partition_ref(wanted.partition.as_ref()).ok();
        let leader = named.and_then(|named| core.catalog.led_elsewhere(&named)).filter(|_| {
            // Followers serve those who said where they are.
            let place =
                convert::read_place(wanted).ok().filter(|_| !request.client_rack.is_empty());
            !place.is_some_and(|place| core.catalog.in_sync_here(&place.partition, place.start))
        });
        by_leader.entry(leader).or_default().push(at);
    }
    let count = u32::try_from(by_leader.len()).unwrap_or(u32::MAX).max(1);
    let room = match request.max_bytes as usize {
        0 => core.limits.response_bytes_max,
        bytes => bytes.min(core.limits.response_bytes_max),
    };
    let max_bytes = (u32::try_from(room).unwrap_or(u32::MAX) / count).max(1);
    let part = |(leader, at): (Option<BrokerId>, Vec<usize>)| Part {
        leader,
        request: v1::FetchRequest {
            partitions: at.iter().map(|at| request.partitions[*at].clone()).collect(),
            min_bytes: request.min_bytes,
            max_bytes,
            max_wait: None,
            format: request.format,
            isolation: request.isolation,
            client_rack: request.client_rack.clone(),
        },
        at,
    };
    by_leader.into_iter().map(part).collect()
}

async fn ask(core: &Arc<Core>, part: &Part, time: Duration) -> Result<Answered, Failure> {
    let Some(leader) = part.leader else {
        let (response, permit) = fetch_unary::fetch(core, part.request.clone(), time).await?;
        return Ok((response.partitions, permit));
    };
    let refused = |error: v1::Error| {
        let asked = part.request.partitions.iter();
        asked.map(|p| convert::partition_error(p.partition.clone(), error.clone())).collect()
    };
    let passage = match core.forwarder.to(leader).await {
        Ok(passage) => passage,
        Err(failure) => return Ok((refused(core.catalog.wire_error(&failure)), None)),
    };
    let mut client = ConsumeServiceClient::new(passage.channel.clone())
        .max_decoding_message_size(core.limits.forwarded_answer_bytes_max);
    match client.fetch(marked(part.request.clone(), Some(time))).await {
        Ok(answer) => {
            let partitions = answer.into_inner().partitions;
            let bytes = partitions.iter().map(v1::PartitionData::encoded_len).sum();
            Ok((partitions, Some(core.fetch_memory(bytes).await)))
        }
        Err(status) => Ok((refused(core.forwarder.error_of(leader, &status)), None)),
    }
}

/// Answers as they come, in the order of the request.
struct Answers {
    partitions: Vec<v1::PartitionData>,
    permits: Vec<BytePermit>,
}

// === impl Answers ===

impl Answers {
    fn new(partitions: usize) -> Self {
        Self { partitions: vec![v1::PartitionData::default(); partitions], permits: Vec::new() }
    }

    fn take(&mut self, part: &Part, (partitions, permit): Answered) {
        for (at, data) in part.at.iter().zip(partitions) {
            self.partitions[*at] = data;
        }
        self.permits.extend(permit);
    }

    /// Whether they are enough not to wait.
    fn are_due(&self, min_bytes: usize) -> bool {
        let mut bytes = 0;
        for data in &self.partitions {
            match &data.outcome {
                Some(Outcome::Error(_) | Outcome::Diverging(_)) => return true,
                Some(Outcome::Batches(read)) => bytes += read.encoded_len(),
                Some(Outcome::Records(read)) => bytes += read.encoded_len(),
                None => {}
            }
        }
        bytes >= min_bytes.max(1)
    }

    fn finish(self) -> (v1::FetchResponse, Vec<BytePermit>) {
        (v1::FetchResponse { partitions: self.partitions }, self.permits)
    }
}
