//! A file or a folder of this machine as a tar archive, sent as it is made.

use bytes::Bytes;
use futures_util::Stream;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tar::Builder;
use tokio::sync::mpsc;

/// Pieces on their way.
const PIECES: usize = 4;
const PIECE: usize = 256 << 10;

/// Begins the archive; the first entry is called `name`, or there is none for the folder itself.
pub fn pack(
    source: PathBuf,
    name: Option<String>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (pieces, stream) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let to = Pieces(pieces.clone());
        let packed = write(&source, name.as_deref(), io::BufWriter::with_capacity(PIECE, to));
        if let Err(error) = packed {
            // Whoever sends it may be gone.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(stream, async |mut stream| Some((stream.recv().await?, stream)))
}

fn write(source: &Path, name: Option<&str>, to: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(to);
    archive.follow_symlinks(false);
    let mut ahead = vec![(source.to_owned(), name.map(PathBuf::from))];
    while let Some((path, name)) = ahead.pop() {
        let about = |error| io::Error::other(format!("{}: {error}", path.display()));
        if let Some(name) = &name {
            archive.append_path_with_name(&path, name).map_err(about)?;
        }
        if !fs::symlink_metadata(&path).map_err(about)?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).map_err(about)? {
            let entry = entry.map_err(about)?;
            let below = match &name {
                Some(name) => name.join(entry.file_name()),
                None => entry.file_name().into(),
            };
            ahead.push((entry.path(), Some(below)));
        }
    }
    archive.into_inner()?.flush()
}

/// Hands on what is written.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
