//! `ireko load`, `ireko image load`.

use super::Context;
use crate::client::{Content, broken_off};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::lines::read_line;
use crate::output;
use crate::progress::Upload;
use crate::target::Target;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use std::path::PathBuf;
use tokio::io::{AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

const PIECE: usize = 256 << 10;

/// Load images from a tar archive or STDIN
///
/// Takes what `docker save` writes and OCI image layouts, plain or compressed with gzip, xz or zstd.
/// Layers that are here already are shared. An image that had a loaded image's name loses it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "file")]
    input: Option<PathBuf>,

    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

/// One line of the daemon's report.
#[derive(Debug, Default, Deserialize)]
struct Report {
    stream: Option<String>,
    status: Option<String>,
    id: Option<String>,
    error: Option<String>,
}

/// Sends the archive and prints what was loaded.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    // Opened before a daemon is started: a wrong name is told at once.
    let source: Box<dyn AsyncRead + Send + Unpin> = match &args.input {
        Some(path) => Box::new(tokio::fs::File::open(path).await.map_err(|error| {
            Error::local(format!("cannot read {}", path.display())).because(error)
        })?),
        None if crate::terminal::stdin_is_terminal() => {
            return Err(Error::local("requested load from stdin, but stdin is empty")
                .hint("ireko load < images.tar, or ireko load -i images.tar"));
        }
        None => Box::new(tokio::io::stdin()),
    };
    let client = context.connect().await?;
    let upload = Upload::new();
    let counted = upload.clone();
    let pieces = ReaderStream::with_capacity(source, PIECE).boxed();
    let stream = pieces.inspect_ok(move |piece| counted.sent(piece.len() as u64));
    let target = Target::docker(["images", "load"]).with_flag("quiet", args.quiet);
    let loaded = async {
        let response = client.send(Method::POST, &target, Content::tar(stream)).await?;
        let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
        read_report(StreamReader::new(body), |status| upload.working(status)).await
    };
    let loaded = loaded.await;
    upload.finish();
    for line in loaded? {
        output::line(line)?;
    }
    Ok(Exit::SUCCESS)
}

/// Reads the report to its end, and returns what was loaded.
///
/// Errors: the daemon's own, which comes as a line, as the work had begun.
async fn read_report(
    stream: impl AsyncRead + Unpin,
    mut working: impl FnMut(&str),
) -> Result<Vec<String>> {
    let mut lines = BufReader::new(stream);
    let (mut loaded, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if read_line(&mut lines, &mut line).await.map_err(broken_off)? == 0 {
            return match loaded.is_empty() {
                true => Err(broken_off("no image was named")),
                false => Ok(loaded),
            };
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Report { stream, status, id, error } = crate::client::decode(&line)?;
        if let Some(message) = error {
            return Err(Error::new(ErrorKind::Refused(500), message));
        }
        loaded.extend(stream.map(|text| crate::table::printable(text.trim_end())));
        if let Some(status) = status {
            working(id.map_or(status.clone(), |id| format!("{status} {id}")).as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_report_s_streams_are_what_was_loaded() {
        let text = "{\"status\":\"Loading layer\",\"id\":\"ab\"}\r\n{\"stream\":\"Loaded image: x:1\\n\"}\r\n";
        let mut told = Vec::new();
        let loaded = read_report(text.as_bytes(), |status| told.push(status.to_owned())).await;
        assert_eq!(loaded.unwrap(), ["Loaded image: x:1"]);
        assert_eq!(told, ["Loading layer ab"]);
    }

    #[tokio::test]
    async fn a_report_without_a_result_is_a_failure() {
        let failed = "{\"status\":\"x\"}\n{\"error\":\"damaged\"}\n";
        let error = read_report(failed.as_bytes(), |_| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "damaged");
        assert!(read_report(&b"{\"status\":\"x\"}\n"[..], |_| ()).await.is_err());
    }
}
