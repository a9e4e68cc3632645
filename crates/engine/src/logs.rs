//! What a container has written, from its log file: JSON lines that the shim stamps.
//!
//! Following waits on inotify for the file to grow, and ends when the container's run has ended and
//! all was read. A log of several files is read from the oldest on; which of them comes next is told by
//! the file that is open, since their names move on.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::growth::Growth;
use crate::wait::{WaitFor, Waiting};
use ireko_protocol::plan::{LogLimit, LogLine};
use jiff::Timestamp;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Bytes of the file that are read in one go, and a line more. Two such pieces wait for a slow client.
const BATCH: u64 = 64 * 1024;
/// The longest line that is taken: the shim cuts at 16 KiB of text, which JSON's escapes make six
/// times as long at most.
const LONGEST: u64 = 128 * 1024;

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Only the last so many lines; `None` is all.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Only lines until then; a follow ends there.
    pub until: Option<Timestamp>,
    /// Go on with what is still to come.
    pub follow: bool,
}

/// One line, with the time it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct StampedLine {
    /// When the shim read it.
    pub at: Timestamp,
    /// Its stream and text, with the line end.
    pub line: LogLine,
}

/// Lines as they come.
pub struct LogStream {
    batches: mpsc::Receiver<Result<Vec<StampedLine>>>,
    batch: std::vec::IntoIter<StampedLine>,
}

