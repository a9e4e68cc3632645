//! `ireko suspend`.

use super::{Context, each};
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use hyper::Method;

/// Save one or more running machines to disk, and end them
///
/// All that runs in a whole operating system stays as it is: its memory is written beside its disk, and
/// `ireko start` goes on from there, once. Until then its disk cannot be committed or written to.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Forget what was saved: the next start boots the disk, as after a power cut
    #[arg(long)]
    drop: bool,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Suspends the containers, one after the other.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let method = if args.drop { Method::DELETE } else { Method::POST };
    each(context, &args.containers, |client, container| {
        let method = method.clone();
        async move {
            let target = Target::ireko(["containers", &container, "suspend"]);
            client.send(method, &target, Content::none()).await?;
            Ok(container)
        }
    })
    .await
}
