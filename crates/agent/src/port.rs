//! The virtio-serial port: frames in and out, and whether a host is at the other end.
//!
//! What is written while no host is connected is lost without an error, so nothing is written then:
//! the frames wait. The port reports a hang-up for as long as the host is away; an edge-triggered
//! epoll turns the host's return into something to wait for. A host that leaves and returns before
//! the agent looks goes unnoticed and meets the session it left.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ireko_protocol::agent::PORT_NAME;
use ireko_protocol::frame::{Frame, FrameDecoder};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use ireko_protocol::agent::FailureKind;

use crate::failure::{During, Failure, Result};
use crate::{kmsg, uevent};

/// With this many bytes waiting for the host, no more output is read from processes.
const HIGH_WATER: usize = 256 * 1024;
/// Bytes taken from the port before they are looked at.
const READ_SIZE: usize = 64 * 1024;

/// What one look at the port brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole frame.
    Frame(Frame),
    /// A host connected, or frames can no longer be told apart: both sides begin anew.
    NewSession,
}

/// One end of the channel.
#[derive(Debug)]
pub struct Port {
    device: OwnedFd,
    /// Becomes readable when the port's state changes.
    changes: OwnedFd,
    connected: bool,
    decoder: FrameDecoder,
    outgoing: VecDeque<Vec<u8>>,
    /// Bytes of the first outgoing frame that are written already.
    written: usize,
    waiting: usize,
    /// Where bytes are read to.
    scratch: Box<[u8]>,
}

impl Port {
    /// Waits for the agent's port and opens it.
    pub fn find(patience: Duration) -> Result<Self> {
        let node = uevent::wait_for(patience, || find_in(Path::new("/sys/class/virtio-ports")))
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::NoSuch,
                    format!("the machine has no virtio port \"{PORT_NAME}\""),
                )
            })?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device =
            rustix::fs::open(&node, flags, Mode::empty()).map_err(|cause| match cause {
                Errno::BUSY => {
                    Failure::new(FailureKind::Other, "another ireko-agent runs here already")
                }
                cause => Failure::of(format_args!("open {}", node.display()), cause),
            })?;
        Self::over(device)
    }

    /// A port over any non-blocking descriptor that reads, writes and hangs up.
    pub fn over(device: OwnedFd) -> Result<Self> {
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC).during(|| "watch the port")?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&changes, &device, epoll::EventData::new_u64(0), edges)
            .during(|| "watch the port")?;
        Ok(Self {
            device,
            changes,
            connected: false,
            decoder: FrameDecoder::default(),
            outgoing: VecDeque::new(),
            written: 0,
            waiting: 0,
            scratch: vec![0; READ_SIZE].into(),
        })
    }

    /// Puts a frame behind those that wait.
    pub fn send(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        self.waiting += bytes.len();
        self.outgoing.push_back(bytes);
    }

    /// Puts a frame in front of those that wait; none of them is half written.
    pub fn send_first(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        self.waiting += bytes.len();
        let index = usize::from(self.written > 0);
        self.outgoing.insert(index, bytes);
    }

    /// Whether more output of processes should be read.
    pub fn has_room(&self) -> bool {
        self.waiting < HIGH_WATER
    }

    /// What to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        if !self.connected {
            return (self.changes.as_fd(), PollFlags::IN);
        }
        let write = if self.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (self.device.as_fd(), PollFlags::IN | write)
    }

    /// Reads and writes what can be without waiting.
    pub fn turn(&mut self, events: &mut Vec<Event>) {
        if !self.connected {
            if !self.look_for_host() {
                return;
            }
            events.push(Event::NewSession);
        }
        self.read(events);
        self.write();
    }

    fn look_for_host(&mut self) -> bool {
        // Taken before the look: a change between the two is seen at the next wait.
        let mut buffer = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 1];
        let _ = epoll::wait(&self.changes, &mut buffer, Some(&Timespec::default()));
        let mut state = [PollFd::new(&self.device, PollFlags::OUT)];
        let looked = poll(&mut state, Some(&Timespec::default()));
        self.connected = looked.is_ok() && !state[0].revents().contains(PollFlags::HUP);
        self.connected
    }

    fn read(&mut self, events: &mut Vec<Event>) {
        let mut taken = 0;
        // The kernel hands out one page at a time.
        while taken < READ_SIZE {
            match rustix::io::read(&self.device, &mut *self.scratch) {
                Ok(0) => return self.disconnect(),
                Ok(count) => {
                    self.decoder.feed(&self.scratch[..count]);
                    taken += count;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(cause) => {
                    kmsg::warn(format_args!("read from the port: {cause}"));
                    return self.disconnect();
                }
            }
        }
        self.decode(events);
    }

    fn decode(&mut self, events: &mut Vec<Event>) {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => events.push(Event::Frame(frame)),
                Ok(None) => return,
                Err(cause) => {
                    kmsg::warn(format_args!("the host's frames are not understood: {cause}"));
                    self.decoder = FrameDecoder::default();
                    events.push(Event::NewSession);
                    return;
                }
            }
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.decoder = FrameDecoder::default();
        // The next host cannot begin in the middle of a frame.
        if std::mem::take(&mut self.written) > 0
            && let Some(frame) = self.outgoing.pop_front()
        {
            self.waiting -= frame.len();
        }
    }

    fn write(&mut self) {
        while self.connected
            && let Some(frame) = self.outgoing.front()
        {
            match rustix::io::write(&self.device, &frame[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(cause) => {
                    kmsg::warn(format_args!("write to the port: {cause}"));
                    return self.disconnect();
                }
            }
            if self.written == frame.len() {
                self.waiting -= frame.len();
                self.written = 0;
                self.outgoing.pop_front();
            }
        }
    }
}

fn find_in(ports: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}
