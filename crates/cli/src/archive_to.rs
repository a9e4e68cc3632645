//! An archive that the daemon sends, on its way to a file or to standard output.

use crate::client::{Client, Content, broken_off};
use crate::error::{Error, Result};
use crate::progress::Download;
use crate::target::Target;
use http_body_util::BodyExt;
use hyper::Method;
use std::path::Path;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Asks for `target` and writes its answer to `file`, which appears once it is whole, or to standard
/// output, which must be no terminal. `what` is shown meanwhile.
pub async fn fetch(
    client: &Client,
    target: &Target,
    file: Option<&Path>,
    what: &str,
) -> Result<()> {
    let Some(file) = file else {
        return copy(client, target, &mut tokio::io::stdout(), what, Error::output).await;
    };
    let writing = || format!("cannot write {}", file.display());
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = file.file_name().ok_or_else(|| Error::usage(writing()))?.to_string_lossy();
    let aside = folder.join(format!(".{name}.{}.part", std::process::id()));
    let lost = |error: std::io::Error| Error::local(writing()).because(error);
    let mut to = tokio::fs::File::create_new(&aside).await.map_err(lost)?;
    let written = match copy(client, target, &mut to, what, lost).await {
        Ok(()) => tokio::fs::rename(&aside, file).await.map_err(lost),
        Err(error) => Err(error),
    };
    if written.is_err() {
        // What is left over is told by the error already.
        let _ = tokio::fs::remove_file(&aside).await;
    }
    written
}

/// Refuses to write an archive to a terminal; `example` is how it is done.
pub fn refuse_terminal(file: Option<&Path>, example: &str) -> Result<()> {
    match file.is_none() && crate::terminal::stdout_is_terminal() {
        true => Err(Error::local("an archive is not written to a terminal").hint(example)),
        false => Ok(()),
    }
}

async fn copy(
    client: &Client,
    target: &Target,
    to: &mut (impl AsyncWrite + Unpin),
    what: &str,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    let shown = Download::new(what);
    let copied = async {
        let mut body = client.send(Method::GET, target, Content::none()).await?.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(broken_off)?.into_data() else { continue };
            to.write_all(&bytes).await.map_err(&failed)?;
            shown.received(bytes.len() as u64);
        }
        to.flush().await.map_err(&failed)
    };
    let copied = copied.await;
    shown.finish();
    copied
}
