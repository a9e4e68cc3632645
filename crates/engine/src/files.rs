//! A container's files from outside: looked at, copied out, copied in, all of them at once.
//!
//! ```text
//!   it runs         ─► its shim  ─► the agent in its guest, which sees what is mounted there
//!   it does not run ─► a VM with its disk, for as long as that takes; no other verb meanwhile
//! ```
//! A whole operating system is no exception, where Ireko's agent runs in it, or it does not run and is a Linux on
//! ext4.
//! What leads where is looked up in the guest; the host opens no file of a container's.

use crate::blocking::{blocking, to_its_end};
use crate::container::Container;
use crate::decompress;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::guest_work::{FileVm, GuestDisk};
use crate::shim_client::{AskError, QUICK, Refusal, ShimSocket, unexpected};
use crate::spool::Spool;
use crate::state::RunState;
use crate::streams::{InputWriter, OutputReader, Streams, pair};
use crate::suspend::check_disk_is_free;
use bytes::Bytes;
use ireko_protocol::agent::FailureKind;
use ireko_protocol::files::{FileAnswer, FileJob, PathStat};
use ireko_protocol::shim::{Answer, Request};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::io::SyncIoBridge;

/// What is still read of an archive that failed, so that its sender hears why: bytes,
const REST: u64 = 64 << 20;
/// … and the time for it.
const REST_TIME: Duration = Duration::from_secs(10);

/// Pieces of an archive that wait for whoever takes it.
const PIECES: usize = 2;

/// How an archive is unpacked in a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extract {
    /// A folder is not replaced by something else, nor something else by a folder.
    pub keep_kinds: bool,
    /// What comes belongs to the container's user, where it has one.
    pub give_to_user: bool,
}

/// An archive, as it is made.
#[derive(Debug)]
pub struct FileStream(mpsc::Receiver<Result<Bytes>>);

impl FileStream {
    pub(crate) fn of(pieces: mpsc::Receiver<Result<Bytes>>) -> Self {
        Self(pieces)
    }

    /// The next bytes; `None` at the end. After an error the archive is not whole.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.0.recv().await
    }
}

impl Engine {
    /// Tells what is at a path of a container's; a link at its end is not followed.
    ///
    /// Errors: `NotFound` where there is nothing.
    pub async fn stat_path(&self, reference: &str, path: &str) -> Result<PathStat> {
        let (container, wanted) = (self.find(reference)?, Wanted::new(reference, path));
        let engine = self.clone();
        to_its_end(async move {
            let access = engine.reach_files(&container).await?;
            let stat = look(&access.shim, &wanted).await;
            access.end(stat).await
        })
        .await
    }

    /// Begins a tar archive of a file or a folder, whose first entry is its base name, and tells what
    /// is there.
    ///
    /// Errors: `NotFound` where there is nothing.
    pub async fn archive_of(&self, reference: &str, path: &str) -> Result<(PathStat, FileStream)> {
        let (container, wanted) = (self.find(reference)?, Wanted::new(reference, path));
        let (head, begun) = oneshot::channel();
        let (pieces, stream) = mpsc::channel(PIECES);
        let engine = self.clone();
        tokio::spawn(async move {
            let access = match engine.reach_files(&container).await {
                Ok(access) => access,
                Err(error) => return drop(head.send(Err(error))),
            };
            let done = match look(&access.shim, &wanted).await {
                Ok(stat) => {
                    engine.emit(&container.record(), "archive-path", &[]);
                    // Whoever asked may be gone.
                    let _ = head.send(Ok(stat));
                    let job = FileJob::Pack { path: wanted.path.clone() };
                    send(&access.shim, job, &pieces).await
                }
                Err(error) => {
                    let _ = head.send(Err(error));
                    Ok(())
                }
            };
            tell(access.end(done).await, &pieces).await;
        });
        let stat = begun.await.unwrap_or_else(|_| Err(broken()))?;
        Ok((stat, FileStream::of(stream)))
    }

    /// Begins a tar archive of all of a container's own disk; what is mounted over it is not in it.
    pub async fn export_files(&self, reference: &str) -> Result<FileStream> {
        let container = self.find(reference)?;
        let (head, begun) = oneshot::channel();
        let (pieces, stream) = mpsc::channel(PIECES);
        let engine = self.clone();
        tokio::spawn(async move {
            let access = match engine.reach_files(&container).await {
                Ok(access) => access,
                Err(error) => return drop(head.send(Err(error))),
            };
            engine.emit(&container.record(), "export", &[]);
            let _ = head.send(Ok(()));
            let done = send(&access.shim, FileJob::Export, &pieces).await;
            tell(access.end(done).await, &pieces).await;
        });
        begun.await.unwrap_or_else(|_| Err(broken()))?;
        Ok(FileStream::of(stream))
    }

