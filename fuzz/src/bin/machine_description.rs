//! libFuzzer's way to [`ireko_fuzz::machine_description`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::machine_description::run(data));
