//! libFuzzer's way to [`ireko_fuzz::vhdx_metadata`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::vhdx_metadata::run(data));
