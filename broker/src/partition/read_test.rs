//! What a reader may rely on.

use riverrun_proto::timestamp::Timestamp;

use super::{test_support::*, watch::ReadySet, *};

#[tokio::test]
async fn readers_are_woken_when_something_commits() {
    let harness = Harness::leading(Setup::default());
    let set = ReadySet::new();
    let _watch = harness.partition.watch(&set, 42);
    harness.send(1, batch(1, 10));
    let mut tokens = Vec::new();
    set.ready(&mut tokens).await;
    assert_eq!(tokens, [42]);
    assert_eq!(harness.partition.high_watermark(), at(1));
}

#[test]
fn reading_outside_the_log_says_where_it_is() {
    let harness = Harness::leading(Setup { segment_bytes: 16 << 10, ..Setup::default() });
    for tag in 0..100 {
        harness.send(tag, batch(1, 1000));
        harness.offsets(tag);
    }
    assert_eq!(harness.delete(Some(50)), Ok(at(50)));
    let out = |offset| FetchError::OutOfRange {
        offset: at(offset),
        log_start_offset: at(50),
        log_end_offset: at(100),
    };
    assert_eq!(harness.fetch(49), Err(out(49)));
    assert_eq!(harness.fetch(101), Err(out(101)));
    assert_eq!(harness.readable(50), (50..100).collect::<Vec<_>>());
    assert!(harness.readable(100).is_empty());
    assert!(matches!(
        harness.delete(Some(101)),
        Err(OffsetsError::Fetch(FetchError::OutOfRange { .. }))
    ));
    assert_eq!(harness.delete(None), Ok(at(100)));
    assert_eq!(harness.delete(Some(10)), Ok(at(100)), "never back");
}

#[test]
fn a_reader_of_another_history_is_told_where_they_part() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(3, 10));
    harness.offsets(0);
    harness.register(Some(ME), 4, 2);
    harness.send(1, batch(3, 10));
    harness.offsets(1);
    let ask = |from, last_read| {
        harness.fetch_with(Fetch {
            from: at(from),
            max_bytes: 1 << 20,
            leader_epoch: None,
            last_read_epoch: Some(epoch(last_read)),
        })
    };
    assert!(matches!(ask(3, 1), Ok(Fetched::Batches { .. })));
    assert!(matches!(ask(6, 4), Ok(Fetched::Batches { .. })));
    assert_eq!(ask(5, 1), Ok(Fetched::Diverging { epoch: epoch(1), end: at(3) }));
    assert_eq!(ask(5, 3), Ok(Fetched::Diverging { epoch: epoch(1), end: at(3) }));
}

#[tokio::test]
async fn offsets_are_found_by_name_and_time() {
    let harness = Harness::leading(Setup::default());
    for (tag, time) in [(0, 100), (1, 300), (2, 200)] {
        harness.send(tag, batch_at(1_700_000_000_000 + time, 2, 10));
        harness.offsets(tag);
    }
    let time = |ms: i64| Timestamp::from_millis(1_700_000_000_000 + ms);
    let cases = [
        (OffsetSpec::Earliest, Some((0, None))),
        (OffsetSpec::Latest, Some((6, None))),
        (OffsetSpec::Timestamp(time(0)), Some((0, Some(time(100))))),
        (OffsetSpec::Timestamp(time(101)), Some((2, Some(time(300))))),
        (OffsetSpec::Timestamp(time(301)), None),
        (OffsetSpec::MaxTimestamp, Some((2, Some(time(300))))),
    ];
    for (spec, expected) in cases {
        let found = harness.partition.offset_at(spec, None).await.unwrap();
        assert_eq!(found.map(|f| (f.offset.get(), f.timestamp)), expected, "{spec:?}");
    }
}