impl LogStream {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<StampedLine>> {
        loop {
            if let Some(line) = self.batch.next() {
                return Some(Ok(line));
            }
            match self.batches.recv().await? {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Engine {
    /// Reads a container's log. Errors where it keeps none.
    pub async fn logs(&self, reference: &str, options: LogOptions) -> Result<LogStream> {
        let container = self.find(reference)?;
        let record = container.record();
        if !record.spec.keep_log {
            return Err(Error::unsupported(
                "configured logging driver does not support reading (log driver none)",
            ));
        }
        // Taken before the first byte is read, so that no growth and no end is missed.
        let growth = options.follow.then(|| self.growths.watch(&container.folder)).transpose()?;
        let running = record.vm().is_some();
        let ending = Waiting::new(&container, WaitFor::NotRunning);
        let (lines_in, batches) = mpsc::channel(1);
        let mut reader = Reader::new(container.log(), record.spec.log_limit, options);
        tokio::spawn(async move {
            let followed = async {
                reader = pass_on(reader, &lines_in).await?;
                if let Some(growth) = growth.filter(|_| running) {
                    follow(reader, growth, ending, &lines_in).await?;
                }
                Ok(())
            };
            tokio::select! {
                result = followed => if let Err(error) = result {
                    // A client that is gone wants no error either.
                    let _ = lines_in.send(Err(error)).await;
                },
                () = lines_in.closed() => {}
            }
        });
        Ok(LogStream { batches, batch: Vec::new().into_iter() })
    }
}

async fn follow(
    mut reader: Reader,
    mut growth: Growth,
    ending: Waiting,
    lines: &mpsc::Sender<Result<Vec<StampedLine>>>,
) -> Result<()> {
    let mut ending = Box::pin(ending.ending());
    while !reader.is_past_end {
        let ended = tokio::select! {
            () = growth.next() => false,
            _ = &mut ending => true,
        };
        reader = pass_on(reader, lines).await?;
        if ended {
            break;
        }
    }
    Ok(())
}

/// Sends all that there is now.
async fn pass_on(
    mut reader: Reader,
    lines: &mpsc::Sender<Result<Vec<StampedLine>>>,
) -> Result<Reader> {
    loop {
        let batch;
        (reader, batch) = blocking(move || {
            let batch = reader.read_batch()?;
            Ok((reader, batch))
        })
        .await?;
        if batch.is_empty() {
            return Ok(reader);
        }
        if lines.send(Ok(batch)).await.is_err() {
            return Ok(reader);
        }
    }
}

/// A place in a log.
struct Reader {
    path: PathBuf,
    limit: Option<LogLimit>,
    options: LogOptions,
    file: Option<BufReader<File>>,
    /// What comes after `file`, once that is not written to any more.
    next: Option<File>,
    /// `until` has passed.
    is_past_end: bool,
}

impl Reader {
    fn new(path: PathBuf, limit: Option<LogLimit>, options: LogOptions) -> Self {
        Self { path, limit, options, file: None, next: None, is_past_end: false }
    }

    /// The next lines, some of them; empty where there are none now. A line that is not whole yet
    /// is left for later.
    fn read_batch(&mut self) -> Result<Vec<StampedLine>> {
        let what = format!("read the log {}", self.path.display());
        if self.file.is_none() {
            let files = files(&self.path, self.limit).attempt(|| what.clone())?;
            self.file = begin(files, self.options.tail).attempt(|| what.clone())?;
        }
        let (mut batch, mut text, mut read) = (Vec::new(), Vec::new(), 0);
        while (read < BATCH || batch.is_empty()) && !self.is_past_end {
            let Some(file) = &mut self.file else { return Ok(batch) };
            text.clear();
            let length =
                file.take(LONGEST).read_until(b'\n', &mut text).attempt(|| what.clone())?;
            let is_whole = text.ends_with(b"\n") || (length as u64) >= LONGEST;
            if !is_whole {
                file.seek_relative(-(length as i64)).attempt(|| what.clone())?;
                match self.go_on().attempt(|| what.clone())? {
                    true => continue,
                    false => break,
                }
            }
            read += length as u64;
            // A line torn by a power cut is passed over.
            let Ok(line) = serde_json::from_slice::<LogLine>(&text) else { continue };
            let Ok(at) = line.time.parse::<Timestamp>() else { continue };
            if self.options.until.is_some_and(|until| at > until) {
                self.is_past_end = true;
            } else if self.options.since.is_none_or(|since| at >= since) {
                batch.push(StampedLine { at, line });
            }
        }
        Ok(batch)
    }

    /// Goes on at the end of a file, where that is not the end of the log.
    ///
    /// The first time only what comes next is found: what was written to this file before it was full may
    /// not have been read.
    fn go_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.take() {
            self.file = Some(BufReader::new(next));
            return Ok(true);
        }
        let (Some(_), Some(file)) = (self.limit, &self.file) else { return Ok(false) };
        let own = identity(file.get_ref())?;
        let mut newer = None;
        for file in files(&self.path, self.limit)? {
            if identity(&file)? == own {
                break;
            }
            newer = Some(file);
        }
        self.next = newer;
        Ok(self.next.is_some())
    }
}

/// The files of a log, the newest first. One that moves on meanwhile may be among them twice, and is never
/// missing.
fn files(path: &Path, limit: Option<LogLimit>) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for number in 0..limit.map_or(1, |limit| limit.files) {
        match File::open(LogLimit::file(path, number)) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut seen = HashSet::new();
    let mut once = Vec::new();
    for file in files {
        if seen.insert(identity(&file)?) {
            once.push(file);
        }
    }
    Ok(once)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Of these files, the newest first, the one that a reader begins with: at the start of the oldest, or
/// where the last `tail` lines begin; `None` where there is no log yet.
fn begin(files: Vec<File>, tail: Option<usize>) -> io::Result<Option<BufReader<File>>> {
    let mut missing = tail;
    let mut oldest = None;
    for mut file in files {
        if let Some(lines) = missing {
            let (start, found) = start_of_last(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
            if found >= lines {
                return Ok(Some(BufReader::new(file)));
            }
            missing = Some(lines - found);
        }
        oldest = Some(file);
    }
    Ok(oldest.map(BufReader::new))
}

/// Where the last `lines` lines of a file begin, and how many there are from there on. Reads from the end
/// backwards.
fn start_of_last(file: &mut File, lines: usize) -> io::Result<(u64, usize)> {
    let mut at = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((at, 0));
    }
    let mut block = vec![0; 64 * 1024];
    let mut ends = 0;
    while at > 0 {
        let length = at.min(block.len() as u64);
        at -= length;
        file.seek(SeekFrom::Start(at))?;
        let block = &mut block[..length as usize];
        file.read_exact(block)?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            ends += 1;
            if ends > lines {
                return Ok((at + offset as u64 + 1, lines));
            }
        }
    }
    Ok((0, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(path: &Path, numbers: std::ops::Range<u32>) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for number in numbers {
            let time = format!("2026-01-01T00:00:{number:02}.000000000Z");
            let line = format!(r#"{{"log":"{number}\n","stream":"stdout","time":"{time}"}}"#);
            writeln!(file, "{line}").unwrap();
        }
    }

    fn texts(reader: &mut Reader) -> Vec<String> {
        let batch = reader.read_batch().unwrap();
        batch.into_iter().map(|line| line.line.log.trim_end().to_owned()).collect()
    }

    fn at(second: u32) -> Option<Timestamp> {
        Some(format!("2026-01-01T00:00:{second:02}Z").parse().unwrap())
    }

    #[test]
    fn a_part_of_the_log_is_read_by_number_and_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        write(&path, 0..30);
        let read = |options| texts(&mut Reader::new(path.clone(), None, options));
        assert_eq!(read(LogOptions::default()).len(), 30);
        assert_eq!(read(LogOptions { tail: Some(2), ..Default::default() }), ["28", "29"]);
        assert_eq!(read(LogOptions { tail: Some(99), ..Default::default() }).len(), 30);
        assert!(read(LogOptions { tail: Some(0), ..Default::default() }).is_empty());
        let between = LogOptions { since: at(3), until: at(5), ..Default::default() };
        assert_eq!(read(between), ["3", "4", "5"]);
    }

    #[test]
    fn a_line_that_is_not_whole_waits_and_a_torn_one_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = Reader::new(path.clone(), None, LogOptions::default());
        assert!(texts(&mut reader).is_empty(), "there is no file yet");
        std::fs::write(&path, b"{\"log\":\"torn").unwrap();
        assert!(texts(&mut reader).is_empty());
        File::options().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
        write(&path, 1..2);
        assert_eq!(texts(&mut reader), ["1"]);
    }

    #[test]
    fn a_log_of_several_files_is_read_as_one_whatever_moves_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let limit = Some(LogLimit { bytes: 1, files: 4 });
        // As a shim does.
        let rotate = || {
            for number in (1..4).rev() {
                let newer = LogLimit::file(&path, number - 1);
                let _ = std::fs::rename(newer, LogLimit::file(&path, number));
            }
        };
        write(&path, 0..3);
        rotate();
        write(&path, 3..6);
        rotate();
        write(&path, 6..8);
        let read = |tail| {
            let options = LogOptions { tail, ..Default::default() };
            let mut reader = Reader::new(path.clone(), limit, options);
            std::iter::from_fn(|| Some(texts(&mut reader)).filter(|lines| !lines.is_empty()))
                .flatten()
                .collect::<Vec<_>>()
        };
        let numbers = |from: u32| (from..8).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(read(None), numbers(0));
        assert_eq!(read(Some(1)), numbers(7));
        assert_eq!(read(Some(2)), numbers(6));
        assert_eq!(read(Some(4)), numbers(4));
        assert_eq!(read(Some(99)), numbers(0));
        assert!(read(Some(0)).is_empty());

        let mut reader = Reader::new(path.clone(), limit, LogOptions::default());
        assert_eq!(texts(&mut reader).len(), 8);
        write(&path, 8..9);
        rotate();
        write(&path, 9..10);
        rotate();
        write(&path, 10..11);
        assert_eq!(texts(&mut reader), ["8", "9", "10"]);
        assert!(texts(&mut reader).is_empty());
        // So many files later the one that was read is gone: the oldest that is there comes next.
        for number in 20..26 {
            rotate();
            write(&path, number..number + 1);
        }
        assert_eq!(texts(&mut reader), ["22", "23", "24", "25"]);
    }
}