    /// Unpacks a tar archive, plain or compressed with gzip, xz or zstd, into a folder of a container.
    ///
    /// Errors: `NotFound` where the folder is not there, `BadParameter` where it is none or the
    /// archive is malformed, `Forbidden` where it is read-only. What was unpacked before stays.
    pub async fn extract(
        &self,
        reference: &str,
        path: &str,
        how: Extract,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<()> {
        let (engine, wanted) = (self.clone(), Wanted::new(reference, path));
        to_its_end(async move {
            let mut archive = archive;
            let (container, job, access) = match engine.begin_extract(&wanted, how).await {
                Ok(begun) => begun,
                Err(error) => {
                    drain(&mut archive).await;
                    return Err(error);
                }
            };
            let done = unpack(&access.shim, job, archive).await;
            let done = done.map_err(|error| wanted.explain(error));
            access.end(done).await?;
            engine.emit(&container.record(), "extract-to-dir", &[]);
            Ok(())
        })
        .await
    }

    async fn begin_extract(
        &self,
        wanted: &Wanted,
        how: Extract,
    ) -> Result<(Arc<Container>, FileJob, Access)> {
        let container = self.find(&wanted.reference)?;
        let record = container.record();
        if record.spec.read_only && !record.is_running() {
            return Err(Error::new(ErrorKind::Forbidden, "container rootfs is marked read-only"));
        }
        let user = Some(record.process.user.clone()).filter(|user| !user.is_empty());
        let job = FileJob::Unpack {
            path: wanted.path.clone(),
            keep_kinds: how.keep_kinds,
            owner: user.filter(|_| how.give_to_user),
        };
        let access = self.reach_files(&container).await?;
        Ok((container, job, access))
    }

    /// Finds whom to ask about a container's files: where it does not run, a VM that is started for
    /// it, and no verb that changes the container meets that.
    pub(crate) async fn reach_files(&self, container: &Arc<Container>) -> Result<Access> {
        let verb = Arc::clone(&container.verb).lock_owned().await;
        let record = container.record();
        if container.is_removed() || record.state == RunState::Removing {
            return Err(Error::not_found(format!("No such container: {}", record.id)));
        }
        if record.process.is_machine() {
            check_disk_is_free(&record)?;
            // A container's agent works while its processes stand still; a machine's does not.
            if record.is_paused() {
                let name = &record.name;
                return Err(Error::conflict(format!(
                    "container {name} is paused, unpause the container before its files are worked with"
                )));
            }
        }
        if record.is_running() {
            return Ok(Access { shim: container.running_shim(self.places())?, vm: None });
        }
        let spool = Spool::new(&self.places().root)?;
        let disk = GuestDisk::of(record.process.is_machine());
        let vm = self.file_vm(&container.scratch(), spool.folder(), disk).await?;
        Ok(Access { shim: vm.socket().clone(), vm: Some((vm, spool, verb)) })
    }
}

/// A way to a container's files. One that is dropped ends by itself.
pub(crate) struct Access {
    pub(crate) shim: ShimSocket,
    vm: Option<(FileVm, Spool, OwnedMutexGuard<()>)>,
}

impl Access {
    /// Ends what was started for it; an error of the work goes before one of that.
    pub(crate) async fn end<T>(self, done: Result<T>) -> Result<T> {
        let Some((vm, _spool, _verb)) = self.vm else { return done };
        let ended = vm.end().await;
        match (done, ended) {
            (Ok(done), Ok(())) => Ok(done),
            (Ok(_), Err(error)) => Err(error),
            (Err(error), ended) => {
                if let Err(ended) = ended {
                    tracing::warn!(error = ended.chain(), "a VM that worked with files broke off");
                }
                Err(error)
            }
        }
    }
}

/// What a client asked for, in its words.
struct Wanted {
    reference: String,
    path: String,
}

impl Wanted {
    fn new(reference: &str, path: &str) -> Self {
        Self { reference: reference.to_owned(), path: path.to_owned() }
    }

    /// Docker's words where there is nothing.
    fn explain(&self, error: AskError) -> Error {
        let Self { path, reference } = self;
        match error {
            AskError::Refused(Refusal { kind: FailureKind::NoSuch, .. }) => {
                Error::not_found(format!("Could not find the file {path} in container {reference}"))
            }
            error => plain(error),
        }
    }
}

/// What a guest did not do, as it says it itself.
pub(crate) fn plain(error: AskError) -> Error {
    match error {
        AskError::Refused(Refusal { kind, message }) => match kind {
            FailureKind::NoSuch | FailureKind::BadInput => Error::bad_parameter(message),
            FailureKind::ReadOnly => Error::new(ErrorKind::Forbidden, message),
            _ => Error::internal(message),
        },
        AskError::Broken(error) => error,
    }
}

/// A job under way.
pub(crate) struct Job {
    input: Option<InputWriter>,
    pub(crate) output: OutputReader,
    last: JoinHandle<Option<Answer>>,
}

impl Job {
    pub(crate) async fn begin(
        shim: &ShimSocket,
        job: FileJob,
    ) -> std::result::Result<Self, AskError> {
        let connection = match shim.open(Request::Files { job }, QUICK).await? {
            (Answer::Begun, connection) => connection,
            (other, _) => return Err(unexpected("work with files", &other).into()),
        };
        let (Streams { input, output }, pump) = pair();
        let last = tokio::spawn(async move {
            let (last, end) = pump.run(connection).await;
            drop(end);
            last
        });
        Ok(Self { input: Some(input), output, last })
    }

