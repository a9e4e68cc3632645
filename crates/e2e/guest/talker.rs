//! Both ends of test traffic, in guests and on the host: streams of known content, short and many
//! connections, resets, datagrams, and how long each took.
//!
//! ```text
//!   client: word ('u', 'd', 'e' or 'r'), length (u64) ─► server
//!     u   length bytes ─►, end ─►          ◄─ what came: count and hash, end
//!     d   end ─►                           ◄─ length bytes, end
//!     e   one byte ─► ◄─ the same, length times
//!     r   a few bytes that the server does not read: it closes, which is a reset
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const PIECE: usize = 256 << 10;
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes that differ everywhere, and their hash.
struct Content {
    state: u64,
    hash: Hash,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Hash {
    value: u64,
    count: u64,
    /// Bytes that are not yet a word.
    rest: [u8; 8],
    held: usize,
}

impl Hash {
    fn word(&mut self, word: u64) {
        self.value = (self.value.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn add(&mut self, mut bytes: &[u8]) {
        self.count += bytes.len() as u64;
        while self.held > 0 && !bytes.is_empty() {
            self.rest[self.held] = bytes[0];
            bytes = &bytes[1..];
            self.held = (self.held + 1) % 8;
            if self.held == 0 {
                self.word(u64::from_le_bytes(self.rest));
            }
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.rest[..rest.len()].copy_from_slice(rest);
            self.held = rest.len();
        }
    }

    /// Of all that was added.
    fn end(mut self) -> [u8; 16] {
        let held = u64::from_le_bytes(self.rest) & ((1 << (8 * self.held)) - 1);
        self.word(held);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }
}

impl Content {
    fn new(seed: u64) -> Self {
        Self { state: seed | 1, hash: Hash::default() }
    }

    /// The next bytes.
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes()[..word.len()]);
        }
        self.hash.add(bytes);
    }

    fn send(mut self, stream: &mut TcpStream, mut length: u64) -> io::Result<[u8; 16]> {
        let mut piece = vec![0; PIECE];
        while length > 0 {
            let count = length.min(PIECE as u64) as usize;
            self.fill(&mut piece[..count]);
            stream.write_all(&piece[..count])?;
            length -= count as u64;
        }
        Ok(self.hash.end())
    }
}

fn receive(stream: &mut TcpStream) -> io::Result<[u8; 16]> {
    let (mut hash, mut piece) = (Hash::default(), vec![0; PIECE]);
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(hash.end()),
            count => hash.add(&piece[..count]),
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Serves TCP and UDP at an address for as long as the process lives; the port.
pub fn serve(address: &str) -> io::Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    let datagrams = UdpSocket::bind((listener.local_addr()?.ip(), port))?;
    thread::spawn(move || {
        let mut bytes = vec![0; 65536];
        while let Ok((count, from)) = datagrams.recv_from(&mut bytes) {
            // A client that is gone is no concern.
            let _ = datagrams.send_to(&bytes[..count], from);
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One that cannot have a thread is closed, which its client sees.
            let _ = thread::Builder::new().stack_size(64 << 10).spawn(move || answer(stream));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8].map(|at| head[at]));
    match head[0] {
        b'u' => {
            let got = receive(&mut stream)?;
            stream.write_all(&got)
        }
        b'd' => {
            if stream.read(&mut head)? != 0 {
                return Err(wrong("the client goes on"));
            }
            Content::new(length).send(&mut stream, length).map(drop)
        }
        b'e' => {
            let mut byte = [0];
            for _ in 0..length {
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
            }
            Ok(())
        }
        b'r' => stream.peek(&mut head).map(drop),
        _ => Err(wrong("no such word")),
    }
}

fn open(to: &str, word: u8, length: u64) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut head = [word; 9];
    head[1..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&head)?;
    Ok(stream)
}

/// Sends so many bytes, ends, and hears what came.
pub fn up(to: &str, length: u64) -> io::Result<()> {
    let mut stream = open(to, b'u', length)?;
    let sent = Content::new(length).send(&mut stream, length)?;
    stream.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    if heard == sent { Ok(()) } else { Err(wrong("other bytes came than were sent")) }
}

