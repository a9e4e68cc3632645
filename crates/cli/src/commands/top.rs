//! `ireko top`.

use super::Context;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::table::Table;
use crate::target::Target;
use serde::Deserialize;

/// Display the running processes of a container
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "ireko top CONTAINER [ps OPTIONS]")]
pub struct Args {
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER", hide = true)]
    container_and_options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Processes {
    titles: Vec<String>,
    processes: Vec<Vec<String>>,
}

/// Lists the processes.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let [container, options @ ..] = &args.container_and_options[..] else {
        return Err(Error::usage("a container is needed"));
    };
    let options = (!options.is_empty()).then(|| options.join(" "));
    let target = Target::docker(["containers", container, "top"]).with_some("ps_args", options);
    let found: Processes = context.connect().await?.get(&target).await?;
    let mut table = Table::titled(found.titles);
    for process in found.processes {
        table.row(process);
    }
    output::print(table)?;
    Ok(Exit::SUCCESS)
}
