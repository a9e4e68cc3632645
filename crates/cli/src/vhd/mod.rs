//! `ireko vhd`: plain disk files, without a daemon.
//!
//! ```text
//!   words ─► Verb ─► source (which files, in which format) ─► ireko_disk ─► table or JSON
//!                      work: progress on the terminal, an interrupt undoes
//! ```
//! The only commands that open disk files themselves. They take the same locks as a container's shim, so that a
//! file in use is told to be in use.

mod check;
mod compact;
mod convert;
mod create;
mod flatten;
mod format;
mod info;
mod map;
mod merge;
mod relink;
mod resize;
mod serve;
mod shape;
mod source;
mod work;

use crate::error::Result;
use crate::exit::Exit;
use clap::Subcommand;

/// What is done with disk files.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    Check(check::Args),
    Compact(compact::Args),
    Convert(convert::Args),
    Create(create::Args),
    Flatten(flatten::Args),
    Info(info::Args),
    Map(map::Args),
    Merge(merge::Args),
    Relink(relink::Args),
    Resize(resize::Args),
    Serve(serve::Args),
}

/// Does it.
pub async fn execute(verb: Verb) -> Result<Exit> {
    match verb {
        Verb::Check(args) => check::execute(args).await,
        Verb::Compact(args) => compact::execute(args).await,
        Verb::Convert(args) => convert::execute(args).await,
        Verb::Create(args) => create::execute(&args),
        Verb::Flatten(args) => flatten::execute(args).await,
        Verb::Info(args) => info::execute(&args),
        Verb::Map(args) => map::execute(&args),
        Verb::Merge(args) => merge::execute(args).await,
        Verb::Relink(args) => relink::execute(args).await,
        Verb::Resize(args) => resize::execute(args).await,
        Verb::Serve(args) => serve::execute(args).await,
    }
}
