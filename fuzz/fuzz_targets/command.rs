//! See `kvs_fuzz::command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::command(input));
