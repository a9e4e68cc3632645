//! `ireko image repair`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::table::printable;
use crate::target::Target;
use ireko_protocol::verified::Repaired;

/// Link images and containers to their parents after files were moved or renamed
///
/// Without IMAGE, every disk whose parent is not where it was is linked to the file that is it: the
/// parent is recognised by what it holds, and among copies by the GUID in its name. The exit status
/// is 1 when a link stays broken. Only links are written, never data; disks in use are left alone.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Link to PARENT though it is another disk or its data changed; what the linked disk does not hold
    /// itself may be garbage then
    #[arg(long, requires = "name")]
    force: bool,

    /// The image that the disk stands on
    #[arg(long, value_name = "image", requires = "name")]
    parent: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[arg(value_name = "IMAGE|CONTAINER", requires = "parent")]
    name: Option<String>,
}

/// Prints what was linked; what is broken still is told on standard error.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["images", "repair"])
        .with_some("image", args.name.as_deref())
        .with_some("parent", args.parent.as_deref())
        .with_flag("force", args.force);
    let repaired: Repaired = client.post(&target, Content::none()).await?;
    if args.json {
        output::json(&repaired)?;
    } else {
        for link in &repaired.linked {
            output::line(printable(&format!("Linked: {} to {}", link.disk, link.parent)))?;
        }
        for broken in &repaired.broken {
            output::note(printable(&format!("Broken: {}: {}", broken.disk, broken.reason)));
        }
        if repaired.linked.is_empty() && repaired.broken.is_empty() {
            output::note("every link is as it should be");
        }
    }
    Ok(if repaired.broken.is_empty() { Exit::SUCCESS } else { Exit::FAILURE })
}
