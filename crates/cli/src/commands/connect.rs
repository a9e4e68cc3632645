//! `ireko connect`.

use super::Context;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::target::Target;
use tokio::io::AsyncWriteExt;

/// Connect standard input and output to a TCP port of a running container
///
/// It need not be published. For programs that take such a command in place of an address, such as
/// ssh: -o ProxyCommand='ireko connect web 22'.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,

    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// The request for a connection to a port.
pub fn target(container: &str, port: u16) -> Target {
    Target::ireko(["containers", container, "connect"]).with("port", port.to_string())
}

/// Carries bytes until the other side has said all.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let link = client.hijack(&target(&args.container, args.port), Content::none()).await?;
    let (mut from, mut to) = (link.output, link.input);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        // Where the other side does not listen any more, its end is heard below.
        let _ = tokio::io::copy(&mut stdin, &mut to).await;
        let _ = to.shutdown().await;
    });
    let mut stdout = tokio::io::stdout();
    stdout.write_all(&link.first).await.map_err(Error::output)?;
    tokio::io::copy(&mut from, &mut stdout).await.map_err(Error::output)?;
    stdout.flush().await.map_err(Error::output)?;
    Ok(Exit::SUCCESS)
}
