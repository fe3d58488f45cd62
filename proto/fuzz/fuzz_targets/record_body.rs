//! Any bytes as the records of a batch whose header and checksum are right: what the checksum keeps
//! a fuzzer from reaching.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: (u8, u8, &[u8])| {
    let (codec, record_count, records) = input;
    checks::body(codec, record_count, records);
});
