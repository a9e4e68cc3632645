//! libFuzzer's way to [`ireko_fuzz::listing`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::listing::run(data));
