//! libFuzzer's way to [`ireko_fuzz::chain_ops`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::chain_ops::run(data));
