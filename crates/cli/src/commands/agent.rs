//! `ireko agent`: its options. The host binary, which carries the agent, writes it; that needs no daemon.

/// Write Ireko's agent for whole operating systems, a static program, to standard output
///
/// To install it in a running machine by hand, as root in it:
/// `ireko agent | ireko ssh root@NAME 'cat > agent && chmod +x agent && ./agent install'`.
/// `ireko image prepare` does that for an image.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {}
