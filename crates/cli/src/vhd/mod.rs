//! `ireko vhd`: plain disk files, without a daemon.
//!
//! ```text
//!   words ─► Verb ─► source (which files, in which format) ─► ireko_disk ─► table or JSON
//!                      work: progress on the terminal, an interrupt undoes
//! ```
//! The only commands that open disk files themselves. They take the same locks as a container's shim, so that a
//! file in use is told to be in use.

mod compact;
mod create;
mod format;
mod info;
mod map;
mod serve;
mod source;
mod work;

use crate::error::Result;
use crate::exit::Exit;
use clap::Subcommand;

/// What is done with disk files.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    Compact(compact::Args),
    Create(create::Args),
    Info(info::Args),
    Map(map::Args),
    Serve(serve::Args),
}

/// Does it.
pub async fn execute(verb: Verb) -> Result<Exit> {
    match verb {
        Verb::Compact(args) => compact::execute(args).await,
        Verb::Create(args) => create::execute(&args),
        Verb::Info(args) => info::execute(&args),
        Verb::Map(args) => map::execute(&args),
        Verb::Serve(args) => serve::execute(args).await,
    }
}
