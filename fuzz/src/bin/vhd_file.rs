//! libFuzzer's way to [`ireko_fuzz::vhd_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::vhd_file::run(data));
