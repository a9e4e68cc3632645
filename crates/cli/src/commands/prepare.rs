//! `ireko image prepare`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;

/// Make an image of a whole operating system with Ireko's agent in it
///
/// The agent is one small static program, started by systemd. By it `exec` has terminals, input, users and
/// folders as in any container, `ip` says which addresses the system has, `stop` ends it in order and a live
/// commit holds its file systems still. It is put in by a VM that does not boot the system. IMAGE stays as
/// it is, and the new image stands on it. For Linux with systemd on ext4; `ireko agent` is for all others.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
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
    let target = Target::ireko(["images", &args.image, "prepare"]).with("to", &args.name);
    let made: Made = client.post(&target, Content::none()).await?;
    output::line(made.id)?;
    Ok(Exit::SUCCESS)
}
