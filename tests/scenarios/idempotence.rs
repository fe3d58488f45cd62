//! A producer's retries: recognised over restarts, clean ones and kills, with their first offsets.

use riverrun_proto::rpc::v1;
use riverrun_tests::{append::AppendStream, forge, process::BrokerProcess, raw::Raw};

use crate::{broker, data_dir};

/// Batches a broker remembers per producer, as it announces.
const REMEMBERED: i32 = 32;

async fn producer(raw: &Raw) -> (i64, i16) {
    let request = v1::InitProducerRequest::default();
    let answer = raw.produce.clone().init_producer(request).await.expect("anonymous").into_inner();
    (answer.producer_id, i16::try_from(answer.producer_epoch).expect("it is one"))
}

/// Two records per batch, so that sequences and batches are not the same.
fn batch((id, epoch): (i64, i16), number: i32) -> bytes::Bytes {
    let values = [format!("{number}a"), format!("{number}b")];
    forge::of_producer(id, epoch, number * 2, &[&values[0], &values[1]])
}

async fn over(how: &str, durability: &str, end: fn(BrokerProcess)) {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    let topic = raw.create_topic("t", 1, &[("durability", durability)]).await;
    let of = producer(&raw).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    assert_eq!(stream.opened.max_in_flight_batches, REMEMBERED.cast_unsigned());
    let mut offsets = Vec::new();
    for number in 0..REMEMBERED + 8 {
        let written = stream.append(&topic, 0, batch(of, number)).await.expect("in order");
        assert!(!written.duplicate);
        offsets.push(written.base_offset);
    }
    end(before);

    let after = options.start();
    let raw = after.raw().await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let last = REMEMBERED + 7;
    for number in (last - REMEMBERED + 1)..=last {
        let again = stream.append(&topic, 0, batch(of, number)).await;
        let again = again.unwrap_or_else(|e| panic!("{how}: batch {number}: {e:?}"));
        assert!(again.duplicate, "{how}: batch {number}");
        assert_eq!(again.base_offset, offsets[number as usize], "{how}: batch {number}");
        assert_eq!(again.last_offset, again.base_offset.map(|base| base + 1));
    }
    // Older than anyone may still have in flight: not written again, and not taken for new.
    let old = stream.append(&topic, 0, batch(of, 0)).await;
    if let Ok(old) = &old {
        assert!(old.duplicate, "{how}: {old:?}");
    }
    // The next one is new; and one further leaves a gap.
    let next = stream.append(&topic, 0, batch(of, last + 1)).await.expect("the next in order");
    assert!(!next.duplicate);
    let gap = stream.append(&topic, 0, batch(of, last + 3)).await.expect_err("a gap");
    assert_eq!(gap.reason, "OUT_OF_ORDER_SEQUENCE_NUMBER", "{how}");
    // A producer id is given out once, whatever happens.
    assert_ne!(producer(&raw).await.0, of.0, "{how}");

    let expected: Vec<String> =
        (0..=last + 1).flat_map(|n| [format!("{n}a"), format!("{n}b")]).collect();
    assert_eq!(raw.read_out(&topic, 0).await.texts(), expected, "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_recognised_after_a_clean_stop() {
    over("clean stop", "disk", |broker| assert!(broker.stop().0.success())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_recognised_after_a_kill() {
    for durability in ["disk", "memory"] {
        over("kill", durability, BrokerProcess::kill).await;
    }
}
