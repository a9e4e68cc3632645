//! libFuzzer's way to [`ireko_fuzz::layer_sidecar`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::layer_sidecar::run(data));
