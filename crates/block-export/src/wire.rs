//! The protocol's numbers, and the layouts that are used on more than one path.

/// The longest payload of one request, in bytes; also told to the client.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// The longest name or message, in bytes ("Values", string limit).
pub const MAX_STRING: usize = 4096;

/// What a server greets with.
pub const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// What a server greets with next, and every option begins with.
pub const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// What every answer to an option begins with.
pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// What every request begins with.
pub const REQUEST: u32 = 0x2560_9513;
/// What every simple reply begins with.
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
/// What every chunk of a structured reply begins with.
pub const CHUNK: u32 = 0x668e_33ef;

/// Handshake flags; client and server use the same two bits.
pub mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Option types.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Option reply types.
pub mod answer {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Information types of INFO and GO.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod transmission {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Command flags.
pub mod flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunk types and the flag of a reply's last chunk.
pub mod chunk {
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// The one metadata context there is, and what it says of an extent.
pub mod allocation {
    pub const NAMESPACE: &str = "base:";
    pub const CONTEXT: &str = "base:allocation";
    pub const ID: u32 = 1;
    pub const STATE_HOLE: u32 = 1 << 0;
    pub const STATE_ZERO: u32 = 1 << 1;
}

/// Error values a reply may carry; Linux's numbers on every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    Perm = 1,
    /// The disk failed.
    Io = 5,
    /// The request makes no sense here.
    Inval = 22,
    /// The host is out of space, or a write reaches past the disk's end.
    NoSpace = 28,
    /// It cannot be done, or not in the way asked for.
    NotSup = 95,
}

impl From<ireko_disk::ErrorKind> for Errno {
    fn from(kind: ireko_disk::ErrorKind) -> Self {
        use ireko_disk::ErrorKind;
        match kind {
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::ReadOnly => Self::Perm,
            ErrorKind::OutOfRange => Self::Inval,
            ErrorKind::Unsupported => Self::NotSup,
            _ => Self::Io,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    /// A number this server does not know; it has no payload.
    Unknown(u16),
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: Command,
    /// Chosen by the client, returned in every reply.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// Bytes of a request's header.
pub const REQUEST_SIZE: usize = 28;

impl Request {
    /// Returns `None` where the bytes do not begin like a request: the stream is out of step.
    pub fn decode(bytes: &[u8; REQUEST_SIZE]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != REQUEST {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: match fields.u16()? {
                0 => Command::Read,
                1 => Command::Write,
                2 => Command::Disconnect,
                3 => Command::Flush,
                4 => Command::Trim,
                5 => Command::Cache,
                6 => Command::WriteZeroes,
                7 => Command::BlockStatus,
                other => Command::Unknown(other),
            },
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Big-endian fields taken from the front of some bytes; `None` where too few are left.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    /// A length of four bytes and as many bytes of UTF-8, at most [`MAX_STRING`].
    pub fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        if length > MAX_STRING {
            return None;
        }
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
}
