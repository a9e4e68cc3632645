//! `ireko cp`, `ireko container cp`.

mod goal;
mod pack;
mod unpack;

use super::Context;
use crate::archive_to::fetch;
use crate::client::{Client, Content, broken_off};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::progress::{Download, Upload};
use crate::target::Target;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, TryStreamExt};
use goal::{Goal, goal};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

const PIECE: usize = 256 << 10;
const STAT: &str = "x-docker-container-path-stat";

/// Copy files/folders between a container and the local filesystem
///
/// One of SRC_PATH and DEST_PATH is CONTAINER:PATH, the other a path on this machine, or "-": a tar
/// archive on standard input or output. A running container's paths are as its processes see them; of one
/// that does not run its disk is looked at. A folder goes into a folder that is there; with "/." after it
/// only what is in it does.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,

    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Suppress progress output during copy
    #[arg(short, long)]
    quiet: bool,

    #[arg(value_name = "SRC_PATH", allow_hyphen_values = true)]
    source: String,

    #[arg(value_name = "DEST_PATH", allow_hyphen_values = true)]
    destination: String,
}

/// Where something is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// On this machine.
    Here(PathBuf),
    /// Standard input or output.
    Stream,
    /// In a container.
    Container { name: String, path: String },
}

/// What is at a path of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    mode: u32,
    link_target: String,
}

impl Stat {
    fn is_folder(&self) -> bool {
        self.mode & 1 << 31 != 0
    }

    fn is_link(&self) -> bool {
        self.mode & 1 << 27 != 0
    }
}

/// Copies.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    match (place(&args.source), place(&args.destination)) {
        (Place::Container { .. }, Place::Container { .. }) => {
            Err(Error::usage("copying between containers is not supported")
                .hint("ireko cp ONE:PATH - | ireko cp - OTHER:FOLDER"))
        }
        (Place::Container { name, path }, to) => from(context, args, &name, &path, to).await,
        (source, Place::Container { name, path }) => {
            into(context, args, source, &name, &path).await
        }
        _ => Err(Error::usage("must specify at least one container source")
            .hint("a path in a container is written CONTAINER:PATH")),
    }
    .map(|()| Exit::SUCCESS)
}

/// Docker's rule: what begins with a slash or a dot is no container's.
fn place(text: &str) -> Place {
    match text.split_once(':') {
        _ if text == "-" => Place::Stream,
        Some((name, path)) if !name.is_empty() && !text.starts_with(['/', '.']) => {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Place::Container { name: name.to_owned(), path }
        }
        _ => Place::Here(text.into()),
    }
}

fn archive_target(container: &str, path: &str) -> Target {
    Target::docker(["containers", container, "archive"]).with("path", path)
}

