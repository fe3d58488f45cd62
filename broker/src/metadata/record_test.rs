use super::{
    super::{command::SetFeatureLevel, test_support::*},
    *,
};

fn one_of_each() -> Vec<Command> {
    let Command::RegisterBroker(mut full) = register(7, 1) else { unreachable!() };
    full.rack = Some("eu-1a".into());
    vec![
        level_1(),
        Command::RegisterBroker(full),
        register(0, 2),
        create(1, "orders", &[&[7, 0], &[0, 7]]),
        grow(1, 3, &[&[7, 0]]),
        alter(1, 4, &[("retention.ms", "60000")], &["segment.bytes"], 2),
        delete(1),
        allocate(7, 2, 1000),
        drain(7, true),
        remove(7, 2),
        throttle(50 << 20),
    ]
}

#[test]
fn every_kind_comes_back_as_it_went() {
    for command in one_of_each() {
        let record = encode(&command).unwrap();
        assert_eq!(decode(&record), Ok(command));
    }
}

/// These bytes are on users' disks: a change here is a new version, never an edit.
#[test]
fn the_stored_form_is_frozen() {
    let hex = |command: &Command| -> String {
        encode(command).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(hex(&level_1()), "010001001001");
    assert_eq!(hex(&delete(1)), format!("060001000a10{}", "02".repeat(16)));
    assert_eq!(hex(&allocate(7, 2, 1000)), "070001000807100218e807");
    assert_eq!(hex(&drain(7, true)), "0e00010008071001");
    assert_eq!(hex(&drain(7, false)), "0e0001000807");
    assert_eq!(hex(&remove(7, 2)), "0f00010008071002");
    assert_eq!(hex(&throttle(50 << 20)), "100001000880808019");
    assert_eq!(hex(&throttle(0)), "10000100");
    assert_eq!(
        hex(&create(1, "ab", &[&[7, 0]])),
        format!("030001000a0261621210{}1a040a0207002801", "02".repeat(16))
    );
}

#[test]
fn an_unknown_kind_is_refused() {
    for kind in [0, 17, 999] {
        let mut record = encode(&delete(1)).unwrap().to_vec();
        record[..2].copy_from_slice(&u16::to_le_bytes(kind));
        let error = decode(&record).unwrap_err();
        assert_eq!(error, RecordError::UnknownKind(kind));
        assert!(error.to_string().contains("newer version of Riverrun"), "{error}");
    }
}

#[test]
fn a_newer_version_is_refused() {
    for command in one_of_each() {
        let mut record = encode(&command).unwrap().to_vec();
        record[2] = 2;
        assert!(matches!(decode(&record), Err(RecordError::NewerVersion { version: 2, .. })));
        record[2] = 0;
        assert!(matches!(decode(&record), Err(RecordError::Malformed { .. })));
    }
}

/// Protobuf would skip a field it does not know; then this node alone would act without it.
#[test]
fn an_unknown_field_is_refused() {
    for command in one_of_each() {
        let mut record = encode(&command).unwrap().to_vec();
        record.extend([0xf8, 0x01, 0x01]); // field 31, varint 1
        let error = decode(&record).unwrap_err();
        assert!(error.to_string().contains("fields this version does not know"), "{error}");
    }
}

#[test]
fn a_feature_level_this_binary_does_not_know_stops_it() {
    let level = FeatureLevel::new(FeatureLevel::LATEST.get() + 1);
    let command =
        Command::SetFeatureLevel(SetFeatureLevel { expected: FeatureLevel::LATEST, level });
    assert_eq!(encode(&command), Err(RecordError::NewerFeatureLevel(level)));
    let Command::SetFeatureLevel(set) = &command else { unreachable!() };
    let record = bytes(SET_FEATURE_LEVEL, &SetFeatureLevelV1::from(set)).unwrap();
    assert_eq!(decode(&record), Err(RecordError::NewerFeatureLevel(level)));
}

#[test]
fn fields_are_checked_again_when_read() {
    let topic = encode(&create(1, "ab", &[&[7]])).unwrap().to_vec();
    let at = topic.windows(2).position(|w| w == b"ab").unwrap();
    let mut slash = topic.clone();
    slash[at] = b'/';
    let mut nil = topic;
    let id = nil.windows(16).position(|w| w == [2; 16]).unwrap();
    nil[id..id + 16].fill(0);
    for (record, field) in [(slash, "topic name"), (nil, "topic id")] {
        let error = decode(&record).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    for short in [&[][..], &[1, 0, 1]] {
        assert!(matches!(decode(short), Err(RecordError::Malformed { kind: 0, .. })));
    }
}

#[test]
fn the_largest_topic_fits_and_more_is_refused() {
    let replicas: Vec<u32> = (0..15).map(|n| u32::MAX - n).collect();
    let all: Vec<&[u32]> = vec![&replicas; 10_000];
    let Command::CreateTopic(mut topic) = create(1, &"x".repeat(249), &all) else { unreachable!() };
    topic.configs = configs(&[("k", &"v".repeat(32 * 1024 - 1))]);
    let record = encode(&Command::CreateTopic(topic.clone())).unwrap();
    assert_eq!(decode(&record), Ok(Command::CreateTopic(topic.clone())));
    topic.configs = configs(&[("k", &"v".repeat(RECORD_BYTES_MAX))]);
    assert!(matches!(encode(&Command::CreateTopic(topic)), Err(RecordError::TooLarge(_))));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(record in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        let _ = decode(&record);
    }

    /// Whatever a flipped bit makes of a record, it is refused or stands for exactly what it says.
    #[test]
    fn what_decodes_encodes_alike(which in 0..11_usize, byte in 0..200_usize, bit in 0..8_u8) {
        let mut record = encode(&one_of_each()[which]).unwrap().to_vec();
        let byte = byte % record.len();
        record[byte] ^= 1 << bit;
        if let Ok(command) = decode(&record) {
            proptest::prop_assert_eq!(&encode(&command).unwrap()[..], &record[..]);
        }
    }
}
