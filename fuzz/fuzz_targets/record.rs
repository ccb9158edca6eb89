//! See `kvs_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::record(input));
