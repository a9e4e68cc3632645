//! HTTP to the daemon, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Nothing that is asked for takes longer, even on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// An answer's status, 0 where the connection was closed without one, and its body.
pub type Answer = (u16, String);

/// A new connection, on which nothing is waited for without end.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
    stream
}

/// Says this on a connection of its own, and hears all of the answer.
pub fn ask(socket: &Path, words: &[u8]) -> Answer {
    let mut stream = connect(socket);
    say(&mut stream, words);
    answer(&mut stream)
}

/// One request, on a connection of its own.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    ask(socket, &[head.as_bytes(), body].concat())
}

/// Who is turned away need not be listened to to the end.
pub fn say(stream: &mut UnixStream, words: &[u8]) {
    match stream.write_all(words) {
        Err(error)
            if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
        done => done.expect("the daemon takes what it is sent, or hangs up"),
    }
}

/// All that is answered until the connection is closed.
pub fn answer(stream: &mut UnixStream) -> Answer {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        done => drop(done.expect("an answer in time")),
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// The status at the beginning of an answer; 0 where the connection was closed without one.
pub fn status(stream: &mut UnixStream) -> u16 {
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => String::from_utf8_lossy(&head[9..]).parse().expect("a status"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer in time"),
        Err(_) => 0,
    }
}
