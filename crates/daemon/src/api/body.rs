//! What requests carry: JSON, which is read whole, and archives, which pass through. Each is bounded, in
//! bytes, in time and in how many there are: a client may say anything, and may stop saying it.

use crate::api::error::{ApiError, ApiResult};
use axum::body::{Body, BodyDataStream, HttpBody};
use futures_util::TryStreamExt;
use futures_util::stream::unfold;
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_util::io::StreamReader;

/// The largest JSON body that is read, in bytes: no command line, no environment can be larger.
const MOST_JSON: usize = 2 << 20;
/// Time for all of it to come.
const JSON_TIME: Duration = Duration::from_secs(60);
/// This much is read whatever others are sending, in bytes.
const SMALL: usize = 16 << 10;
/// KiB of what is beyond that, in all bodies that are being read at a time.
static LARGE: Semaphore = Semaphore::const_new(32 << 10);

/// How many archives come in or go out at a time. Each takes a thread, or a few.
const MOST_TRANSFERS: usize = 64;
static TRANSFERS: Semaphore = Semaphore::const_new(MOST_TRANSFERS);
/// Time for one to become free.
const TURN: Duration = Duration::from_secs(30);
/// Time for a client to go on with the archive that it sends.
const SILENCE: Duration = Duration::from_secs(600);

/// Reads a JSON body; `null` and none at all are the default.
pub(crate) async fn read_json<T: DeserializeOwned + Default>(body: Body) -> ApiResult<T> {
    let bytes = read(body, MOST_JSON).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let value: Option<T> = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?;
    Ok(value.unwrap_or_default())
}

/// Reads a body of at most so many bytes.
pub(crate) async fn read(body: Body, most: usize) -> ApiResult<Vec<u8>> {
    timeout(JSON_TIME, read_whole(body, most)).await.unwrap_or_else(|_| {
        let message = format!("the request's body did not come within {} s", JSON_TIME.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
    })
}

async fn read_whole(body: Body, most: usize) -> ApiResult<Vec<u8>> {
    let fits = |bytes: usize| match bytes <= most {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request's body is larger than {} KiB", most >> 10),
        )),
    };
    fits(usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX))?;
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut held, mut shares) = (Vec::new(), 0, Vec::new());
    let broken = |error| ApiError::bad_request(format!("cannot read the request's body: {error}"));
    while let Some(piece) = pieces.try_next().await.map_err(broken)? {
        let length = bytes.len() + piece.len();
        fits(length)?;
        let share = length.saturating_sub(SMALL).div_ceil(1 << 10);
        if share > held {
            // It is never closed, and a body has far fewer KiB than fit into 32 bits.
            shares.push(LARGE.acquire_many((share - held) as u32).await);
            held = share;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The right to move an archive, until it is dropped.
pub(crate) struct Transfer {
    _turn: SemaphorePermit<'static>,
}

impl Transfer {
    /// Waits for a turn, but not for long.
    pub(crate) async fn begin() -> ApiResult<Self> {
        match timeout(TURN, TRANSFERS.acquire()).await {
            Ok(Ok(turn)) => Ok(Self { _turn: turn }),
            Ok(Err(_)) | Err(_) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{MOST_TRANSFERS} archives are on their way already: try again later"),
            )),
        }
    }
}

/// The archive that a request carries.
pub(crate) async fn upload(body: Body) -> ApiResult<impl AsyncRead + Send + Unpin + 'static> {
    let turn = Transfer::begin().await?;
    let next = async |(mut pieces, turn): (BodyDataStream, Transfer)| {
        let piece = match timeout(SILENCE, pieces.try_next()).await {
            Ok(piece) => piece.map_err(io::Error::other).transpose()?,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((piece, (pieces, turn)))
    };
    let pieces = unfold((body.into_data_stream(), turn), next);
    Ok(StreamReader::new(Box::pin(pieces)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream::{iter, pending};
    use futures_util::{Stream, StreamExt};
    use std::convert::Infallible;

    fn of_pieces(pieces: impl Stream<Item = Vec<u8>> + Send + 'static) -> Body {
        Body::from_stream(pieces.map(Ok::<_, Infallible>))
    }

    fn status(error: ApiError) -> StatusCode {
        use axum::response::IntoResponse;
        error.into_response().status()
    }

    #[tokio::test]
    async fn a_body_is_read_whole_or_refused_by_its_size() {
        assert_eq!(read(Body::from("abc"), 3).await.unwrap(), b"abc");
        let refused = read(Body::from("abcd"), 3).await.unwrap_err();
        assert_eq!(status(refused), StatusCode::PAYLOAD_TOO_LARGE);
        let pieces = || of_pieces(iter((0..40).map(|_| vec![b'x'; 1024])));
        assert_eq!(read(pieces(), 40 << 10).await.unwrap().len(), 40 << 10);
        let refused = read(pieces(), (40 << 10) - 1).await.unwrap_err();
        assert_eq!(status(refused), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let refused = read(of_pieces(pending()), 3).await.unwrap_err();
        assert_eq!(status(refused), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_archive_that_stops_coming_gives_its_turn_away() {
        let mut archive = upload(of_pieces(iter([vec![1, 2]]).chain(pending()))).await.unwrap();
        let mut all = Vec::new();
        let broken = tokio::io::AsyncReadExt::read_to_end(&mut archive, &mut all).await;
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(all, [1, 2]);
        drop(archive);
        assert_eq!(TRANSFERS.available_permits(), MOST_TRANSFERS);
    }

    #[tokio::test]
    async fn json_may_be_missing_but_not_malformed_or_nested_without_end() {
        let read = |text: String| read_json::<Vec<serde_json::Value>>(Body::from(text));
        for nothing in ["", " \n", "null"] {
            assert!(read(nothing.to_owned()).await.unwrap().is_empty());
        }
        for wrong in ["{}", "[1", "[\"\u{0}\"]"] {
            assert_eq!(status(read(wrong.to_owned()).await.unwrap_err()), StatusCode::BAD_REQUEST);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(status(read(deep).await.unwrap_err()), StatusCode::BAD_REQUEST);
    }
}
