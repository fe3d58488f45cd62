//! What the wire may say, and what is refused at the door.

use super::*;

fn reason<T>(result: Result<T, Failure>) -> Option<Reason> {
    result.err().map(|failure| failure.reason())
}

#[test]
fn topics_are_named_by_name_or_id() {
    let id = TopicId::random();
    let bytes = wire_topic_id(id);
    let none = Bytes::new();
    let named = topic_ref("orders", &none).unwrap();
    assert_eq!((named.id, named.name.unwrap().as_str()), (None, "orders"));
    assert_eq!(topic_ref("", &bytes).unwrap(), TopicRef { id: Some(id), name: None });
    let longest = "x".repeat(249);
    let table = [
        ("", none.clone(), Some(Reason::InvalidRequest)),
        ("a b", none.clone(), Some(Reason::InvalidTopic)),
        ("..", none.clone(), Some(Reason::InvalidTopic)),
        (&"x".repeat(250), none.clone(), Some(Reason::InvalidTopic)),
        (&longest, none, None),
        ("orders", Bytes::from_static(&[1; 15]), Some(Reason::InvalidRequest)),
        ("orders", Bytes::from_static(&[0; 16]), Some(Reason::InvalidRequest)),
    ];
    for (name, id, expected) in table {
        assert_eq!(reason(topic_ref(name, &id)), expected, "{name} {id:?}");
    }
}

#[test]
fn enums_and_numbers_of_other_versions_are_refused_with_their_reason() {
    assert_eq!(ack_mode(0), Ok(AckMode::All), "unspecified is the safe one");
    assert_eq!(ack_mode(3), Ok(AckMode::None));
    assert_eq!(reason(ack_mode(4)), Some(Reason::InvalidRequiredAcks));
    assert_eq!(reason(ack_mode(-1)), Some(Reason::InvalidRequiredAcks));
    assert_eq!(codec(0), Ok(None));
    assert_eq!(codec(5), Ok(Some(Codec::Zstd)));
    assert_eq!(reason(codec(6)), Some(Reason::UnsupportedCompressionType));
    assert_eq!(batch_format(0), Ok(()));
    assert_eq!(reason(batch_format(2)), Some(Reason::InvalidRequest));
    assert_eq!(read_format(0), Ok(Format::Records));
    assert_eq!(reason(read_format(9)), Some(Reason::InvalidRequest));
    assert_eq!(reason(isolation(7)), Some(Reason::InvalidRequest));
    assert_eq!(leader_epoch(None, "leader_epoch"), Ok(None));
    assert_eq!(reason(leader_epoch(Some(-1), "leader_epoch")), Some(Reason::InvalidRequest));
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    assert_eq!(reason(duration(Some(&negative), "max_wait")), Some(Reason::InvalidRequest));
    let long = Duration::from_millis(90_500);
    assert_eq!(duration(Some(&wire_duration(long)), "max_wait"), Ok(Some(long)));
}

#[test]
fn places_have_a_default_and_no_group() {
    use v1::read_from::At;
    let place = |at| start(Some(&v1::ReadFrom { at: Some(at) }));
    assert_eq!(start(None), Ok(Start::Earliest));
    assert_eq!(start(Some(&v1::ReadFrom { at: None })), Ok(Start::Earliest));
    assert_eq!(place(At::Offset(7)), Ok(Start::At(Offset::new(7).unwrap())));
    assert_eq!(reason(place(At::Offset(-1))), Some(Reason::OffsetOutOfRange));
    let before_1970 = Start::Timestamp(Timestamp::from_millis(-5));
    assert_eq!(place(At::TimestampMs(-5)), Ok(before_1970));
    assert_eq!(place(At::FromEnd(3)), Ok(Start::FromEnd(3)));
    assert_eq!(place(At::Edge(v1::Edge::Latest.into())), Ok(Start::Latest));
    assert_eq!(reason(place(At::Edge(v1::Edge::Committed.into()))), Some(Reason::InvalidRequest));
    assert_eq!(reason(place(At::Edge(99))), Some(Reason::InvalidRequest));
}

#[test]
fn offset_queries_must_say_what_they_want() {
    use v1::offset_query::At;
    let edge = |edge: v1::Edge| offset_spec(Some(At::Edge(edge.into())));
    assert_eq!(edge(v1::Edge::Earliest), Ok(OffsetSpec::Earliest));
    assert_eq!(edge(v1::Edge::Latest), Ok(OffsetSpec::Latest));
    assert_eq!(reason(edge(v1::Edge::Unspecified)), Some(Reason::InvalidRequest));
    assert_eq!(offset_spec(Some(At::MaxTimestamp(true))), Ok(OffsetSpec::MaxTimestamp));
    assert_eq!(reason(offset_spec(Some(At::MaxTimestamp(false)))), Some(Reason::InvalidRequest));
    assert_eq!(reason(offset_spec(None)), Some(Reason::InvalidRequest));
}

#[test]
fn without_acks_no_offset_is_told() {
    let produced = Produced {
        base_offset: Offset::new(5).unwrap(),
        last_offset: Offset::new(9).unwrap(),
        log_append_time: None,
        log_start_offset: Offset::ZERO,
        duplicate: false,
        leader_epoch: LeaderEpoch::new(2).unwrap(),
        durability: Durability::Disk,
        replicas: 1,
    };
    let told = append_result(&produced, AckMode::All);
    assert_eq!((told.base_offset, told.last_offset), (Some(5), Some(9)));
    assert_eq!(told.durability, i32::from(v1::Durability::Disk));
    let silent = append_result(&produced, AckMode::None);
    assert_eq!(
        (silent.base_offset, silent.last_offset, silent.log_start_offset),
        (None, None, None)
    );
}