/// What is there; `None` where nothing is.
async fn stat(client: &Client, container: &str, path: &str) -> Result<Option<Stat>> {
    let target = archive_target(container, path);
    let response = match client.send(Method::HEAD, &target, Content::none()).await {
        Ok(response) => response,
        // The answer to a HEAD has no words: what else may be wrong shows in the next request.
        Err(error) if error.status().is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    let header = response.headers().get(STAT).map(|value| BASE64_STANDARD.decode(value.as_bytes()));
    match header {
        Some(Ok(json)) => crate::client::decode(&json).map(Some),
        _ => Err(broken_off("it does not say what is at the path")),
    }
}

async fn from(
    context: &Context,
    args: &Args,
    container: &str,
    path: &str,
    to: Place,
) -> Result<()> {
    let client = context.connect().await?;
    let mut path = path.to_owned();
    let named = goal::base_name(&path).to_owned();
    if args.follow_link
        && let Some(stat) = stat(&client, container, &path).await?
        && stat.is_link()
    {
        path = stat.link_target;
    }
    let target = archive_target(container, &path);
    let Place::Here(to) = to else {
        crate::archive_to::refuse_terminal(None, "ireko cp CONTAINER:PATH - > FILE")?;
        return fetch(&client, &target, None, "copying").await;
    };
    let response = client.send(Method::GET, &target, Content::none()).await?;
    let header = response.headers().get(STAT).map(|value| BASE64_STANDARD.decode(value.as_bytes()));
    let Some(Ok(json)) = header else {
        return Err(broken_off("it does not say what is at the path"));
    };
    let stat: Stat = crate::client::decode(&json)?;
    let there = std::fs::metadata(&to).ok().map(|seen| seen.is_dir());
    let to_text = to.to_string_lossy().into_owned();
    let goal = goal(stat.is_folder(), goal::is_content(&path), &named, there, &to_text)?;
    let shown = (!args.quiet).then(|| Download::new("copying"));
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let bridge = SyncIoBridge::new(StreamReader::new(body));
    let (base, keep_owners) = (goal::base_name(&path).to_owned(), args.archive);
    let unpacked =
        tokio::task::spawn_blocking(move || unpack::unpack(bridge, &base, &goal, keep_owners));
    let unpacked = unpacked.await.map_err(|error| Error::local("copy").because(error))?;
    if let Some(shown) = shown {
        shown.finish();
    }
    unpacked.map_err(|error| Error::local(format!("cannot copy to {to_text}")).because(error))
}

async fn into(
    context: &Context,
    args: &Args,
    source: Place,
    container: &str,
    path: &str,
) -> Result<()> {
    let seen = match &source {
        Place::Here(source) => Some(look(source, args.follow_link)?),
        _ => None,
    };
    let client = context.connect().await?;
    let mut path = path.to_owned();
    let mut there = stat(&client, container, &path).await?;
    if let Some(link) = there.take_if(|stat| stat.is_link()) {
        path = link.link_target;
        there = stat(&client, container, &path).await?;
    }
    let upload = (!args.quiet).then(Upload::new);
    let (folder, content) = match source {
        Place::Here(source) => {
            let text = source.to_string_lossy().into_owned();
            let (is_folder, real) = seen.unwrap_or_default();
            let named = goal::base_name(&text).to_owned();
            let there = there.map(|stat| stat.is_folder());
            let Goal { folder, name } =
                goal(is_folder, goal::is_content(&text), &named, there, &path)?;
            (folder, Content::tar(pack::pack(real, name)))
        }
        _ if !there.is_some_and(|stat| stat.is_folder()) => {
            let message = format!("destination \"{container}:{path}\" must be a directory");
            return Err(Error::new(ErrorKind::Refused(400), message));
        }
        _ => {
            let stdin = ReaderStream::with_capacity(tokio::io::stdin(), PIECE).boxed();
            (path.clone(), Content::tar(stdin))
        }
    };
    let target = archive_target(container, &folder)
        .with("noOverwriteDirNonDir", "true")
        .with_flag("copyUIDGID", args.archive);
    let sent = client.send(Method::PUT, &target, content).await;
    if let Some(upload) = upload {
        upload.finish();
    }
    sent.map(drop)
}

/// Whether it is a folder, and what is copied: itself, or what it leads to.
fn look(source: &Path, follow: bool) -> Result<(bool, PathBuf)> {
    let missing = |error| Error::local(format!("cannot read {}", source.display())).because(error);
    let seen = std::fs::symlink_metadata(source).map_err(missing)?;
    match seen.is_symlink() && follow {
        true => {
            let real = std::fs::canonicalize(source).map_err(missing)?;
            Ok((real.is_dir(), real))
        }
        false => Ok((seen.is_dir(), source.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_path_has_a_colon_and_begins_with_its_name() {
        let inside = |name: &str, path: &str| Place::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        for (text, expected) in [
            ("web:/etc", inside("web", "/etc")),
            ("web:etc/", inside("web", "/etc/")),
            ("./web:x", Place::Here("./web:x".into())),
            ("/a:b", Place::Here("/a:b".into())),
            ("plain", Place::Here("plain".into())),
            ("-", Place::Stream),
        ] {
            assert_eq!(place(text), expected, "{text}");
        }
    }
}
