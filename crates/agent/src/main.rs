//! The entry of the guest agent; all it does is in the library.
//!
//! There is no Rust `main`: the standard one aborts where file descriptors 0 to 2 are closed and
//! /dev/null is missing, which is how a kernel without a console starts its init.
#![no_main]

/// Called by the C runtime. Returns only where this is not the machine's first process: then it is a
/// service of the operating system that started it.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    if ireko_agent::rehearse::is_the_actor() {
        return 0;
    }
    if std::process::id() == 1 {
        ireko_agent::init::run();
    }
    // A panic must not leave this function, which C called.
    let served = std::panic::catch_unwind(|| {
        let words: Vec<String> = std::env::args().skip(1).collect();
        ireko_agent::service::main(&words)
    });
    served.unwrap_or(1)
}
