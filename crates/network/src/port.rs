//! One VM at the switch, and the wire to it.

use crate::admission::Identity;
use crate::dhcp::Lease;
use crate::frame::Way;
use crate::queue::{Incoming, Outgoing};
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use ireko_protocol::network::{Endpoint, Published};
use mio::Token;
use mio::net::UnixStream;
use smoltcp::time::{Duration, Instant};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

/// The first pause before a VM that does not listen yet is tried again, and the longest.
const SOON: Duration = Duration::from_millis(10);
const LATER: Duration = Duration::from_millis(200);

/// One VM's place at the switch.
#[derive(Debug)]
pub struct Port {
    /// As the engine gave it.
    pub endpoint: Endpoint,
    /// Whom its frames must be from.
    pub identity: Identity,
    /// What its DHCP client is told.
    pub lease: Lease,
    /// From the gateway to it.
    pub way: Way,
    /// The wire.
    pub link: Link,
    /// Where the host listens for it.
    pub published: Vec<Published>,
    /// Frames from it that were passed on or answered.
    pub accepted: u64,
    /// Frames from it that were dropped.
    pub refused: u64,
}

/// The connection to a VM's network device, made again whenever it is lost.
#[derive(Debug)]
pub struct Link {
    port: PortId,
    path: PathBuf,
    wire: Wire,
    /// What was read from the VM and not yet looked at.
    pub incoming: Incoming,
    /// What the VM is to get.
    pub out: Outgoing,
}

#[derive(Debug)]
enum Wire {
    Down {
        redial: Instant,
        pause: Duration,
    },
    /// `is_full` where its VM has to read before more can be written.
    Up {
        stream: UnixStream,
        token: Token,
        is_full: bool,
    },
}

/// How reading from a VM went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// There are bytes, and there may be more.
    Some,
    /// There is nothing to read now.
    Nothing,
}

impl Link {
    /// A wire to a VM that will listen at `path`.
    pub fn new(port: PortId, path: PathBuf, now: Instant) -> Self {
        Self {
            port,
            path,
            wire: Wire::Down { redial: now, pause: SOON },
            incoming: Incoming::default(),
            out: Outgoing::default(),
        }
    }

    /// Whether the VM was reached.
    pub fn is_up(&self) -> bool {
        matches!(self.wire, Wire::Up { .. })
    }

    /// When the VM is to be tried again.
    pub fn redial_at(&self) -> Option<Instant> {
        match self.wire {
            Wire::Down { redial, .. } => Some(redial),
            Wire::Up { .. } => None,
        }
    }

    /// Tries to reach the VM where it is time to.
    pub fn dial(&mut self, sources: &mut Sources, now: Instant) {
        let Wire::Down { redial, pause } = self.wire else { return };
        if now < redial {
            return;
        }
        let connected = UnixStream::connect(&self.path).and_then(|mut stream| {
            let token = sources.add(&mut stream, Source::Link(self.port))?;
            Ok((stream, token))
        });
        self.wire = match connected {
            Ok((stream, token)) => Wire::Up { stream, token, is_full: false },
            Err(_) => Wire::Down { redial: now + pause, pause: (pause * 2).min(LATER) },
        };
    }

    /// Reads once.
    pub fn read(&mut self, sources: &mut Sources, now: Instant) -> Heard {
        let Wire::Up { stream, .. } = &mut self.wire else { return Heard::Nothing };
        match stream.read(self.incoming.space()) {
            Ok(count @ 1..) => {
                self.incoming.filled(count);
                Heard::Some
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => Heard::Some,
            Ok(0) | Err(_) => {
                self.hang_up(sources, now);
                Heard::Nothing
            }
        }
    }

    /// Writes what the VM takes. While it is not there frames are lost, as on any wire.
    pub fn flush(&mut self, sources: &mut Sources, now: Instant) {
        let Wire::Up { stream, token, is_full } = &mut self.wire else {
            self.out.clear();
            return;
        };
        let mut blocks = false;
        while !blocks && !self.out.pending().is_empty() {
            match stream.write(self.out.pending()) {
                Ok(count @ 1..) => self.out.written(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => blocks = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return self.hang_up(sources, now),
            }
        }
        if std::mem::replace(is_full, blocks) != blocks
            && sources.wait_to_write(stream, *token, blocks).is_err()
        {
            self.hang_up(sources, now);
        }
    }

    /// Lets go of the VM, to be tried again.
    pub fn hang_up(&mut self, sources: &mut Sources, now: Instant) {
        let down = Wire::Down { redial: now + SOON, pause: SOON };
        if let Wire::Up { mut stream, token, .. } = std::mem::replace(&mut self.wire, down) {
            sources.remove(&mut stream, token);
        }
        self.incoming = Incoming::default();
        self.out.clear();
    }
}