/// Ends at once, and gets so many bytes.
pub fn down(to: &str, length: u64) -> io::Result<()> {
    let mut stream = open(to, b'd', length)?;
    stream.shutdown(Shutdown::Write)?;
    let got = receive(&mut stream)?;
    let (mut content, mut piece, mut left) = (Content::new(length), vec![0; PIECE], length);
    while left > 0 {
        let count = left.min(PIECE as u64) as usize;
        content.fill(&mut piece[..count]);
        left -= count as u64;
    }
    if got == content.hash.end() { Ok(()) } else { Err(wrong("other bytes came than were sent")) }
}

/// One byte there and back, so often.
pub fn echo(to: &str, times: u64) -> io::Result<()> {
    let mut stream = open(to, b'e', times)?;
    let mut byte = [7];
    for _ in 0..times {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(())
}

/// So many connections, one after the other.
pub fn short(to: &str, count: u64) -> io::Result<()> {
    (0..count).try_for_each(|_| up(to, 100))
}

/// So many connections at once, all of which are served before the first goes on. They are opened
/// one after the other: a server has no room for more than 128 that it has not yet accepted.
pub fn many(to: &str, count: u64) -> io::Result<()> {
    const TIMES: u64 = 20;
    let turn = |stream: &mut TcpStream, sent: u8| {
        let mut byte = [sent];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        if byte == [sent] { Ok(()) } else { Err(wrong("another byte came back")) }
    };
    let mut opened = Vec::new();
    for number in 0..count {
        let mut stream = open(to, b'e', TIMES)?;
        turn(&mut stream, number as u8)?;
        opened.push(stream);
    }
    let threads: Vec<_> = opened
        .into_iter()
        .map(|mut stream| {
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || (1..TIMES).try_for_each(|time| turn(&mut stream, time as u8)))
        })
        .collect::<io::Result<_>>()?;
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| wrong("a panic"))?)
}

/// The server's reset arrives as one.
pub fn reset(to: &str) -> io::Result<()> {
    let mut stream = open(to, b'r', 0)?;
    stream.write_all(b"nobody reads this")?;
    match stream.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Ok(_) => Err(wrong("an end, not a reset")),
        Err(error) => Err(error),
    }
}

/// A datagram of so many bytes there and back; a lost one is sent again.
pub fn datagram(to: &str, length: u64) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut sent, mut got) = (vec![0; length as usize], vec![0; 65536]);
    Content::new(length).fill(&mut sent);
    for _ in 0..30 {
        // Nobody may listen yet, which the next call says.
        let _ = socket.send(&sent);
        match socket.recv(&mut got) {
            Ok(count) if got[..count] == sent => return Ok(()),
            Ok(_) => return Err(wrong("another datagram came back")),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// Which of these ports of these hosts, named with commas between them, take connections.
pub fn scan(hosts: &str, ports: std::ops::RangeInclusive<u16>) -> Vec<String> {
    let all: Vec<_> = hosts
        .split(',')
        .flat_map(|host| ports.clone().map(move |port| format!("{host}:{port}")))
        .collect();
    let open = |to: &String| {
        let parsed = to.parse().ok();
        parsed.is_some_and(|to| TcpStream::connect_timeout(&to, Duration::from_secs(3)).is_ok())
    };
    let threads: Vec<_> = all
        .chunks(all.len().div_ceil(32).max(1))
        .map(|some| {
            let some = some.to_vec();
            thread::spawn(move || some.into_iter().filter(open).collect::<Vec<_>>())
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
}

/// What a command line asks for; how long it took.
pub fn talk(words: &[String]) -> io::Result<Duration> {
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or_default();
    let to = words.get(1).map_or("", String::as_str);
    let began = Instant::now();
    match words.first().map_or("", String::as_str) {
        "up" => up(to, number(2))?,
        "down" => down(to, number(2))?,
        "echo" => echo(to, number(2))?,
        "short" => short(to, number(2))?,
        "many" => many(to, number(2))?,
        "reset" => reset(to)?,
        "datagram" => datagram(to, number(2))?,
        other => return Err(wrong(other)),
    }
    Ok(began.elapsed())
}
