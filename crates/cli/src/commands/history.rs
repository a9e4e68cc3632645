//! `ireko history`, `ireko image history`.

use super::Context;
use crate::api::{HistoryLine, short_id};
use crate::client::decode;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::{Table, ellipsis};
use crate::target::Target;
use crate::{output, words};

const CREATED_BY_WIDTH: usize = 45;

/// Show the history of an image
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON, as the API has it
    #[arg(long, conflicts_with_all = ["quiet", "no_trunc"])]
    json: bool,

    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,

    /// Only show image ids
    #[arg(short, long)]
    quiet: bool,

    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Lists what the image was made by, newest first.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let target = Target::docker(["images", &args.image, "history"]);
    let list: Box<serde_json::value::RawValue> = context.connect().await?.get(&target).await?;
    if args.json {
        output::json(&decode::<serde_json::Value>(list.get().as_bytes())?)?;
        return Ok(Exit::SUCCESS);
    }
    let lines: Vec<HistoryLine> = decode(list.get().as_bytes())?;
    let now = jiff::Timestamp::now().as_second();
    let mut table = Table::new(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for line in &lines {
        let id = if args.no_trunc { &line.id } else { short_id(&line.id) };
        if args.quiet {
            output::line(id)?;
            continue;
        }
        let created_by = match args.no_trunc {
            true => line.created_by.clone(),
            false => ellipsis(&line.created_by, CREATED_BY_WIDTH),
        };
        table.row([
            id.to_owned(),
            words::ago(line.created, now),
            created_by,
            words::size(u64::try_from(line.size).unwrap_or(0)),
            line.comment.clone(),
        ]);
    }
    if !args.quiet {
        output::print(table)?;
    }
    Ok(Exit::SUCCESS)
}
