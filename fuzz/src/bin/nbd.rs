//! libFuzzer's way to [`ireko_fuzz::nbd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::nbd::run(data));
