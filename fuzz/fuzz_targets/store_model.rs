//! See `kvs_fuzz::store_model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::store_model(input));
