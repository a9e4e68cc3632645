//! What client and server agree on before the first request.
//!
//! ```text
//!   server  NBDMAGIC IHAVEOPT flags
//!   client  flags
//!   client  IHAVEOPT option length data   ┐ as often as it likes, up to a bound
//!   server  reply … ACK or an error       ┘
//!   client  GO or EXPORT_NAME ─► transmission      ABORT ─► end
//! ```
//! Source: "Fixed newstyle negotiation", "Option types", "Metadata querying".

use crate::server::Export;
use crate::wire::{
    Fields, GREETING, MAX_PAYLOAD, OPTION, OPTION_REPLY, allocation, answer, handshake, info,
    option, transmission,
};
use std::io::{self, Read, Write};

/// The most data of an option that is read: a name and some hundred queries.
const MAX_OPTION: u32 = 64 << 10;

/// More options than any client needs.
const MAX_OPTIONS: usize = 256;

/// Zeros after EXPORT_NAME's answer, unless the client said that it does not want them.
const RESERVED: [u8; 124] = [0; 124];

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Reads and block status are answered in chunks.
    pub structured: bool,
    /// `base:allocation` may be asked for.
    pub allocation: bool,
}

/// Negotiates to the first request; `None` where the client goes without making one.
///
/// # Errors
/// `InvalidData` for a client that breaks the protocol, else the stream's own.
pub fn negotiate(stream: &mut (impl Read + Write), export: &Export) -> io::Result<Option<Agreed>> {
    let mut greeting = Vec::new();
    greeting.extend(GREETING.to_be_bytes());
    greeting.extend(OPTION.to_be_bytes());
    greeting.extend((handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    let client_flags = u32::from_be_bytes(read_array(stream)?);
    let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    if client_flags & !known != 0 {
        return Err(violation("unknown client flags"));
    }
    let zeroes = client_flags & u32::from(handshake::NO_ZEROES) == 0;

    let mut negotiation = Negotiation { stream, export, agreed: Agreed::default(), zeroes };
    for _ in 0..MAX_OPTIONS {
        match negotiation.next_option()? {
            Step::Next => {}
            Step::Transmission => return Ok(Some(negotiation.agreed)),
            Step::End => return Ok(None),
        }
    }
    Err(violation("endless negotiation"))
}

struct Negotiation<'a, S> {
    stream: &'a mut S,
    export: &'a Export,
    agreed: Agreed,
    zeroes: bool,
}

enum Step {
    Next,
    Transmission,
    End,
}

impl<S: Read + Write> Negotiation<'_, S> {
    fn next_option(&mut self) -> io::Result<Step> {
        let header: [u8; 16] = read_array(self.stream)?;
        let mut fields = Fields(&header);
        let (magic, option, length) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(OPTION), Some(option), Some(length)) = (magic, option, length) else {
            return Err(violation("an option without its magic"));
        };
        if length > MAX_OPTION {
            self.reply(option, answer::ERR_TOO_BIG, b"")?;
            return Err(violation("an option that is too long"));
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;

        match option {
            option::EXPORT_NAME => return self.export_name(&data),
            option::ABORT => {
                self.reply(option, answer::ACK, b"")?;
                return Ok(Step::End);
            }
            option::GO | option::INFO => return self.go(option, &data),
            option::LIST => self.list(&data)?,
            option::STRUCTURED_REPLY => self.structured_reply(&data)?,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, &data)?;
            }
            other => self.reply(other, answer::ERR_UNSUP, b"this server has no such option")?,
        }
        Ok(Step::Next)
    }

    /// The oldest way to begin; it has no way to say no but to hang up.
    fn export_name(&mut self, name: &[u8]) -> io::Result<Step> {
        if !std::str::from_utf8(name).is_ok_and(|name| self.export.is_called(name)) {
            return Err(violation("a name that is not exported"));
        }
        let mut reply = Vec::new();
        reply.extend(self.export.size().to_be_bytes());
        reply.extend(self.transmission_flags().to_be_bytes());
        if self.zeroes {
            reply.extend(RESERVED);
        }
        self.stream.write_all(&reply)?;
        Ok(Step::Transmission)
    }

    fn go(&mut self, option: u32, data: &[u8]) -> io::Result<Step> {
        let Some((name, wanted)) = parse_go(data) else {
            self.invalid(option)?;
            return Ok(Step::Next);
        };
        if !self.export.is_called(name) {
            self.reply(option, answer::ERR_UNKNOWN, b"no such export")?;
            return Ok(Step::Next);
        }
        let flags = self.transmission_flags();
        self.info(option, info::EXPORT, |reply| {
            reply.extend(self.export.size().to_be_bytes());
            reply.extend(flags.to_be_bytes());
        })?;
        if wanted.contains(&info::NAME) {
            self.info(option, info::NAME, |reply| reply.extend(self.export.name.as_bytes()))?;
        }
        if wanted.contains(&info::DESCRIPTION) {
            let text = self.export.description.as_bytes();
            self.info(option, info::DESCRIPTION, |reply| reply.extend(text))?;
        }
        let preferred = self.export.disk.geometry().physical_sector.max(4096);
        self.info(option, info::BLOCK_SIZE, |reply| {
            for size in [1, preferred, MAX_PAYLOAD] {
                reply.extend(size.to_be_bytes());
            }
        })?;
        self.reply(option, answer::ACK, b"")?;
        Ok(if option == option::GO { Step::Transmission } else { Step::Next })
    }

    fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.invalid(option::LIST);
        }
        let mut entry = Vec::new();
        entry.extend((self.export.name.len() as u32).to_be_bytes());
        entry.extend(self.export.name.as_bytes());
        entry.extend(self.export.description.as_bytes());
        self.reply(option::LIST, answer::SERVER, &entry)?;
        self.reply(option::LIST, answer::ACK, b"")
    }

    fn structured_reply(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.invalid(option::STRUCTURED_REPLY);
        }
        self.agreed.structured = true;
        self.reply(option::STRUCTURED_REPLY, answer::ACK, b"")
    }

    /// Each SET forgets what an earlier one selected, also where it fails.
    fn meta_context(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            self.agreed.allocation = false;
        }
        let Some((name, queries)) = parse_queries(data).filter(|_| self.agreed.structured) else {
            return self.invalid(option);
        };
        if !self.export.is_called(name) {
            return self.reply(option, answer::ERR_UNKNOWN, b"no such export");
        }
        let lists_all = !setting && queries.is_empty();
        let asked = |query: &&str| {
            *query == allocation::CONTEXT || (!setting && *query == allocation::NAMESPACE)
        };
        if lists_all || queries.iter().any(asked) {
            // In a list the id means nothing and is 0.
            let id = if setting { allocation::ID } else { 0 };
            let context = [&id.to_be_bytes(), allocation::CONTEXT.as_bytes()].concat();
            self.reply(option, answer::META_CONTEXT, &context)?;
            self.agreed.allocation |= setting;
        }
        self.reply(option, answer::ACK, b"")
    }

    fn transmission_flags(&self) -> u16 {
        use transmission::*;
        let mut flags = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN | SEND_CACHE;
        if self.export.read_only {
            flags |= READ_ONLY;
        } else {
            flags |= SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        }
        if self.agreed.structured {
            flags |= SEND_DF;
        }
        flags
    }

    fn info(&mut self, option: u32, kind: u16, fill: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
        let mut data = kind.to_be_bytes().to_vec();
        fill(&mut data);
        self.reply(option, answer::INFO, &data)
    }

    fn invalid(&mut self, option: u32) -> io::Result<()> {
        self.reply(option, answer::ERR_INVALID, b"malformed or out of turn")
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = Vec::with_capacity(20 + data.len());
        reply.extend(OPTION_REPLY.to_be_bytes());
        reply.extend(option.to_be_bytes());
        reply.extend(kind.to_be_bytes());
        reply.extend((data.len() as u32).to_be_bytes());
        reply.extend(data);
        self.stream.write_all(&reply)
    }
}

/// The data of GO and INFO: an export's name, the kinds of information wanted.
fn parse_go(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
    fields.is_empty().then_some((name, wanted))
}

/// The data of the metadata options: an export's name, queries.
fn parse_queries(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    // Stops at the first that is missing; each takes four bytes at least.
    let queries = (0..count).map(|_| fields.string()).collect::<Option<_>>()?;
    fields.is_empty().then_some((name, queries))
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A client broke the protocol and is to be disconnected.
pub fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
