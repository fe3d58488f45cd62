//! The fuzz target's checks on bytes that proptest makes, so that each test run is a short fuzz
//! run.
#![expect(clippy::unwrap_used, reason = "a test fails where it is wrong")]

#[path = "../fuzz/checks.rs"]
mod checks;

use proptest::prelude::*;
use riverrun_proto::{
    record::{BatchBuilder, BatchOptions, Codec, HEADER_BYTES},
    timestamp::Timestamp,
};

fn batch(codec: Codec, records: u8) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { codec, ..Default::default() });
    for i in 0..=records {
        let value = vec![i; 40];
        let headers = [("a", None), ("b", Some(&value[..9]))];
        let time = Timestamp::from_millis(i64::from(i) * 1000);
        builder.append(time, Some(&[i]), Some(&value), headers).unwrap();
    }
    builder.finish().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        checks::batch(&bytes);
        for codec in 0..5 {
            checks::body(codec, bytes.len() as u8, &bytes);
        }
    }

    /// Noise that looks like records: small numbers.
    #[test]
    fn small_numbers(bytes in proptest::collection::vec(0_u8..16, 0..200), count: u8) {
        checks::body(0, count % 32, &bytes);
    }

    /// A sound batch with some bytes changed, whole and with the checksum made to fit.
    #[test]
    fn damage(
        codec in 0_u8..5,
        records in 0_u8..20,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = batch(Codec::ALL[usize::from(codec)], records);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        checks::batch(&bytes);
        checks::body(codec, records + 1, bytes.get(HEADER_BYTES..).unwrap_or_default());
    }
}
