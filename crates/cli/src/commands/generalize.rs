//! `ireko image generalize`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;

/// Make an image of a whole operating system without an identity of its own
///
/// Machine-id, ssh host keys, host name, leases, seeds, cloud-init's state, logs and histories are removed,
/// as virt-sysprep does it, in a VM that does not boot the system; users, their passwords and keys stay.
/// Every container of the new image makes its own identity when it boots. IMAGE stays as it is, and the new
/// image stands on it. For Linux on ext4.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Change nothing: the system was generalized from inside, for instance by Windows' sysprep
    #[arg(long)]
    done: bool,

    #[arg(value_name = "IMAGE")]
    image: String,

    #[arg(value_name = "NEWNAME")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    id: String,
}

/// Makes the image and prints its id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["images", &args.image, "generalize"])
        .with("to", &args.name)
        .with_flag("done", args.done);
    let made: Made = client.post(&target, Content::none()).await?;
    output::line(made.id)?;
    Ok(Exit::SUCCESS)
}
