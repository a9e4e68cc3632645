//! A machine's serial line.

use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A system that has written nothing for so long waits for somebody, as at `login: `.
const QUIET: Duration = Duration::from_millis(300);

/// What is typed into a machine. What it does not take it holds up, and nobody else.
#[derive(Debug)]
pub struct Console(Mutex<UnixStream>);

/// What a machine writes.
#[derive(Debug)]
pub struct ConsoleOutput {
    line: UnixStream,
    buffer: Vec<u8>,
}

/// What came of a serial line.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Nothing, for a while.
    Silence,
    /// Its end, with the machine's.
    End,
}

/// Connects to the serial line that a VM offers on this socket.
pub fn open(socket: &Path) -> io::Result<(Console, ConsoleOutput)> {
    let line = UnixStream::connect(socket)?;
    let input = Console(Mutex::new(line.try_clone()?));
    Ok((input, ConsoleOutput { line, buffer: vec![0; 16 << 10] }))
}

impl Console {
    /// Types; waits while the machine takes nothing.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().write_all(bytes)
    }
}

impl ConsoleOutput {
    /// Waits for the next bytes; with `watch_for_silence` no longer than a moment.
    pub fn next(&mut self, watch_for_silence: bool) -> Heard<'_> {
        let limit = watch_for_silence.then_some(QUIET);
        if let Err(error) = self.line.set_read_timeout(limit) {
            tracing::warn!(%error, "the serial line is not watched for silence");
        }
        loop {
            match self.line.read(&mut self.buffer) {
                Ok(0) => return Heard::End,
                Ok(count) => return Heard::Bytes(&self.buffer[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Heard::Silence,
                    _ => return Heard::End,
                },
            }
        }
    }
}

impl Drop for ConsoleOutput {
    fn drop(&mut self) {
        // Whoever is typing must not wait for a machine that is gone.
        let _ = self.line.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_prompt_without_line_end_is_told_by_the_silence_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line");
        let listener = UnixListener::bind(&path).unwrap();
        let (console, mut output) = open(&path).unwrap();
        let (mut machine, _) = listener.accept().unwrap();
        machine.write_all(b"login: ").unwrap();
        assert_eq!(output.next(true), Heard::Bytes(b"login: "));
        assert_eq!(output.next(true), Heard::Silence);
        console.write(b"root\n").unwrap();
        let mut typed = [0; 5];
        machine.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
        drop(machine);
        assert_eq!(output.next(false), Heard::End);
        drop(output);
        assert!(console.write(b"x").is_err());
    }
}
