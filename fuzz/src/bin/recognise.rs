//! libFuzzer's way to [`ireko_fuzz::recognise`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::recognise::run(data));
