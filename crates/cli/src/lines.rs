//! What the daemon says of a long verb, line by line: how far it is, then the result.

use crate::client::{Client, Content, broken_off, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Bytes;
use crate::target::Target;
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::io::StreamReader;

/// The longest line that is read.
const MAX_LINE: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned", rename_all = "camelCase")]
struct Line<T> {
    progress_detail: Option<Detail>,
    error: Option<String>,
    result: Option<T>,
}

#[derive(Deserialize)]
struct Detail {
    current: u64,
    total: u64,
}

/// Asks for a long verb, shows how far it is under `title`, and returns its result.
pub async fn follow<T: DeserializeOwned>(
    client: &Client,
    target: &Target,
    content: Content,
    title: &str,
) -> Result<T> {
    let response = client.send(Method::POST, target, content).await?;
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let bar = Bytes::new(title);
    let result = read(StreamReader::new(body), |done, total| bar.at(done, total)).await;
    bar.finish();
    result
}

async fn read<T: DeserializeOwned>(
    stream: impl AsyncRead + Unpin,
    mut advanced: impl FnMut(u64, u64),
) -> Result<T> {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if read_line(&mut lines, &mut line).await.map_err(broken_off)? == 0 {
            return Err(broken_off("it ended without a result"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Line { progress_detail, error, result } = decode(&line)?;
        match (error, result) {
            (Some(message), _) => return Err(Error::new(ErrorKind::Refused(500), message)),
            (None, Some(result)) => return Ok(result),
            (None, None) => {}
        }
        if let Some(Detail { current, total }) = progress_detail {
            advanced(current, total);
        }
    }
}

/// Appends the next line to `line` and returns its length, 0 at the end of what there is.
pub async fn read_line(
    lines: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
) -> std::io::Result<usize> {
    loop {
        let available = lines.fill_buf().await?;
        if available.is_empty() {
            return Ok(line.len());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        line.extend_from_slice(&available[..taken]);
        lines.consume(taken);
        if end.is_some() {
            return Ok(line.len());
        }
        if line.len() > MAX_LINE {
            return Err(std::io::Error::other("a line of the report is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(text: &str) -> (Result<u32>, Vec<(u64, u64)>) {
        let mut seen = Vec::new();
        let result = read(text.as_bytes(), |done, total| seen.push((done, total))).await;
        (result, seen)
    }

    #[tokio::test]
    async fn progress_comes_before_the_result() {
        let text = "{\"status\":\"x\",\"progressDetail\":{\"current\":1,\"total\":2}}\r\n\r\n{\"result\":7}";
        let (result, seen) = told(text).await;
        assert_eq!((result.unwrap(), seen), (7, vec![(1, 2)]));
    }

    #[tokio::test]
    async fn a_failure_and_an_answer_that_is_cut_off_are_told_apart() {
        let (result, _) = told("{\"error\":\"disk full\"}\n").await;
        assert_eq!(result.unwrap_err().to_string(), "disk full");
        let (result, _) = told("{\"status\":\"x\"}\n").await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_line_without_end_takes_bounded_memory() {
        let endless = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'x'), 64 << 20);
        let error = read::<u32>(endless, |_, _| ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
