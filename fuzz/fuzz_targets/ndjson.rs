//! See `kvs_fuzz::ndjson`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::ndjson(input));
