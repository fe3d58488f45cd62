use riverrun_proto::ids::BrokerId;

use super::{
    super::{MetadataOffset, image::DELETED_TOPICS_REMEMBERED, test_support::*, wire::ImageV1},
    *,
};

/// Puts fields of our choice under a good header.
fn sealed(fields: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend(V1.to_le_bytes());
    bytes.extend(crc32fast::hash(fields).to_le_bytes());
    bytes.extend(fields);
    bytes
}

#[test]
fn newer_snapshots_are_refused() {
    let mut bytes = encode(&after(&[level_1()])).to_vec();
    for newer in [0, 5] {
        bytes[8] = newer;
        assert_eq!(decode(&bytes), Err(SnapshotError::NewerVersion(newer.into())));
    }
    for form in [2, 3, 4] {
        bytes[8] = form;
        let read = decode(&bytes);
        assert!(matches!(read, Err(SnapshotError::Malformed(_))), "of level 1, in form {form}");
    }

    let mut image = after(&[level_1()]);
    image.feature_level = FeatureLevel::new(5);
    let error = decode(&encode(&image)).unwrap_err();
    assert_eq!(error, SnapshotError::NewerFeatureLevel(FeatureLevel::new(5)));

    let mut fields = ImageV1::from(&after(&[level_1()])).encode_to_vec();
    fields.extend([0xf8, 0x01, 0x01]);
    let error = decode(&sealed(&fields)).unwrap_err();
    assert!(error.to_string().contains("fields this version does not know"), "{error}");
}

#[test]
fn what_is_no_snapshot_is_called_so() {
    for bytes in [&b""[..], b"RRIMAGE", b"something else altogether"] {
        assert_eq!(decode(bytes), Err(SnapshotError::NoSnapshot));
    }
}

/// A checksum proves that these bytes were written, not that whoever wrote them was right.
#[test]
fn an_image_that_breaks_the_rules_is_refused() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
    let topic = image.topic(&name("a")).unwrap();
    let broken = |change: &dyn Fn(&mut super::super::Partition)| {
        let (index, state) = topic.partitions().next().unwrap();
        let mut state = state.clone();
        change(&mut state);
        let mut topic = super::super::Topic::clone(topic);
        topic.set_partition(index, state);
        let mut image = image.clone();
        image.put_topic(&topic.into());
        decode(&encode(&image)).unwrap_err().to_string()
    };
    for (error, what) in [
        (broken(&|p| p.isr.push(BrokerId(2))), "not disjoint parts"),
        (broken(&|p| p.elr.push(BrokerId(1))), "not disjoint parts"),
        (broken(&|p| p.isr.clear()), "not in the ISR"),
        (broken(&|p| p.leader = Some(BrokerId(3))), "not in the ISR"),
        (broken(&|p| p.replicas.push(BrokerId(3))), "not registered"),
        (broken(&|p| p.replicas.push(BrokerId(1))), "twice"),
        (broken(&|p| p.min_isr = 0), "min ISR is 0"),
    ] {
        assert!(error.contains(what), "{error}");
    }
    let early = image.at(MetadataOffset::new(1).unwrap());
    assert!(decode(&encode(&early)).unwrap_err().to_string().contains("registered after"));
}

#[test]
fn deleted_topics_are_remembered_up_to_a_bound_oldest_forgotten_first() {
    let mut image = after(&[level_1()]);
    let id = |n: usize| {
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        riverrun_proto::ids::TopicId::from_bytes(&bytes).unwrap()
    };
    for n in 0..=DELETED_TOPICS_REMEMBERED {
        image = image.at(image.offset().next());
        image.remember_deleted(id(n), image.offset());
    }
    assert_eq!(image.deleted_at(id(0)), None);
    assert!(image.deleted_at(id(1)).is_some());
    assert_eq!(image.deleted_at(id(DELETED_TOPICS_REMEMBERED)), Some(image.offset()));
    let installed = decode(&encode(&image)).unwrap();
    assert_eq!(installed, image);
}
