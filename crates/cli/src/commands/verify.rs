//! `ireko image verify`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::printable;
use crate::target::Target;
use crate::{lines, output};
use ireko_protocol::verified::{Severity, Verified};

/// Check that images can be read: their files, and the links between these
///
/// Checks all images where none is named. The exit status is 1 when something is wrong, and each
/// thing is told on a line of its own; warnings alone leave it 0. Nothing is changed.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Read all data too
    #[arg(long)]
    deep: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Prints what is wrong, and a summary on standard error.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["images", "verify"]).with_flag("deep", args.deep);
    let target = args.images.iter().fold(target, |target, image| target.with("image", image));
    let verified: Verified = lines::follow(&client, &target, Content::none(), "verifying").await?;
    match args.json {
        true => output::json(&verified)?,
        false => told(&verified)?,
    }
    Ok(if verified.is_sound() { Exit::SUCCESS } else { Exit::FAILURE })
}

fn told(verified: &Verified) -> Result<()> {
    for problem in &verified.problems {
        let word = match problem.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let line = format!("{word}: {}: {}", problem.object, problem.message);
        output::line(printable(&line))?;
    }
    let verdict = match verified.is_sound() {
        true => "sound".to_owned(),
        false => {
            let errors = verified.problems.iter().filter(|one| one.severity == Severity::Error);
            format!("errors: {}", errors.count())
        }
    };
    output::note(format_args!("images: {}, files: {}: {verdict}", verified.images, verified.files));
    Ok(())
}
