//! `ireko root`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;

/// Print where images and containers are kept
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print the folder, the cache and the socket as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the folder; nothing is made and no daemon is started.
pub fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let places = &context.reach.places;
    match args.json {
        true => output::json(&serde_json::json!({
            "root": places.root,
            "cache": places.cache,
            "socket": context.reach.socket()?,
        }))?,
        false => output::line(places.root.display())?,
    }
    Ok(Exit::SUCCESS)
}
