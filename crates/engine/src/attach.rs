//! Joining a container's standard streams.
//!
//! A client may attach before the start; then it is kept, and connected before the process runs,
//! so that it sees the first byte.

use crate::container::{Container, PendingAttach};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::shim_client::{QUICK, ShimSocket, unexpected};
use crate::state::ContainerRecord;
use crate::streams::{Streams, pair};
use ireko_protocol::shim::{Answer, Request};

/// How many clients may be attached to a container at a time: each gets all of its output, and one that
/// does not read holds up the others.
pub const MOST_ATTACHED: usize = 256;

/// Which of a container's streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Write to the process.
    pub stdin: bool,
    /// See its standard output.
    pub stdout: bool,
    /// See its standard error.
    pub stderr: bool,
}

impl Engine {
    /// Attaches to a container, running or not: the streams of one that does not run wait for its
    /// next start. They end with the process.
    ///
    /// Errors where it is paused, has [`MOST_ATTACHED`] clients already, or its shim does not answer.
    pub async fn attach(&self, reference: &str, options: AttachOptions) -> Result<Streams> {
        let container = self.find(reference)?;
        let record = container.record();
        if record.is_paused() {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                record.id
            )));
        }
        let place = container.attach_place().ok_or_else(|| {
            let name = &record.name;
            Error::conflict(format!(
                "container {name} has {MOST_ATTACHED} clients attached already"
            ))
        })?;
        let (client, pump) = pair();
        let AttachOptions { stdin, stdout, stderr } = options;
        let attach = PendingAttach { stdin, stdout, stderr, pump, place };
        if let Err((shim, attach)) = container.attach_or_wait(attach) {
            connect(&container, &shim, attach).await?;
        }
        self.emit(&record, "attach", &[]);
        Ok(client)
    }

    /// Tells that a client left a container's streams by its detach keys.
    pub fn detached(&self, record: &ContainerRecord) {
        self.emit(record, "detach", &[]);
    }
}

/// Joins a client's ends to a shim; returns when no byte can be missed any more.
pub(crate) async fn connect(
    container: &Container,
    shim: &ShimSocket,
    attach: PendingAttach,
) -> Result<()> {
    let PendingAttach { stdin, stdout, stderr, pump, place } = attach;
    let stdio = &container.record().spec.stdio;
    // A terminal's stdin does not end: whoever leaves one may come back.
    let stdin_once = stdio.stdin_once && !stdio.tty;
    let request = Request::Attach { stdin, stdin_once, stdout, stderr };
    match shim.open(request, QUICK).await {
        Ok((Answer::Attached, connection)) => {
            // Ends with the connection or the client.
            container.sessions.spawn(async move {
                let _place = place;
                pump.run(connection).await
            });
            Ok(())
        }
        Ok((other, _)) => Err(unexpected("attach", &other)),
        Err(error) => Err(error.into_error(|| "attach to the container".into())),
    }
}
