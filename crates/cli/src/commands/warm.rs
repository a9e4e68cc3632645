//! `ireko warm`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use crate::{output, quantity};
use ireko_protocol::warm::{Warm, Warmed};

/// Get ready for containers to come, so that the first of them starts in a moment
///
/// Makes the template of their virtual machine, and has one stand by, as a start does that leaves
/// time for it. One that nobody needs goes after a quarter of an hour. `ireko daemon --help` tells
/// how many stand by, `ireko template --help` what is kept on disk.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// CPUs of the containers, such as 2
    #[arg(long, value_name = "decimal", value_parser = quantity::nano_cpus)]
    cpus: Option<i64>,

    /// Memory of the containers, such as 512m or 2g
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    memory: Option<u64>,

    /// On how many networks each is
    #[arg(long, value_name = "count", default_value_t = 1)]
    networks: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Nanoseconds of CPU time in a thousandth of a CPU second.
const NANOS: i64 = 1_000_000;

/// Prints what is there now.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let wanted = Warm {
        memory: args.memory,
        cpu_millis: args.cpus.and_then(|nanos| u64::try_from(nanos / NANOS).ok()),
        networks: Some(args.networks),
    };
    let warmed: Warmed = client.post(&Target::ireko(["warm"]), Content::json(&wanted)?).await?;
    if args.json {
        output::json(&warmed)?;
        return Ok(Exit::SUCCESS);
    }
    output::line(format_args!(
        "{} MiB of memory, {}, {}: the template is there, {} by",
        warmed.memory_mib,
        count(warmed.vcpus as usize, "CPU"),
        count(warmed.networks, "network"),
        match warmed.standing_by {
            1 => "1 virtual machine stands".to_owned(),
            number => format!("{number} virtual machines stand"),
        },
    ))?;
    Ok(Exit::SUCCESS)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
