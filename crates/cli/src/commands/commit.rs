//! `ireko commit`.

use super::Context;
use crate::api::Created;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::reference::repository_and_tag;
use crate::target::Target;
use std::path::{Path, PathBuf};

/// The longest answer file, in bytes: it travels in a request's first line.
const LONGEST_ANSWERS: usize = 20 << 10;

/// Create a new image from a container's changes
///
/// Nothing is copied: the container's disk is frozen as the image, and the container goes on with
/// a new one. It may be running. Data disks (--disk of run) stay out unless --all-disks is given; a
/// container of an image that has some gets a child of each.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Take the container's data disks in too, all as they are at the same moment
    #[arg(long)]
    all_disks: bool,

    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string")]
    author: Option<String>,

    /// Apply a Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,

    /// What a running Windows' sysprep is told, for --generalize: an unattend.xml
    #[arg(long, requires = "generalize", value_name = "file")]
    answer_file: Option<PathBuf>,

    /// Take out of a whole operating system what tells it from its copies; see `image generalize`
    #[arg(long, requires = "name")]
    generalize: bool,

    /// Commit message
    #[arg(short, long, value_name = "string")]
    message: Option<String>,

    /// Take only the container's own disk in; others are named and left out (default)
    #[arg(long, conflicts_with = "all_disks")]
    os_only: bool,

    /// Freeze the container's file systems during the commit
    #[arg(
        short, long, value_name = "bool", default_value_t = true, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, hide_possible_values = true,
        action = clap::ArgAction::Set
    )]
    pause: bool,

    #[arg(value_name = "CONTAINER")]
    container: String,

    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Commits the container and prints the image's id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let (repository, tag) = match &args.name {
        Some(name) => {
            let (repository, tag) = repository_and_tag(name);
            (Some(repository), tag)
        }
        None => (None, None),
    };
    let answer_file = args.answer_file.as_deref().map(read_answers).transpose()?;
    let mut target = Target::docker(["commit"])
        .with("container", &args.container)
        .with_some("repo", repository)
        .with_some("tag", tag)
        .with_some("comment", args.message.as_deref())
        .with_some("author", args.author.as_deref())
        .with_flag("generalize", args.generalize)
        .with_some("answerfile", answer_file)
        .with("pause", if args.pause { "1" } else { "0" })
        .with_flag("alldisks", args.all_disks && !args.os_only);
    for change in &args.change {
        target = target.with("changes", change);
    }
    let client = context.connect().await?;
    let image: Created = client.post(&target, Content::none()).await?;
    for warning in image.warnings {
        output::note(format_args!("WARNING: {warning}"));
    }
    output::line(image.id)?;
    Ok(Exit::SUCCESS)
}

fn read_answers(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::usage(format!("cannot read {}", file.display())).because(error))?;
    match text.len() <= LONGEST_ANSWERS {
        true => Ok(text),
        false => Err(Error::usage(format!(
            "{} has more than {} KiB, which is more than an answer file may have",
            file.display(),
            LONGEST_ANSWERS >> 10
        ))),
    }
}