    /// What the job reads; its drop is the end of that.
    pub(crate) fn take_input(&mut self) -> Result<InputWriter> {
        self.input.take().ok_or_else(|| Error::internal("a job has one input"))
    }

    /// Waits for the end; output that comes meanwhile is dropped.
    pub(crate) async fn end(self) -> std::result::Result<FileAnswer, AskError> {
        let Self { input, mut output, last } = self;
        drop(input);
        while output.next().await.is_some() {}
        Self::answer(last).await
    }

    /// Breaks it off: what it was sent is not whole.
    async fn abandon(self) {
        let Self { input, output, last } = self;
        drop(output);
        // The input must not end before the connection does.
        let _ = last.await;
        drop(input);
    }

    async fn answer(last: JoinHandle<Option<Answer>>) -> std::result::Result<FileAnswer, AskError> {
        match last.await {
            Ok(Some(Answer::Files(answer))) => Ok(answer),
            Ok(Some(Answer::Failed { kind, message })) => {
                Err(AskError::Refused(Refusal { kind, message }))
            }
            Ok(Some(other)) => Err(unexpected("work with files", &other).into()),
            Ok(None) | Err(_) => Err(broken().into()),
        }
    }
}

fn broken() -> Error {
    Error::internal("the VM went away while it worked with files")
}

async fn look(shim: &ShimSocket, wanted: &Wanted) -> Result<PathStat> {
    let looking =
        async { Job::begin(shim, FileJob::Look { path: wanted.path.clone() }).await?.end().await };
    match looking.await.map_err(|error| wanted.explain(error))? {
        FileAnswer::Stat(stat) => Ok(stat),
        FileAnswer::Done => Err(broken()),
    }
}

/// Sends what a job writes to whoever wants it; nobody wanting it any more is no failure.
async fn send(shim: &ShimSocket, job: FileJob, pieces: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
    let mut job = Job::begin(shim, job).await.map_err(plain)?;
    while let Some(piece) = job.output.next().await {
        if pieces.send(Ok(piece.bytes)).await.is_err() {
            job.abandon().await;
            return Ok(());
        }
    }
    job.end().await.map(drop).map_err(plain)
}

/// Tells a failure to whoever takes an archive; its end otherwise is its end.
async fn tell(done: Result<()>, pieces: &mpsc::Sender<Result<Bytes>>) {
    if let Err(error) = done {
        tracing::warn!(error = error.chain(), "an archive of a container's files is not whole");
        // Whoever took it may be gone.
        let _ = pieces.send(Err(error)).await;
    }
}

async fn unpack(
    shim: &ShimSocket,
    job: FileJob,
    archive: impl AsyncRead + Send + Unpin + 'static,
) -> std::result::Result<(), AskError> {
    let mut job = Job::begin(shim, job).await?;
    let input = job.take_input()?;
    let body = SyncIoBridge::new(archive);
    let copied = blocking(move || {
        let mut body = body;
        let mut guest = ToGuest { input, runtime: Handle::current(), is_closed: false };
        let copied = decompress::copy(&mut body, &mut guest, |_| {});
        Ok((body.into_inner(), guest, copied))
    });
    let (mut body, guest, copied) = copied.await?;
    let ToGuest { input, is_closed, .. } = guest;
    job.input = Some(input);
    let ended = match copied {
        Err(error) if !is_closed => {
            job.abandon().await;
            Err(error.into())
        }
        // The guest takes no more: it says why.
        _ => job.end().await.map(drop),
    };
    if ended.is_err() {
        drain(&mut body).await;
    }
    ended
}

/// Reads what is still sent, within bounds: who is answered while sending may not hear it.
async fn drain(archive: &mut (impl AsyncRead + Unpin)) {
    let rest = async { tokio::io::copy(&mut archive.take(REST), &mut tokio::io::sink()).await };
    // Who hangs up meanwhile wants no answer either.
    let _ = tokio::time::timeout(REST_TIME, rest).await;
}

/// A job's input, for whoever writes on a thread that may block.
struct ToGuest {
    input: InputWriter,
    runtime: Handle,
    is_closed: bool,
}

impl Write for ToGuest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.runtime.block_on(self.input.write(piece)) {
            true => Ok(bytes.len()),
            false => {
                self.is_closed = true;
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
