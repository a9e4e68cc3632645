//! `ireko version`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;
use serde_json::Value;

/// Show the versions of this command and of the daemon
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    version: String,
    api_version: String,
    #[serde(rename = "MinAPIVersion", default)]
    min_api_version: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    arch: String,
    #[serde(default)]
    kernel_version: String,
}

/// Prints both; where no daemon can be reached, this command's own before the error.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = serde_json::json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": std::env::consts::OS,
        "Arch": std::env::consts::ARCH,
    });
    let server = ask(context).await;
    if args.json {
        let (server, end) = match server {
            Ok(server) => (server, Ok(Exit::SUCCESS)),
            Err(error) => (Value::Null, Err(error)),
        };
        output::json(&serde_json::json!({ "Client": client, "Server": server }))?;
        return end;
    }
    output::print(format_args!(
        "Client:\n Version:      {}\n OS/Arch:      {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    ))?;
    let server: Server = crate::client::decode(server?.to_string().as_bytes())?;
    output::print(format_args!(
        "\nServer:\n Version:      {}\n API version:  {} (minimum {})\n OS/Arch:      {}/{}\n \
         Host kernel:  {}\n",
        server.version,
        server.api_version,
        server.min_api_version,
        server.os,
        server.arch,
        server.kernel_version,
    ))?;
    Ok(Exit::SUCCESS)
}

async fn ask(context: &Context) -> Result<Value> {
    context.connect().await?.get(&Target::docker(["version"])).await
}
