//! The container's log: one JSON line for each line of output, stamped when it was read.

use ireko_protocol::plan::{LogLimit, LogLine, LogStream};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Longer lines are cut, as docker's json-file driver cuts them.
const MAX_LINE: usize = 16 * 1024;

/// Appends to a log file. A line is written when its end has come, or it is too long, or at the end.
pub struct Log {
    kept: Option<Kept>,
    partial: [Vec<u8>; 2],
}

/// The files of a log.
struct Kept {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: Option<LogLimit>,
}

impl Log {
    /// Opens the file for appending; `None` keeps no log.
    pub fn open(path: Option<&Path>, limit: Option<LogLimit>) -> io::Result<Self> {
        let kept = path.map(|path| Kept::open(path, limit)).transpose()?;
        Ok(Self { kept, partial: Default::default() })
    }

    /// Takes bytes as they came. One write for all the lines they end.
    pub fn take(&mut self, stream: LogStream, mut bytes: &[u8]) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
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
                if kept.is_full_with(&lines) {
                    kept.write(&lines)?;
                    lines.clear();
                }
            }
        }
        kept.write(&lines)
    }

    /// Whether something is held back because its line has not ended.
    pub fn has_partial(&self) -> bool {
        self.partial.iter().any(|partial| !partial.is_empty())
    }

    /// Writes what has no line end and makes the log durable.
    pub fn finish(&mut self) -> io::Result<()> {
        self.write_partial()?;
        match &self.kept {
            Some(kept) => kept.file.sync_data(),
            None => Ok(()),
        }
    }

    /// Writes what has no line end, as it is.
    pub fn write_partial(&mut self) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let time = timestamp();
        let mut lines = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                append(&mut lines, stream, &time, &partial)?;
            }
        }
        kept.write(&lines)
    }
}

impl Kept {
    fn open(path: &Path, limit: Option<LogLimit>) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, limit })
    }

    fn is_full_with(&self, lines: &[u8]) -> bool {
        let bytes = self.bytes.saturating_add(lines.len() as u64);
        self.limit.is_some_and(|limit| bytes >= limit.bytes)
    }

    /// Writes whole lines; begins a new file where that filled this one.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)?;
        self.bytes = self.bytes.saturating_add(lines.len() as u64);
        match self.limit {
            Some(limit) if self.is_full_with(&[]) => self.rotate(limit.files),
            _ => Ok(()),
        }
    }

    /// Whoever reads the log finds its next file by what became of the one it has open.
    fn rotate(&mut self, files: u32) -> io::Result<()> {
        // Made first: without it nothing is moved.
        let aside = self.path.with_added_extension("new");
        let file = File::options().create(true).append(true).open(&aside)?;
        file.set_len(0)?;
        for number in (1..files).rev() {
            let newer = LogLimit::file(&self.path, number - 1);
            match fs::rename(newer, LogLimit::file(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&aside, &self.path)?;
        (self.file, self.bytes) = (file, 0);
        Ok(())
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
        let mut log = Log::open(Some(&path), None).unwrap();
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
        let mut log = Log::open(Some(&path), None).unwrap();
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
        let mut log = Log::open(Some(&path), None).unwrap();
        log.take(LogStream::Stdout, &[b'x'; MAX_LINE * 2 + 1]).unwrap();
        log.finish().unwrap();
        let lengths: Vec<_> = lines(&path).iter().map(|line| line.log.len()).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1]);
    }

    #[test]
    fn a_full_log_becomes_the_one_before_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let limit = LogLimit { bytes: 140, files: 3 };
        let write = |words: &[u8]| {
            let mut log = Log::open(Some(&path), Some(limit)).unwrap();
            log.take(LogStream::Stdout, words).unwrap();
            log.finish().unwrap();
        };
        // A line has 72 bytes as JSON: two fill a file.
        write(b"1\n2\n3\n4\n5\n");
        let texts = |number| -> Vec<String> {
            lines(&LogLimit::file(&path, number)).into_iter().map(|line| line.log).collect()
        };
        assert_eq!(
            [texts(0), texts(1), texts(2)],
            [vec!["5\n"], vec!["3\n", "4\n"], vec!["1\n", "2\n"]]
        );
        // What an earlier run wrote counts, and what a rotation that was cut short left is in nobody's way.
        std::fs::write(path.with_added_extension("new"), b"torn").unwrap();
        write(b"6\n7\n");
        assert_eq!(
            [texts(0), texts(1), texts(2)],
            [vec!["7\n"], vec!["5\n", "6\n"], vec!["3\n", "4\n"]]
        );
        assert!(!LogLimit::file(&path, 3).exists());
    }

    #[test]
    fn a_log_of_one_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let limit = LogLimit { bytes: 1, files: 1 };
        let mut log = Log::open(Some(&path), Some(limit)).unwrap();
        log.take(LogStream::Stdout, b"1\n2\n").unwrap();
        assert!(lines(&path).is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
