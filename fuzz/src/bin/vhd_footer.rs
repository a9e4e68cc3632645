//! libFuzzer's way to [`ireko_fuzz::vhd_footer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::vhd_footer::run(data));
