//! Work with the container's files: its bytes between the engine and the guest, then its answer.

use crate::control::{Shared, guest_failed};
use crate::guest::{Guest, GuestError, ORDINARY};
use crate::link::{InboundStream, Link};
use ireko_protocol::agent::{ProcessId, Reply, RequestBody};
use ireko_protocol::files::FileJob;
use ireko_protocol::shim::{Answer, STDIN, STDOUT};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long a job may take: as long as a client with a slow line needs for a large disk.
const LIMIT: Duration = Duration::from_secs(12 * 3600);
/// How long a job may go on before its agent is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(10);
/// What a job is told that is to end; any signal would do.
const STOP: i32 = 15;

/// One job.
pub struct Job {
    guest: Arc<Guest>,
    process: ProcessId,
    is_over: AtomicBool,
}

impl Job {
    /// Begins a job; its streams and its answer follow on `link`, which is closed then.
    pub fn begin(
        shared: &Arc<Shared>,
        guest: &Arc<Guest>,
        link: &Arc<Link>,
        job: FileJob,
    ) -> io::Result<Arc<Self>> {
        let process = guest.new_process();
        let job_of =
            Arc::new(Self { guest: Arc::clone(guest), process, is_over: AtomicBool::new(false) });
        let input = link.open_stream(STDIN);
        link.send_message(&Answer::Begun)?;
        let (output, request) = guest.begin_files(process, job)?;
        let pump = {
            let (job, link) = (Arc::clone(&job_of), Arc::clone(link));
            thread::Builder::new()
                .name("files out".into())
                .spawn(move || job.send(output, &link))?
        };
        {
            let job = Arc::clone(&job_of);
            thread::Builder::new().name("files in".into()).spawn(move || job.receive(input))?;
        }
        let (over, link, shared) = (Arc::clone(&job_of), Arc::clone(link), Arc::clone(shared));
        thread::Builder::new().name("files".into()).spawn(move || {
            let _open = shared.progress.open_request();
            let answer = match over.guest.await_work(request, LIMIT, SILENCE, ORDINARY) {
                Ok(Reply::Files(answer)) => Answer::Files(answer),
                Ok(_) => guest_failed(GuestError::Confused),
                Err(error) => {
                    if !matches!(error, GuestError::Failed { .. }) {
                        // Nothing more comes, and the pump would wait for it.
                        over.guest.stop_listening(over.process);
                    }
                    guest_failed(error)
                }
            };
            over.is_over.store(true, Ordering::Relaxed);
            // A pump that panicked has said so; the answer still goes out.
            let _ = pump.join();
            // The engine may be gone; nobody else wants the answer.
            let _ = link.send_message(&answer);
            link.close();
        })?;
        Ok(job_of)
    }

    /// Makes the job fail, where it goes on: nobody waits for it any more.
    pub fn abandon(&self) {
        if !self.is_over.load(Ordering::Relaxed) {
            let signal = RequestBody::Signal { process: self.process, signal: STOP };
            // It may have ended meanwhile, or the VM.
            let _ = self.guest.order(signal);
        }
    }

    fn send(&self, mut output: InboundStream, link: &Link) {
        while let Some(piece) = output.next() {
            if link.send(STDOUT, &piece).is_err() {
                return self.abandon();
            }
        }
        // The answer tells the engine the same.
        let _ = link.send_eof(STDOUT);
    }

    fn receive(&self, mut input: InboundStream) {
        while let Some(piece) = input.next() {
            if self.guest.write_stdin(self.process, &piece).is_err() {
                return;
            }
        }
        // What breaks off is not whole, and must not be taken for that.
        if input.has_ended() {
            let _ = self.guest.close_stdin(self.process);
        }
    }
}
