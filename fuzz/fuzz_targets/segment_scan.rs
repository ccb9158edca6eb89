//! See `kvs_fuzz::segment_scan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::segment_scan(input));
