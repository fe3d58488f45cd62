//! Messages on their way in, before anybody has seen them.
//!
//! tonic collects a message until it is whole, and while it does so it gives the HTTP/2 windows back
//! as it goes: a client that begins many large messages and finishes none would hold as much memory
//! as it likes. So whatever is larger than a usual message takes its bytes from a budget, broker-wide,
//! as soon as its length is known, and keeps them until the next message of its stream begins, which
//! is when the handler has taken over (and has admission of its own). Past the budget such a message
//! is refused; waiting would not do, since what waits keeps the connection's window from those that
//! would finish.
//!
//! A unary produce is cut short here as well, and requests with many elements: decoded, an element
//! takes many times the two bytes that an empty one has on the wire, so a request that will be
//! refused is not decoded first ([`Count`]), and one that will not be pays for its elements, too.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use riverrun_proto::{limits::PACK_TARGET_BYTES, reason::Reason, rpc::v1};
use tonic::{Status, body::Body};

use super::{
    admission::{ByteBudget, BytePermit},
    core::Core,
    counting::{Count, Counted, Uncounted},
    limits::Limits,
    status::Failure,
};

/// Compression flag and length in front of each message of a gRPC stream.
const PREFIX_BYTES: usize = 5;
/// A message packed towards the usual size, with its last batch and envelope, takes no permit: it is
/// part of what a stream costs.
pub(super) const USUAL_BYTES: usize = 4 * PACK_TARGET_BYTES;

/// Records with many small fields and the call's own fields: what comes on top of the records' bytes.
const UNARY_ENVELOPE_BYTES: usize = 64 * 1024;
const PRODUCE_PATH: &str = "/riverrun.v1.ProduceService/Produce";

/// So many elements are part of what a stream costs; each further as many are paid for.
const FEW_ELEMENTS: usize = 1024;

/// A request's body that takes from the budget for large messages.
pub(super) struct Receiving {
    body: Body,
    core: Arc<Core>,
    messages: Messages,
}

/// Where one message ends and the next begins.
#[derive(Debug)]
struct Messages {
    budget: ByteBudget,
    bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Bytes of the message under way that have not come yet.
    missing: usize,
    permit: Option<BytePermit>,
    counted: Option<Counted>,
    /// Of the message under way.
    count: Option<Count>,
    /// For its elements, once decoded.
    element_permits: Vec<BytePermit>,
}

/// Why a message is not received.
#[derive(Debug, PartialEq, Eq)]
enum NotTaken {
    /// Its bytes.
    NoRoom(usize),
    /// Its bytes.
    TooLarge(usize),
    /// The field and how many elements it may have.
    TooMany(&'static str, usize),
    Malformed,
}

/// What is counted of the messages of a call.
fn counted(path: &str, limits: &Limits) -> Option<Counted> {
    Some(match path {
        PRODUCE_PATH => Counted {
            paths: &[&[2, 1]],
            max: limits.unary_records_max,
            decoded_bytes: size_of::<v1::Record>(),
            field: "records",
        },
        "/riverrun.v1.ProduceService/ProduceStream" => Counted {
            paths: &[&[2, 1]],
            max: limits.appends_per_message_max,
            decoded_bytes: size_of::<v1::ProduceStreamAppend>(),
            field: "appends.items",
        },
        "/riverrun.v1.ConsumeService/Fetch" => Counted {
            paths: &[&[1]],
            max: limits.fetch_partitions_max,
            decoded_bytes: size_of::<v1::PartitionFrom>(),
            field: "partitions",
        },
        // Of an open, or of an update: set, removed, paused and resumed.
        "/riverrun.v1.ConsumeService/FetchStream" => Counted {
            paths: &[&[1, 1], &[3, 2], &[3, 3], &[3, 4], &[3, 5]],
            max: limits.fetch_partitions_max.saturating_mul(4),
            decoded_bytes: size_of::<v1::PartitionFrom>(),
            field: "partitions",
        },
        _ => return None,
    })
}

impl Receiving {
    /// Of a call to `path`.
    pub(super) fn new(body: Body, path: &str, core: &Arc<Core>) -> Self {
        let bytes_max = match path {
            PRODUCE_PATH => core.limits.unary_bytes_max + UNARY_ENVELOPE_BYTES,
            _ => usize::MAX,
        };
        let counted = counted(path, &core.limits);
        let messages = Messages::new(core.receive_budget.clone(), bytes_max, counted);
        Self { body, core: Arc::clone(core), messages }
    }

