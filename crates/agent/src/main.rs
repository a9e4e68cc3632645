//! The entry of the guest agent; all it does is in the library.
//!
//! There is no Rust `main`: the standard one aborts where file descriptors 0 to 2 are closed and
//! /dev/null is missing, which is how a kernel without a console starts its init.
#![no_main]

/// Called by the C runtime. Returns only where this is not the machine's first process.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    if ireko_agent::rehearse::is_the_actor() {
        return 0;
    }
    if std::process::id() != 1 {
        eprintln!("ireko-agent is the first process of a utility VM and does nothing elsewhere");
        return 2;
    }
    ireko_agent::init::run()
}
