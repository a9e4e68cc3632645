//! `ireko diff`, `ireko container diff`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::table::printable;
use crate::target::Target;
use serde::{Deserialize, Serialize};

/// Inspect changes to files or directories on a container's filesystem
///
/// Against the container's image: A is new, C changed, D is gone. A folder is changed when something in
/// it is.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print the changes as JSON
    #[arg(long)]
    json: bool,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

/// Prints one line a path.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let target = Target::docker(["containers", &args.container, "changes"]);
    let changes: Option<Vec<Change>> = context.connect().await?.get(&target).await?;
    let changes = changes.unwrap_or_default();
    if args.json {
        output::json(&changes)?;
        return Ok(Exit::SUCCESS);
    }
    for change in changes {
        let letter = match change.kind {
            1 => 'A',
            2 => 'D',
            _ => 'C',
        };
        output::line(format_args!("{letter} {}", printable(&change.path)))?;
    }
    Ok(Exit::SUCCESS)
}
