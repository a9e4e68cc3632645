//! `ireko setup`: its options. The host binary does the work; it needs no daemon.

/// Make the guest kernel and the base image's files from the machine's packages
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Make every part anew from the newest packages
    #[arg(long)]
    pub refresh: bool,
}
