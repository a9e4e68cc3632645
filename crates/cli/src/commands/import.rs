//! `ireko import`, `ireko image import`.

use super::Context;
use crate::client::{Client, Content, broken_off};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::lines::read_line;
use crate::output;
use crate::progress::Upload;
use crate::reference::repository_and_tag;
use crate::target::Target;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use std::path::PathBuf;
use tokio::io::{AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

const PIECE: usize = 256 << 10;

/// Import the contents of a tar archive as an image's root file system
///
/// The archive may be compressed; "-" reads it from standard input.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Apply a Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,

    /// Set the commit message of the image
    #[arg(short, long, value_name = "string")]
    message: Option<String>,

    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// One line of the daemon's report.
#[derive(Debug, Default, Deserialize)]
struct Report {
    status: Option<String>,
    id: Option<String>,
    progress: Option<String>,
    error: Option<String>,
}

/// Sends the archive and prints the image's id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    // Opened before a daemon is started: a wrong name is told at once.
    let archive = Archive::open(args).await?;
    let client = context.connect().await?;
    let mut target = Target::docker(["images", "create"]).with("fromSrc", "-");
    if let Some(name) = &args.name {
        let (repository, tag) = repository_and_tag(name);
        target = target.with("repo", repository).with_some("tag", tag);
    }
    target = target.with_some("message", args.message.as_deref());
    for change in &args.change {
        target = target.with("changes", change);
    }
    let upload = Upload::new(archive.length);
    let image = send(&client, &target, archive, &upload).await;
    upload.finish();
    output::line(image?)?;
    Ok(Exit::SUCCESS)
}

async fn send(
    client: &Client,
    target: &Target,
    archive: Archive,
    upload: &Upload,
) -> Result<String> {
    let counted = upload.clone();
    let stream = archive.stream.inspect_ok(move |piece| counted.sent(piece.len() as u64));
    let response = client.send(Method::POST, target, Content::tar(stream)).await?;
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let image = read_report(StreamReader::new(body), |status| upload.working(status)).await?;
    image.ok_or_else(|| broken_off("no image was named"))
}

struct Archive {
    /// In bytes, where it is known.
    length: Option<u64>,
    stream: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<bytes::Bytes>> + Send>>,
}

impl Archive {
    async fn open(args: &Args) -> Result<Self> {
        if args.file.as_os_str() == "-" {
            if crate::terminal::stdin_is_terminal() {
                return Err(Error::local("no archive on standard input: it is a terminal")
                    .hint("ireko import - NAME < rootfs.tar"));
            }
            return Ok(Self::of(tokio::io::stdin(), None));
        }
        let cannot = |why: &str| {
            let error = Error::local(format!("cannot read {}: {why}", args.file.display()));
            match args.file.to_string_lossy().contains("://") {
                true => error.hint("download the archive first and name the file"),
                false => error,
            }
        };
        let file =
            tokio::fs::File::open(&args.file).await.map_err(|error| cannot(&error.to_string()))?;
        let metadata = file.metadata().await.map_err(|error| cannot(&error.to_string()))?;
        match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => Err(cannot("it is a folder")
                .hint("tar -C FOLDER -c . | ireko import - NAME makes an archive on the way")),
            (_, true) => Ok(Self::of(file, Some(metadata.len()))),
            _ => Ok(Self::of(file, None)),
        }
    }

    fn of(reader: impl AsyncRead + Send + 'static, length: Option<u64>) -> Self {
        Self { length, stream: ReaderStream::with_capacity(reader, PIECE).boxed() }
    }
}

/// Reads the report to its end; the last status that is an image's id is the result.
///
/// Errors: the daemon's own, which comes as a line, as the work had begun.
async fn read_report(
    stream: impl AsyncRead + Unpin,
    mut working: impl FnMut(&str),
) -> Result<Option<String>> {
    let mut lines = BufReader::new(stream);
    let mut image = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if read_line(&mut lines, &mut line).await.map_err(broken_off)? == 0 {
            return Ok(image);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let report: Report = crate::client::decode(&line)?;
        if let Some(message) = report.error {
            return Err(Error::new(ErrorKind::Refused(500), message));
        }
        let status = report.status.unwrap_or_default();
        if status.starts_with("sha256:") {
            image = Some(status);
        } else if let Some(text) = [report.id, Some(status), report.progress]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .reduce(|text, part| format!("{text} {part}"))
        {
            working(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn report(text: &str) -> (Result<Option<String>>, Vec<String>) {
        let mut told = Vec::new();
        let image = read_report(text.as_bytes(), |status| told.push(status.to_owned())).await;
        (image, told)
    }

    #[tokio::test]
    async fn the_report_ends_with_the_images_id() {
        let text =
            "{\"status\":\"Applying\",\"progress\":\"3 s\"}\r\n\r\n{\"status\":\"sha256:ab\"}";
        let (image, told) = report(text).await;
        assert_eq!(image.unwrap().as_deref(), Some("sha256:ab"));
        assert_eq!(told, ["Applying 3 s"]);
    }

    #[tokio::test]
    async fn a_failure_after_the_work_began_is_a_failure() {
        let text = "{\"status\":\"Applying\"}\n{\"error\":\"not a tar archive\"}\n";
        let (image, _) = report(text).await;
        assert_eq!(image.unwrap_err().to_string(), "not a tar archive");
        assert!(report("{\"status\":\"Applying\"}\n").await.0.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_without_end_takes_bounded_memory() {
        let endless = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'x'), 64 << 20);
        let error = read_report(endless, |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
