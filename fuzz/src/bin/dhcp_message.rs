//! libFuzzer's way to [`ireko_fuzz::dhcp_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ireko_fuzz::dhcp_message::run(data));
