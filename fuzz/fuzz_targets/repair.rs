//! See `kvs_fuzz::repair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::repair(input));
