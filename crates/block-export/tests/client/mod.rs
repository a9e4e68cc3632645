//! A disk in memory, and a client that speaks the protocol byte by byte.
#![allow(dead_code, reason = "each test binary uses its own part")]

use ireko_block_export::{Export, Server, serve};
use ireko_disk::{Disk, Error, ErrorKind, Extent, ExtentKind, Geometry, Result};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

pub const BLOCK: u64 = 64 << 10;

/// Nothing a test waits for takes this long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A thin disk: blocks are absent until written, zero once discarded.
pub struct MemoryDisk {
    state: RwLock<State>,
    pub flushes: AtomicU32,
    /// What every request on the disk is answered with.
    pub failing: Mutex<Option<ErrorKind>>,
}

struct State {
    bytes: Vec<u8>,
    kinds: Vec<ExtentKind>,
}

impl MemoryDisk {
    pub fn new(size: u64) -> Arc<Self> {
        let kinds = vec![ExtentKind::Absent; size.div_ceil(BLOCK) as usize];
        Arc::new(Self {
            state: RwLock::new(State { bytes: vec![0; size as usize], kinds }),
            flushes: AtomicU32::new(0),
            failing: Mutex::new(None),
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.state.read().unwrap().bytes.clone()
    }

    pub fn kinds(&self) -> Vec<ExtentKind> {
        self.state.read().unwrap().kinds.clone()
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        if let Some(kind) = *self.failing.lock().unwrap() {
            return Err(Error::new(kind, "asked to fail"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.geometry().virtual_size => Ok(()),
            _ => Err(Error::new(ErrorKind::OutOfRange, "past the end")),
        }
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        let virtual_size = self.state.read().unwrap().bytes.len() as u64;
        Geometry { virtual_size, logical_sector: 512, physical_sector: 4096 }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64)?;
        let start = offset as usize;
        buffer.copy_from_slice(&self.state.read().unwrap().bytes[start..start + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        let mut state = self.state.write().unwrap();
        let start = offset as usize;
        state.bytes[start..start + data.len()].copy_from_slice(data);
        let end = offset + data.len() as u64;
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            state.kinds[block as usize] = ExtentKind::Data;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        let mut state = self.state.write().unwrap();
        let end = offset + length;
        state.bytes[offset as usize..end as usize].fill(0);
        for block in offset.div_ceil(BLOCK)..end / BLOCK {
            state.kinds[block as usize] = ExtentKind::Zero;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let (start, end) = (offset.next_multiple_of(BLOCK), (offset + length) / BLOCK * BLOCK);
        self.check(offset, length)?;
        if start < end { self.write_zeroes(start, end - start) } else { Ok(()) }
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        self.check(offset, length)?;
        let state = self.state.read().unwrap();
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < offset + length {
            let end = (at / BLOCK * BLOCK + BLOCK).min(offset + length);
            let kind = state.kinds[(at / BLOCK) as usize];
            if let Some(last) = extents.last_mut().filter(|last| last.kind == kind) {
                last.length += end - at;
            } else if extents.len() < limit {
                extents.push(Extent { offset: at, length: end - at, kind });
            } else {
                break;
            }
            at = end;
        }
        Ok(extents)
    }

    fn flush(&self) -> Result<()> {
        self.check(0, 0)?;
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A served disk and the folder its socket lies in.
pub struct Served {
    pub server: Server,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

pub fn export(disk: Arc<dyn Disk>) -> Export {
    Export { name: "root".into(), disk, read_only: false, description: "a test's disk".into() }
}

impl Served {
    pub fn new(export: Export) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let server = serve(UnixListener::bind(&socket).unwrap(), export).unwrap();
        Self { server, socket, _folder: folder }
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client { stream, last_cookie: 0 }
    }

    /// Connects and negotiates structured replies and block status.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        client.greet(3);
        assert_eq!(client.option(8, b"").last(), Some(&(ACK, vec![])));
        let context = [&query_data("root", &["base:allocation"])[..]].concat();
        assert_eq!(client.option(10, &context).len(), 2);
        assert_eq!(client.option(7, &go_data("root", &[])).last(), Some(&(ACK, vec![])));
        client
    }

    /// Connects and negotiates nothing.
    pub fn simple_client(&self) -> Client {
        let mut client = self.connect();
        client.greet(3);
        assert_eq!(client.option(7, &go_data("", &[])).last(), Some(&(ACK, vec![])));
        client
    }
}

pub const ACK: u32 = 1;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;

pub fn go_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend(info.to_be_bytes()));
    data
}

pub fn query_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub fn request_bytes(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// A reply, put together from its chunks.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Error(u32),
    /// Offset and bytes of each data chunk, offset and length of each hole.
    Chunks(Vec<Chunk>),
    /// Length and state of each extent.
    Status(Vec<(u32, u32)>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    Data(u64, Vec<u8>),
    Hole(u64, u32),
}

pub struct Client {
    pub stream: UnixStream,
    last_cookie: u64,
}

impl Client {
    pub fn greet(&mut self, flags: u32) {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        self.stream.write_all(&flags.to_be_bytes()).unwrap();
    }

    /// Sends an option and returns its answers up to the last.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.stream.write_all(&option_bytes(option, data)).unwrap();
        let mut answers = Vec::new();
        loop {
            assert_eq!(self.u64(), 0x3e889045565a9);
            assert_eq!(self.u32(), option);
            let kind = self.u32();
            let length = self.u32() as usize;
            answers.push((kind, self.bytes(length)));
            if kind == ACK || kind >> 31 == 1 {
                return answers;
            }
        }
    }

    pub fn send(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> u64 {
        self.last_cookie += 1;
        let request = request_bytes(command, flags, self.last_cookie, offset, length);
        self.stream.write_all(&request).unwrap();
        self.last_cookie
    }

    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Reply {
        let cookie = self.send(command, flags, offset, length);
        let (answered, reply) = self.reply();
        assert_eq!(answered, cookie);
        reply
    }

    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> Reply {
        let cookie = self.send(WRITE, flags, offset, data.len() as u32);
        self.stream.write_all(data).unwrap();
        let (answered, reply) = self.reply();
        assert_eq!(answered, cookie);
        reply
    }

    /// Returns the bytes of a structured read, put together.
    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let Reply::Chunks(chunks) = self.ask(READ, 0, offset, length) else {
            panic!("the read failed");
        };
        let mut bytes = Vec::new();
        for chunk in chunks {
            match chunk {
                Chunk::Data(at, data) => {
                    assert_eq!(at, offset + bytes.len() as u64);
                    bytes.extend(data);
                }
                Chunk::Hole(at, length) => {
                    assert_eq!(at, offset + bytes.len() as u64);
                    bytes.resize(bytes.len() + length as usize, 0);
                }
            }
        }
        bytes
    }

    /// Reads one reply whose chunks are not interleaved with another's. A simple one must carry no
    /// data.
    pub fn reply(&mut self) -> (u64, Reply) {
        let mut chunks = Vec::new();
        loop {
            match self.u32() {
                0x6744_6698 => {
                    let error = self.u32();
                    let reply = if error == 0 { Reply::Done } else { Reply::Error(error) };
                    return (self.u64(), reply);
                }
                0x668e_33ef => {}
                other => panic!("not a reply: {other:#x}"),
            }
            let (last, kind) = (self.u16() & 1 == 1, self.u16());
            let cookie = self.u64();
            let length = self.u32() as usize;
            match kind {
                0 => {}
                1 => {
                    let offset = self.u64();
                    chunks.push(Chunk::Data(offset, self.bytes(length - 8)));
                }
                2 => chunks.push(Chunk::Hole(self.u64(), self.u32())),
                5 => {
                    assert_eq!(self.u32(), 1);
                    let extents = (0..(length - 4) / 8).map(|_| (self.u32(), self.u32()));
                    return (cookie, Reply::Status(extents.collect()));
                }
                0x8001 => {
                    let payload = self.bytes(length);
                    let error = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    return (cookie, Reply::Error(error));
                }
                other => panic!("unknown chunk {other}"),
            }
            if last {
                return (cookie, Reply::Chunks(chunks));
            }
        }
    }

    /// Waits until the server hangs up and returns what it said until then.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server does not hang up: {error}"),
        }
        bytes
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
