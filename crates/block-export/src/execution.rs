//! One request on the disk.
//!
//! Runs on several threads at once; the disk orders what overlaps. A flush covers every write that
//! was answered before it came, on any connection, which is what CAN_MULTI_CONN promises.

use crate::negotiation::Agreed;
use crate::replies::{DataBuffer, Part, Refusal, Replies};
use crate::server::Export;
use crate::wire::{Command, Errno, MAX_PAYLOAD, Request, allocation, flag};
use ireko_disk::{Extent, ExtentKind};
use std::error::Error as _;
use std::io::{self, Write};

/// Structured reads are sent in chunks of at most this, so that few bytes are held at once.
const PIECE: u32 = 1 << 20;

/// Shorter reads are not worth asking the disk for its holes.
const WORTH_MAPPING: u32 = 64 << 10;

/// The most extents that one read or block status asks the disk for.
const MAX_EXTENTS: usize = 1024;

/// Zeros that are really written, this many at a time.
const ZEROES: &[u8] = &[0; 1 << 20];

/// What a connection's requests have in common.
pub struct Executor<'a, W> {
    pub export: &'a Export,
    pub agreed: Agreed,
    pub replies: Replies<W>,
}

impl<W: Write> Executor<'_, W> {
    /// Does what `request` asks and answers it. `buffer` holds a write's data; a read fills it.
    ///
    /// # Errors
    /// Only where the client cannot be answered; a request that fails is an answer.
    pub fn execute(&self, request: &Request, buffer: &mut DataBuffer) -> io::Result<()> {
        match request.command {
            Command::Read if self.agreed.structured => self.read_in_chunks(request, buffer),
            Command::Read => self.read_at_once(request, buffer),
            Command::BlockStatus if self.agreed.allocation => self.block_status(request),
            _ => {
                let result = self.change(request, buffer.data());
                self.replies.simple(request.cookie, result.map_err(|refusal| refusal.errno))
            }
        }
    }

    fn read_at_once(&self, request: &Request, buffer: &mut DataBuffer) -> io::Result<()> {
        let Request { cookie, offset, length, .. } = *request;
        let result = self.check_read(request).and_then(|()| self.fill(offset, length, buffer));
        match result {
            Ok(()) => self.replies.simple_data(cookie, buffer),
            Err(refusal) => self.replies.simple(cookie, Err(refusal.errno)),
        }
    }

    fn read_in_chunks(&self, request: &Request, buffer: &mut DataBuffer) -> io::Result<()> {
        let result = match self.check_read(request) {
            Ok(()) if request.length == 0 => return self.replies.nothing(request.cookie),
            Ok(()) if request.has(flag::DF) => self.read_whole(request, buffer),
            Ok(()) => self.read_pieces(request, buffer),
            Err(refusal) => Err(Failure::Disk(refusal)),
        };
        match result {
            Ok(()) => Ok(()),
            Err(Failure::Disk(refusal)) => self.replies.failure(request.cookie, &refusal),
            Err(Failure::Client(error)) => Err(error),
        }
    }

    fn read_whole(&self, request: &Request, buffer: &mut DataBuffer) -> Result<(), Failure> {
        let Request { cookie, offset, length, .. } = *request;
        self.fill(offset, length, buffer)?;
        Ok(self.replies.data(cookie, Part::Last, offset, buffer)?)
    }

    fn read_pieces(&self, request: &Request, buffer: &mut DataBuffer) -> Result<(), Failure> {
        let end = request.offset + u64::from(request.length);
        let mut offset = request.offset;
        while offset < end {
            for extent in self.map(offset, (end - offset) as u32)? {
                offset = extent.offset + extent.length;
                self.send_extent(request.cookie, extent, end, buffer)?;
            }
        }
        Ok(())
    }

    /// Returns at least one extent, contiguous from `offset`, none past `length`.
    fn map(&self, offset: u64, length: u32) -> Result<Vec<Extent>, Refusal> {
        let all = Extent { offset, length: length.into(), kind: ExtentKind::Data };
        if length < WORTH_MAPPING {
            return Ok(vec![all]);
        }
        self.extents(offset, length, MAX_EXTENTS)
    }

    fn send_extent(
        &self,
        cookie: u64,
        extent: Extent,
        end: u64,
        buffer: &mut DataBuffer,
    ) -> Result<(), Failure> {
        let extent_end = extent.offset + extent.length;
        let part = |until| if until == end { Part::Last } else { Part::Middle };
        if extent.kind != ExtentKind::Data {
            let length = extent.length as u32;
            return Ok(self.replies.hole(cookie, part(extent_end), extent.offset, length)?);
        }
        let mut offset = extent.offset;
        while offset < extent_end {
            let length = (extent_end - offset).min(PIECE.into()) as u32;
            self.fill(offset, length, buffer)?;
            self.replies.data(cookie, part(offset + u64::from(length)), offset, buffer)?;
            offset += u64::from(length);
        }
        Ok(())
    }

    fn fill(&self, offset: u64, length: u32, buffer: &mut DataBuffer) -> Result<(), Refusal> {
        let room = buffer.make_room(length as usize);
        self.export.disk.read_at(offset, room).map_err(|error| told(&error))
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        match self.states(request) {
            Ok(states) => self.replies.block_status(request.cookie, &states),
            Err(refusal) => self.replies.failure(request.cookie, &refusal),
        }
    }

    /// Returns lengths and states of the extents from the request's start, neighbours of equal
    /// state made one: at most [`MAX_EXTENTS`], or one where that was asked for.
    fn states(&self, request: &Request) -> Result<Vec<(u32, u32)>, Refusal> {
        check_flags(request, flag::REQ_ONE)?;
        self.check_range(request, Errno::Inval)?;
        if request.length == 0 {
            return Err(Refusal::new(Errno::Inval, "the status of nothing was asked for"));
        }
        let limit = if request.has(flag::REQ_ONE) { 1 } else { MAX_EXTENTS };
        let mut states: Vec<(u32, u32)> = Vec::new();
        for extent in self.extents(request.offset, request.length, limit)? {
            let state = state_of(extent.kind);
            match states.last_mut() {
                Some((length, last)) if *last == state => *length += extent.length as u32,
                _ => states.push((extent.length as u32, state)),
            }
        }
        Ok(states)
    }

    /// Asks the disk, and holds it to its word: the result is not empty, contiguous from `offset`
    /// and within `length`.
    fn extents(&self, offset: u64, length: u32, limit: usize) -> Result<Vec<Extent>, Refusal> {
        let mut extents =
            self.export.disk.extents(offset, length.into(), limit).map_err(|error| told(&error))?;
        let end = offset + u64::from(length);
        let mut expected = offset;
        for extent in &mut extents {
            if extent.offset != expected || extent.length == 0 || expected >= end {
                return Err(Refusal::new(Errno::Io, "the disk's map contradicts itself"));
            }
            extent.length = extent.length.min(end - extent.offset);
            expected += extent.length;
        }
        if extents.is_empty() {
            return Err(Refusal::new(Errno::Io, "the disk's map is empty"));
        }
        Ok(extents)
    }

    fn change(&self, request: &Request, payload: &[u8]) -> Result<(), Refusal> {
        let Request { offset, length, .. } = *request;
        let disk = &self.export.disk;
        let done = match request.command {
            Command::Write => {
                self.check_write(request, 0, Errno::NoSpace)?;
                disk.write_at(offset, payload)
            }
            Command::WriteZeroes => {
                self.check_write(request, flag::NO_HOLE | flag::FAST_ZERO, Errno::NoSpace)?;
                match (request.has(flag::NO_HOLE), request.has(flag::FAST_ZERO)) {
                    (true, true) => {
                        let why = "zeros that take space are written like any other bytes";
                        return Err(Refusal::new(Errno::NotSup, why));
                    }
                    (true, false) => self.write_real_zeroes(offset, length),
                    (false, _) => disk.write_zeroes(offset, length.into()),
                }
            }
            Command::Trim => {
                self.check_write(request, 0, Errno::Inval)?;
                disk.discard(offset, length.into())
            }
            Command::Flush => {
                check_flags(request, 0)?;
                return disk.flush().map_err(|error| told(&error));
            }
            Command::Cache => {
                // Advice; the host's page cache needs none.
                check_flags(request, 0)?;
                return self.check_range(request, Errno::Inval);
            }
            _ => return Err(Refusal::new(Errno::Inval, "a command that was not agreed on")),
        };
        let durable = if request.has(flag::FUA) { done.and_then(|()| disk.flush()) } else { done };
        durable.map_err(|error| told(&error))
    }

    /// Writes zeros that keep their place, for a client that must not run out of space later.
    fn write_real_zeroes(&self, offset: u64, length: u32) -> ireko_disk::Result<()> {
        let end = offset + u64::from(length);
        for start in (offset..end).step_by(ZEROES.len()) {
            let piece = (end - start).min(ZEROES.len() as u64) as usize;
            self.export.disk.write_at(start, &ZEROES[..piece])?;
        }
        Ok(())
    }

    fn check_read(&self, request: &Request) -> Result<(), Refusal> {
        check_flags(request, if self.agreed.structured { flag::DF } else { 0 })?;
        if request.length > MAX_PAYLOAD {
            return Err(Refusal::new(Errno::Inval, "longer than the longest payload"));
        }
        self.check_range(request, Errno::Inval)
    }

    fn check_write(
        &self,
        request: &Request,
        flags: u16,
        past_the_end: Errno,
    ) -> Result<(), Refusal> {
        check_flags(request, flags)?;
        if self.export.read_only {
            return Err(Refusal::new(Errno::Perm, "the export is read-only"));
        }
        self.check_range(request, past_the_end)
    }

    fn check_range(&self, request: &Request, past_the_end: Errno) -> Result<(), Refusal> {
        match request.offset.checked_add(request.length.into()) {
            Some(end) if end <= self.export.size() => Ok(()),
            _ => Err(Refusal::new(past_the_end, "past the end of the disk")),
        }
    }
}

/// Why a structured read could not be carried on.
enum Failure {
    Disk(Refusal),
    Client(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Disk(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

/// FUA may come with any command, and means something to those that write.
fn check_flags(request: &Request, allowed: u16) -> Result<(), Refusal> {
    if request.flags & !(allowed | flag::FUA) == 0 {
        Ok(())
    } else {
        Err(Refusal::new(Errno::Inval, "a flag that this command does not have"))
    }
}

fn state_of(kind: ExtentKind) -> u32 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero | ExtentKind::Absent => allocation::STATE_HOLE | allocation::STATE_ZERO,
    }
}

/// Turns a disk's failure into what the client is told, and what the log keeps.
fn told(error: &ireko_disk::Error) -> Refusal {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    let errno = Errno::from(error.kind());
    tracing::warn!(?errno, message, "a request on the disk failed");
    Refusal { errno, message }
}
