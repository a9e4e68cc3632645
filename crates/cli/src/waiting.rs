//! Waiting for a container's end.

use crate::client::{Client, Content, broken_off, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::target::Target;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde::Deserialize;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does not run, now or later.
    NotRunning,
    /// The next end of its process.
    NextExit,
    /// It is gone.
    Removed,
}

impl Condition {
    fn word(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NextExit => "next-exit",
            Self::Removed => "removed",
        }
    }
}

/// The daemon is watching; the answer is still to come.
pub struct Waiting(Response<Incoming>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ended {
    status_code: i64,
    error: Option<Trouble>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Trouble {
    #[serde(default)]
    message: String,
}

impl Client {
    /// Begins to wait; when this returns, no end can be missed any more.
    pub async fn wait(&self, container: &str, condition: Condition) -> Result<Waiting> {
        let target =
            Target::docker(["containers", container, "wait"]).with("condition", condition.word());
        self.send(Method::POST, &target, Content::none()).await.map(Waiting)
    }
}

impl Waiting {
    /// The container's exit code, when it is there.
    pub async fn code(self) -> Result<i64> {
        let body = self.0.into_body().collect().await.map_err(|error| {
            broken_off(error).hint("the container does not depend on it: `ireko ps`")
        })?;
        let ended: Ended = decode(&body.to_bytes())?;
        match ended.error {
            Some(Trouble { message }) if !message.is_empty() => {
                Err(Error::new(ErrorKind::Refused(500), message))
            }
            _ => Ok(ended.status_code),
        }
    }

    /// The same as an exit status of ours.
    pub async fn exit(self) -> Result<Exit> {
        self.code().await.map(Exit::of_process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Fake;

    #[tokio::test]
    async fn the_code_of_the_process_becomes_ours() {
        let fake = Fake::start(|request| {
            assert_eq!(request.uri().query(), Some("condition=next-exit"));
            Fake::json(200, r#"{"StatusCode":42}"#)
        });
        let waiting = fake.client().wait("x", Condition::NextExit).await.unwrap();
        assert_eq!(waiting.exit().await.unwrap(), Exit(42));
    }

    #[tokio::test]
    async fn trouble_is_told() {
        let fake = Fake::start(|_| Fake::json(200, r#"{"StatusCode":1,"Error":{"Message":"x"}}"#));
        let waiting = fake.client().wait("x", Condition::Removed).await.unwrap();
        assert_eq!(waiting.exit().await.unwrap_err().to_string(), "x");
    }
}
