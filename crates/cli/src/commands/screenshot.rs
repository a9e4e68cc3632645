//! `ireko screenshot`.

use super::Context;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use http_body_util::BodyExt;
use hyper::Method;
use std::io::Write;
use std::path::PathBuf;

/// Write what a running machine shows on its screen to a file, as PNG
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// The file to write; "-" is standard output
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

/// Takes the picture.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["containers", &args.container, "screen"]);
    let answer = client.send(Method::GET, &target, Content::none()).await?;
    let picture = answer.into_body().collect().await.map_err(crate::client::broken_off)?.to_bytes();
    if args.file.as_os_str() == "-" {
        std::io::stdout().write_all(&picture).map_err(Error::output)?;
        return Ok(Exit::SUCCESS);
    }
    std::fs::write(&args.file, &picture).map_err(|error| {
        Error::local(format!("cannot write {}", args.file.display())).because(error)
    })?;
    output::line(args.file.display())?;
    Ok(Exit::SUCCESS)
}
