//! A VM that stands by for a container that is not there yet.
//!
//! ```text
//!   template ─► rehearsal, on a disk of its own ─► listens ─► Claim ─► the container's disk in its place
//! ```
//! It has QEMU's start, the saved state and, where code is emulated, its translation behind it. From
//! `Claim` on its shim is the container's as if it had been started for it.

use crate::control::{Shared, failed};
use crate::failure::{Failure, chain_of};
use crate::guest::{Guest, GuestError, ORDINARY};
use crate::live_disk::LiveDisk;
use crate::utility::{ATTEMPTS, Ingredients, configuration, connect, done};
use crate::{records, run, warm};
use ireko_block_export::Server;
use ireko_disk::vhdx::{self, ChildOptions};
use ireko_disk::{Access, Chain};
use ireko_protocol::agent::{DiskSerial, FailureKind, RequestBody};
use ireko_protocol::frame::{Frame, FrameDecoder};
use ireko_protocol::plan::{Cable, VmPlan};
use ireko_protocol::shim::{self, Answer, Envelope, Origin, Request};
use ireko_vm::DiskAttachment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// After this long nobody seems to need it.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// How long a guest may take to rehearse before another is tried: alone it takes a second.
const REHEARSED: Duration = Duration::from_secs(20);
/// How often it is seen whether the VM is still there.
const LOOK: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Time for the engine to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// A VM that has rehearsed, and whose guest is nobody yet.
pub struct Spare {
    clone: warm::Clone,
    guest: Arc<Guest>,
    rehearsal: Rehearsal,
    /// Where its network cables end until their names are known.
    cables: Vec<PathBuf>,
}

/// A spare and the plan that it is for.
pub struct Claimed {
    /// The container's plan.
    pub plan: VmPlan,
    /// The shim's socket, as the engine knows it.
    pub listener: UnixListener,
    /// The VM.
    pub spare: Spare,
}

/// Makes a VM of this plan and stands by with it; `None` where it was not wanted.
///
/// `empty` has an empty file system to rehearse on. The socket listens when the VM is ready.
pub fn stand_by(
    plan: &VmPlan,
    empty: &Path,
    socket: &Path,
    agent: &[u8],
) -> Result<Option<Claimed>, Failure> {
    if let Some(obstacle) = warm::obstacle(plan) {
        return Err(Failure::impossible(format!("no VM can stand by: {obstacle}")));
    }
    let cannot = |error: io::Error| Failure::before_start("cannot stand by", &error);
    records::write_shim_record(plan, socket, 0).map_err(cannot)?;
    let shared = Shared::of(plan).map_err(cannot)?;
    let ingredients = Ingredients::find(plan, agent)?;
    let claimed = Spare::rehearsed(plan, empty, &ingredients, socket, &shared).and_then(|spare| {
        let claimed = UnixListener::bind(socket)
            .map_err(cannot)
            .and_then(|listener| Ok((spare.await_claim(&listener, socket)?, listener)));
        match claimed {
            Ok((Some(plan), listener)) => Ok(Some(Claimed { plan, listener, spare })),
            unwanted => {
                spare.put_away(|clone| clone.vm.switch_off());
                unwanted.map(|_| None)
            }
        }
    });
    if !matches!(claimed, Ok(Some(_))) {
        shared.group.end();
    }
    claimed
}

impl Spare {
    /// A VM that has rehearsed; one that does not wake up is replaced by others, as at a start.
    fn rehearsed(
        plan: &VmPlan,
        empty: &Path,
        ingredients: &Ingredients,
        socket: &Path,
        shared: &Shared,
    ) -> Result<Self, Failure> {
        let mut attempt = 1;
        loop {
            let (rehearsal, attachment) = Rehearsal::prepare(plan, empty)?;
            *shared.disks.lock() = vec![(DiskSerial::root(), Arc::clone(&rehearsal.disk))];
            let clone = warm::launch(plan, ingredients, vec![attachment], socket, shared)?;
            let spare = Self { clone, guest: connect(plan)?, rehearsal, cables: cables(plan) };
            let wanted = RequestBody::Rehearse(Box::new(configuration(plan, shared)?));
            let limit = if attempt < ATTEMPTS { REHEARSED } else { ORDINARY };
            let error = match spare.guest.call(wanted, limit).and_then(done) {
                Ok(()) => return Ok(spare),
                Err(error) => error,
            };
            let is_asleep = matches!(error, GuestError::Late(_));
            match attempt {
                1 => spare.put_away(|clone| clone.vm.switch_off()),
                // It may have been saved asleep; the next one goes on from another.
                _ => spare.put_away(|clone| clone.discard(plan)),
            }
            if !is_asleep || attempt == ATTEMPTS {
                return Err(Failure::of_guest("cannot rehearse a start", error));
            }
            tracing::warn!("the guest does not wake up; once more from the template");
            attempt += 1;
        }
    }

    fn put_away(self, end: impl FnOnce(warm::Clone)) {
        self.guest.hang_up();
        end(self.clone);
        self.rehearsal.end();
    }

