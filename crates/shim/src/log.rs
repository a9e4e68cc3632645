//! The container's log: one JSON line for each line of output, stamped when it was read.

use ireko_protocol::plan::{LogLine, LogStream};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Longer lines are cut, as docker's json-file driver cuts them.
const MAX_LINE: usize = 16 * 1024;

/// Appends to a log file. A line is written when its end has come, or it is too long, or at the end.
pub struct Log {
    file: Option<File>,
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file for appending; `None` keeps no log.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = match path {
            Some(path) => Some(File::options().create(true).append(true).open(path)?),
            None => None,
        };
        Ok(Self { file, partial: Default::default() })
    }

    /// Takes bytes as they came. One write for all the lines they end.
    pub fn take(&mut self, stream: LogStream, mut bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let partial = &mut self.partial[stream as usize];
        let time = timestamp();
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = MAX_LINE - partial.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n').map(|at| at + 1);
            let (now, later) = bytes.split_at(end.unwrap_or(room.min(bytes.len())));
            partial.extend_from_slice(now);
            bytes = later;
            if end.is_some() || partial.len() == MAX_LINE {
                append(&mut lines, stream, &time, partial)?;
                partial.clear();
            }
        }
        file.write_all(&lines)
    }

    /// Whether something is held back because its line has not ended.
    pub fn has_partial(&self) -> bool {
        self.partial.iter().any(|partial| !partial.is_empty())
    }

    /// Writes what has no line end and makes the log durable.
    pub fn finish(&mut self) -> io::Result<()> {
        self.write_partial()?;
        match &self.file {
            Some(file) => file.sync_data(),
            None => Ok(()),
        }
    }

    /// Writes what has no line end, as it is.
    pub fn write_partial(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let time = timestamp();
        let mut lines = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                append(&mut lines, stream, &time, &partial)?;
            }
        }
        file.write_all(&lines)
    }
}

fn append(lines: &mut Vec<u8>, stream: LogStream, time: &str, text: &[u8]) -> io::Result<()> {
    let log = String::from_utf8_lossy(text).into_owned();
    serde_json::to_writer(&mut *lines, &LogLine { log, stream, time: time.to_owned() })?;
    lines.push(b'\n');
    Ok(())
}

/// RFC 3339 UTC with exactly nine fraction digits: log lines must align and sort.
fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<LogLine> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_joined_from_pieces_and_the_two_streams_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(Some(&path)).unwrap();
        log.take(LogStream::Stdout, b"hel").unwrap();
        log.take(LogStream::Stderr, b"oops\n").unwrap();
        log.take(LogStream::Stdout, b"lo\nrest").unwrap();
        log.finish().unwrap();
        let seen: Vec<_> = lines(&path).into_iter().map(|line| (line.stream, line.log)).collect();
        assert_eq!(
            seen,
            [
                (LogStream::Stderr, "oops\n".to_owned()),
                (LogStream::Stdout, "hello\n".to_owned()),
                (LogStream::Stdout, "rest".to_owned()),
            ]
        );
        let time = &lines(&path)[0].time;
        assert_eq!(time.len(), "2026-01-01T00:00:00.123456789Z".len());
    }

    #[test]
    fn a_prompt_can_be_written_before_its_line_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(Some(&path)).unwrap();
        log.take(LogStream::Stdout, b"login: ").unwrap();
        assert!(log.has_partial());
        log.write_partial().unwrap();
        assert!(!log.has_partial());
        log.take(LogStream::Stdout, b"root\n").unwrap();
        let seen: Vec<_> = lines(&path).into_iter().map(|line| line.log).collect();
        assert_eq!(seen, ["login: ", "root\n"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(Some(&path)).unwrap();
        log.take(LogStream::Stdout, &[b'x'; MAX_LINE * 2 + 1]).unwrap();
        log.finish().unwrap();
        let lengths: Vec<_> = lines(&path).iter().map(|line| line.log.len()).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1]);
    }
}
