//! `ireko logs`.

use super::Context;
use crate::api::Container;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::quantity::point_in_time;
use crate::session::show;
use crate::target::Target;
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::Method;
use tokio_util::io::StreamReader;

/// Fetch the logs of a container
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Follow log output
    #[arg(short, long)]
    follow: bool,

    /// Show logs since a time (2026-01-02T13:23:37Z) or a while ago (42m)
    #[arg(long, value_name = "string")]
    since: Option<String>,

    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all")]
    tail: String,

    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,

    /// Show logs before a time (2026-01-02T13:23:37Z) or a while ago (42m)
    #[arg(long, value_name = "string")]
    until: Option<String>,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Prints what the container wrote, each stream to its own.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let now = jiff::Timestamp::now();
    let point = |text: &Option<String>| {
        text.as_deref().map(|text| point_in_time(text, now)).transpose().map_err(Error::local)
    };
    let (since, until) = (point(&args.since)?, point(&args.until)?);
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "json"]);
    let container: Container = client.get(&target).await?;
    let target = Target::docker(["containers", &container.id, "logs"])
        .with("stdout", "1")
        .with("stderr", "1")
        .with_flag("follow", args.follow)
        .with_flag("timestamps", args.timestamps)
        .with("tail", &args.tail)
        .with_some("since", since)
        .with_some("until", until);
    let response = client.send(Method::GET, &target, Content::none()).await?;
    let bytes = response.into_body().into_data_stream().map_err(std::io::Error::other);
    show(StreamReader::new(bytes), container.config.tty).await?;
    Ok(Exit::SUCCESS)
}