    /// Waits for a container's plan.
    fn await_claim(
        &self,
        listener: &UnixListener,
        socket: &Path,
    ) -> Result<Option<VmPlan>, Failure> {
        let begun = Instant::now();
        while begun.elapsed() < IDLE {
            if let Some(end) = self.clone.vm.await_end(Duration::ZERO) {
                return Err(Failure::lost(format!("the VM that stood by ended: {end}")));
            }
            let asked = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&LOOK));
            if !matches!(asked, Ok(1..)) {
                continue;
            }
            match listener.accept().and_then(|(stream, _)| self.answer(stream, socket)) {
                Ok(Said::Claim(plan)) => return Ok(Some(*plan)),
                Ok(Said::PowerOff) => return Ok(None),
                Ok(Said::Nothing) => {}
                Err(error) => tracing::debug!(%error, "a connection of the engine broke"),
            }
        }
        tracing::info!("nobody needs this VM");
        Ok(None)
    }

    fn answer(&self, mut stream: UnixStream, socket: &Path) -> io::Result<Said> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Some(envelope) = read_envelope(&mut stream)? else { return Ok(Said::Nothing) };
        let (answer, said) = match envelope {
            Envelope { version: shim::VERSION, request: Request::Claim { plan, log } } => {
                match self.take_plan(&plan, &log, socket) {
                    Ok(plan) => (Answer::Done, Said::Claim(Box::new(plan))),
                    Err(error) => (failed(FailureKind::Other, chain_of(&error)), Said::Nothing),
                }
            }
            Envelope { version: shim::VERSION, request: Request::PowerOff } => {
                (Answer::Done, Said::PowerOff)
            }
            _ => {
                let message = "this VM stands by and is no container's".to_owned();
                (failed(FailureKind::NoSuch, message), Said::Nothing)
            }
        };
        let frame = Frame::message(&answer).map_err(io::Error::other)?;
        stream.write_all(&frame.encode())?;
        Ok(said)
    }

    /// From here on this process is the plan's shim, to whoever looks for it.
    fn take_plan(&self, plan: &Path, log: &Path, socket: &Path) -> io::Result<VmPlan> {
        let plan = records::read_plan(plan)?;
        if socket.parent() != Some(&plan.runtime_dir) {
            return Err(io::Error::other("the plan is that of another VM"));
        }
        let log = File::options().create(true).append(true).open(log)?;
        rustix::stdio::dup2_stderr(&log)?;
        records::write_shim_record(&plan, socket, self.clone.vm.pid)?;
        Ok(plan)
    }

    /// Makes the VM that of a plan: its disks, its cables. Where that fails there is none any more.
    pub fn move_in(
        self,
        plan: &VmPlan,
        disks: &[DiskAttachment],
        shared: &Shared,
    ) -> Result<(warm::Clone, Arc<Guest>), Failure> {
        let Self { clone, guest, rehearsal, cables } = self;
        clone.vm.introduce(plan, Origin::Pool, shared);
        let moved = lay_cables(&cables, plan)
            .and_then(|()| shared.group.take_over())
            .and_then(|()| clone.exchange_disks(disks, shared));
        // The container need not wait for it.
        let ending = thread::Builder::new().name("rehearsal".into()).spawn(|| rehearsal.end());
        if let Err(error) = ending {
            tracing::debug!(%error, "the disk of a rehearsal is there until the VM ends");
        }
        match moved {
            Ok(()) => Ok((clone, guest)),
            Err(failure) => {
                guest.hang_up();
                clone.vm.switch_off();
                Err(failure)
            }
        }
    }
}

/// What the engine wants of a spare.
enum Said {
    Nothing,
    Claim(Box<VmPlan>),
    PowerOff,
}

/// One request; `None` where the other end only looked whether somebody listens.
fn read_envelope(stream: &mut UnixStream) -> io::Result<Option<Envelope>> {
    let mut decoder = FrameDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            return frame.parse().map(Some).map_err(io::Error::other);
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            read => decoder.feed(&buffer[..read]),
        }
    }
}

/// The sockets on which QEMU waits for the switches.
fn cables(plan: &VmPlan) -> Vec<PathBuf> {
    let socket = |cable: &Cable| match cable {
        Cable::Socket(path) => Some(path.clone()),
        Cable::Tap(_) => None,
    };
    plan.nics.iter().filter_map(|nic| socket(&nic.cable)).collect()
}

/// Gives QEMU's sockets the names under which the switches look for them.
fn lay_cables(present: &[PathBuf], plan: &VmPlan) -> Result<(), Failure> {
    let wanted = cables(plan);
    if (wanted.len(), present.len()) != (plan.nics.len(), plan.nics.len()) {
        let message = "the VM that stands by has other network devices".to_owned();
        return Err(Failure::impossible(message));
    }
    let renamed = present.iter().zip(&wanted).try_for_each(|(from, to)| fs::rename(from, to));
    renamed.map_err(|error| Failure::before_start("cannot lay the network cables", &error))
}

/// The disk of a rehearsal, in the VM's runtime folder.
struct Rehearsal {
    disk: Arc<LiveDisk>,
    server: Server,
    files: [PathBuf; 2],
}

impl Rehearsal {
    fn prepare(plan: &VmPlan, empty: &Path) -> Result<(Self, DiskAttachment), Failure> {
        let cannot = |error| Failure::before_start("cannot make the disk of a rehearsal", &error);
        let file = plan.runtime_dir.join("rehearsal.vhdx");
        vhdx::create_child(&file, empty, r".\empty.vhdx", &ChildOptions::default())
            .map_err(cannot)?;
        let chain = [file.clone(), empty.to_owned()];
        let chain = Chain::open(&chain, Access::ReadWrite).map_err(cannot)?;
        let disk = LiveDisk::new(chain)
            .map_err(|error| Failure::before_start("cannot serve a disk", &error))?;
        let socket = plan.runtime_dir.join("rehearsal.sock");
        let (server, attachment) = run::export(plan, &DiskSerial::root(), &disk, socket.clone())?;
        Ok((Self { disk, server, files: [file, socket] }, attachment))
    }

    fn end(self) {
        self.server.shut_down();
        self.disk.let_go();
        for file in self.files {
            // What is left goes with the folder.
            let _ = fs::remove_file(file);
        }
    }
}
