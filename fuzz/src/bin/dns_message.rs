//! libFuzzer's way to [`ireko_fuzz::dns_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::dns_message::run(data));
