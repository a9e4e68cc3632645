//! `ireko network inspect`.

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde_json::Value;

/// Display detailed information on networks, as JSON
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Prints one JSON array with what was found; what was not is told afterwards.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let (mut found, mut failed) = (Vec::<Value>::new(), false);
    for name in &args.networks {
        match client.get(&Target::docker(["networks", name])).await {
            Ok(network) => found.push(network),
            Err(error) => {
                output::note(error.report());
                failed = true;
            }
        }
    }
    output::json(&found)?;
    if failed { Err(Error::new(ErrorKind::AlreadyTold, "some failed")) } else { Ok(Exit::SUCCESS) }
}