    fn refuse(&self, not_taken: &NotTaken) -> Status {
        let failure = match not_taken {
            NotTaken::NoRoom(bytes) => {
                self.core.hits.receiving.hit();
                Failure::throttled(format!(
                    "a message of {bytes} bytes is not taken: the broker is receiving as much as \
                     it may hold already; send smaller messages, or fewer at once"
                ))
            }
            NotTaken::TooLarge(bytes) => {
                Failure::unary_too_large(*bytes, self.core.limits.unary_bytes_max)
            }
            NotTaken::TooMany(field, max) if *field == "records" => {
                let message = format!(
                    "more than {max} records in one call: send several calls, or use ProduceStream"
                );
                Failure::new(Reason::MessageTooLarge, message).at_field(field)
            }
            NotTaken::TooMany(field, max) => {
                if *field == "partitions" {
                    self.core.hits.fetch_partitions.hit();
                }
                let message = format!("more than {max} of them in one message");
                Failure::invalid(field, message)
            }
            NotTaken::Malformed => {
                Failure::invalid("request", "the bytes are no message of this call")
            }
        };
        self.core.catalog.status(&failure)
    }
}

impl http_body::Body for Receiving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(not_taken) = self.messages.see(data)
        {
            return Poll::Ready(Some(Err(self.refuse(&not_taken))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Messages ===

impl Messages {
    fn new(budget: ByteBudget, bytes_max: usize, counted: Option<Counted>) -> Self {
        Self {
            budget,
            bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_filled: 0,
            missing: 0,
            permit: None,
            counted,
            count: None,
            element_permits: Vec::new(),
        }
    }

    /// Follows the messages through the next bytes of the body.
    fn see(&mut self, mut data: &[u8]) -> Result<(), NotTaken> {
        while !data.is_empty() {
            if self.missing > 0 {
                let step = self.missing.min(data.len());
                self.count(&data[..step])?;
                self.missing -= step;
                data = &data[step..];
                continue;
            }
            let step = (PREFIX_BYTES - self.prefix_filled).min(data.len());
            self.prefix[self.prefix_filled..][..step].copy_from_slice(&data[..step]);
            self.prefix_filled += step;
            data = &data[step..];
            if self.prefix_filled == PREFIX_BYTES {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn count(&mut self, data: &[u8]) -> Result<(), NotTaken> {
        let (Some(count), Some(counted)) = (&mut self.count, self.counted) else { return Ok(()) };
        count.see(data).map_err(|why| match why {
            Uncounted::TooMany => NotTaken::TooMany(counted.field, counted.max),
            Uncounted::Malformed => NotTaken::Malformed,
        })?;
        let due = count.elements() / FEW_ELEMENTS;
        let bytes = FEW_ELEMENTS * counted.decoded_bytes;
        while self.element_permits.len() < due {
            self.element_permits.push(self.budget.try_take(bytes).ok_or(NotTaken::NoRoom(bytes))?);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), NotTaken> {
        let [compressed, length @ ..] = self.prefix;
        let bytes = u32::from_be_bytes(length) as usize;
        self.prefix_filled = 0;
        self.missing = bytes;
        self.permit = None;
        self.element_permits.clear();
        // A compressed one is refused by its first byte, further up.
        self.count = self.counted.filter(|_| compressed == 0).map(|it| Count::new(it, bytes));
        if bytes > self.bytes_max {
            return Err(NotTaken::TooLarge(bytes));
        }
        if bytes > USUAL_BYTES {
            self.permit = Some(self.budget.try_take(bytes).ok_or(NotTaken::NoRoom(bytes))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        message.resize(PREFIX_BYTES + bytes, 7);
        message
    }

    #[test]
    fn a_large_message_holds_its_bytes_until_the_next_begins() {
        let budget = ByteBudget::new(3 * USUAL_BYTES);
        let mut stream = Messages::new(budget.clone(), usize::MAX, None);
        let large = message(2 * USUAL_BYTES);
        stream.see(&large[..10]).unwrap();
        assert_eq!(budget.used(), 2 * USUAL_BYTES, "as soon as its length is known");
        stream.see(&large[10..]).unwrap();
        assert_eq!(budget.used(), 2 * USUAL_BYTES, "the handler may still look at it");

        let mut other = Messages::new(budget.clone(), usize::MAX, None);
        other.see(&message(USUAL_BYTES)).unwrap();
        assert_eq!(other.see(&large), Err(NotTaken::NoRoom(2 * USUAL_BYTES)));

        stream.see(&message(1)[..PREFIX_BYTES]).unwrap();
        assert_eq!(budget.used(), 0);
        other.missing = 0;
        other.see(&large).unwrap();
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_larger_than_the_whole_budget_passes_alone() {
        let budget = ByteBudget::new(USUAL_BYTES);
        let mut stream = Messages::new(budget.clone(), usize::MAX, None);
        stream.see(&message(4 * USUAL_BYTES)).unwrap();
        let mut other = Messages::new(budget, usize::MAX, None);
        assert!(other.see(&message(2 * USUAL_BYTES)).is_err());
    }

    #[test]
    fn what_the_call_does_not_take_is_refused_by_its_length_alone() {
        let mut stream = Messages::new(ByteBudget::new(1), 100, None);
        stream.see(&message(100)).unwrap();
        assert_eq!(stream.see(&message(101)[..PREFIX_BYTES]), Err(NotTaken::TooLarge(101)));
    }

    #[test]
    fn many_elements_are_paid_for_as_they_come_and_too_many_refused() {
        let counted = Counted { paths: &[&[1]], max: 3000, decoded_bytes: 100, field: "items" };
        let step = FEW_ELEMENTS * 100;
        let budget = ByteBudget::new(2 * step);
        let elements = |count: usize| {
            let payload = [0x0a, 0x00].repeat(count);
            let mut message = vec![0];
            message.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            [message, payload].concat()
        };
        let mut stream = Messages::new(budget.clone(), usize::MAX, Some(counted));
        stream.see(&elements(FEW_ELEMENTS - 1)).unwrap();
        assert_eq!(budget.used(), 0);
        stream.see(&elements(FEW_ELEMENTS * 2)).unwrap();
        assert_eq!(budget.used(), 2 * step, "held until the next message begins");
        let mut other = Messages::new(budget.clone(), usize::MAX, Some(counted));
        assert_eq!(other.see(&elements(FEW_ELEMENTS)), Err(NotTaken::NoRoom(step)));
        drop(stream);
        let mut third = Messages::new(ByteBudget::new(1 << 20), usize::MAX, Some(counted));
        assert_eq!(third.see(&elements(3001)), Err(NotTaken::TooMany("items", 3000)));
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        /// However the bytes are cut into frames, the messages are the same.
        #[test]
        fn frames_do_not_matter(
            sizes in prop::collection::vec(prop_oneof![0usize..20, USUAL_BYTES - 2..USUAL_BYTES + 3], 1..8),
            cuts in prop::collection::vec(1usize..200_000, 1..60),
        ) {
            let body: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
            let budget = ByteBudget::new(usize::MAX >> 4);
            let mut messages = Messages::new(budget.clone(), usize::MAX, None);
            let (mut rest, mut cuts) = (body.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let cut = cuts.next().unwrap().min(rest.len());
                messages.see(&rest[..cut]).unwrap();
                rest = &rest[cut..];
            }
            prop_assert_eq!((messages.missing, messages.prefix_filled), (0, 0));
            let last = *sizes.last().unwrap();
            prop_assert_eq!(budget.used(), if last > USUAL_BYTES { last } else { 0 });
        }
    }
}
