//! `ireko send-keys`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use hyper::Method;
use ireko_protocol::shim::Keys;

/// Type on a running machine's keyboard
///
/// A key goes by its name, with those that are held meanwhile before it: ret, esc, tab, f2, up, a,
/// ctrl-alt-delete, win-r. With --text the words are typed as they are, one space between them, as on a
/// US keyboard.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Type the words themselves
    #[arg(long)]
    text: bool,

    #[arg(value_name = "CONTAINER")]
    container: String,

    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

/// Types.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let keys = match args.text {
        true => Keys::Text(args.keys.join(" ")),
        false => Keys::Named(args.keys.clone()),
    };
    let client = context.connect().await?;
    let target = Target::ireko(["containers", &args.container, "keys"]);
    client.send(Method::POST, &target, Content::json(&keys)?).await?;
    Ok(Exit::SUCCESS)
}
