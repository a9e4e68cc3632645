//! libFuzzer's way to [`ireko_fuzz::vhd_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::vhd_header::run(data));
