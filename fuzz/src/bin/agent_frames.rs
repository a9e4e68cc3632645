//! libFuzzer's way to [`ireko_fuzz::agent_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::agent_frames::run(data));
