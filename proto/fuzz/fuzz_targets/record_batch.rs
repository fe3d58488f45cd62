//! Any bytes as a batch.
#![no_main]

#[expect(dead_code, reason = "the other target runs `body`")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::batch(bytes));
