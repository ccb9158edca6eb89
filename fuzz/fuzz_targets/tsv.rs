//! See `kvs_fuzz::tsv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kvs_fuzz::tsv(input));
