//! libFuzzer's way to [`ireko_fuzz::zip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::zip::run(data));
