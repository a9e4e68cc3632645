//! libFuzzer's way to [`ireko_fuzz::disk_to_vet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::disk_to_vet::run(data));
