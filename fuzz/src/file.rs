//! A file that holds what a target is given, for readers that open one.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use tempfile::NamedTempFile;

thread_local! {
    static FILE: RefCell<NamedTempFile> =
        RefCell::new(NamedTempFile::new().expect("a temporary file"));
}

/// Calls `run` with the path of a file of these bytes.
pub fn with(content: &[u8], run: impl FnOnce(&Path)) {
    FILE.with_borrow_mut(|file| {
        fill(file.as_file_mut(), content).expect("write a temporary file");
        run(file.path());
    });
}

fn fill(file: &mut File, content: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(content)
}
