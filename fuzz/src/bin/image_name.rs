//! libFuzzer's way to [`ireko_fuzz::image_name`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::image_name::run(data));
