//! `ireko vhd resize`.

use super::source::{Source, failed};
use super::work;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::quantity;
use crate::words::binary_size;
use crate::{output, table};
use ireko_disk::{ResizeOptions, resize};
use std::path::PathBuf;
use std::str::FromStr;

/// Make a disk larger or smaller
///
/// New bytes read as zeros. A disk gets smaller only by bytes that are zeros. A disk with children is another version
/// afterwards: it is no longer their parent.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Cut off bytes that are not zeros
    #[arg(long)]
    allow_loss: bool,

    #[command(flatten)]
    source: Source,

    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The new size, or by how much to change it: 60g, +20g, -512m
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    size: Size,
}

/// A size, or a change of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    To(u64),
    Larger(u64),
    Smaller(u64),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.as_bytes().first() {
            Some(b'+') => quantity::bytes(&text[1..]).map(Self::Larger),
            Some(b'-') => quantity::bytes(&text[1..]).map(Self::Smaller),
            _ => quantity::bytes(text).map(Self::To),
        }
    }
}

impl Size {
    /// The new size of a disk that has `now` bytes.
    fn of(self, now: u64) -> Option<u64> {
        match self {
            Self::To(size) => Some(size),
            Self::Larger(bytes) => now.checked_add(bytes),
            Self::Smaller(bytes) => now.checked_sub(bytes).filter(|size| *size > 0),
        }
    }
}

/// Resizes and prints the sizes before and after.
pub async fn execute(args: Args) -> Result<Exit> {
    let now = args.source.size_of(&args.file)?;
    let no_size = || {
        let file = table::printable(&args.file.display().to_string());
        Error::usage(format!("{file} has {now} bytes: it cannot change by that much"))
    };
    let size = args.size.of(now).ok_or_else(no_size)?;
    let chain = args.source.parents.of(&args.file)?;
    let resizing = move |watch: &dyn ireko_disk::Watch| {
        let options = ResizeOptions { allow_loss: args.allow_loss };
        resize(&chain, size, &options, watch).map_err(failed("cannot resize", &args.file))
    };
    work::watched("looking for data", resizing, |()| {
        output::line(format_args!("{} -> {}", binary_size(now), binary_size(size)))?;
        Ok(Exit::SUCCESS)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_relative() {
        let size = |text: &str| text.parse::<Size>().unwrap().of(100 << 20);
        assert_eq!(size("1g"), Some(1 << 30));
        assert_eq!(size("+28m"), Some(128 << 20));
        assert_eq!(size("-36m"), Some(64 << 20));
        assert_eq!(size("-100m"), None);
        assert!("+".parse::<Size>().is_err() && "--5".parse::<Size>().is_err());
    }
}
