//! libFuzzer's way to [`ireko_fuzz::vhdx_log`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::vhdx_log::run(data));
