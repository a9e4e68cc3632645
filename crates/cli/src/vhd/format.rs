//! Formats as they are typed, and as file names tell them.

use crate::error::{Error, Result};
use ireko_disk::Format;
use std::path::Path;

/// A format's name on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatName {
    Vhdx,
    Vhd,
    Raw,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Vhdx => Self::Vhdx,
            FormatName::Vhd => Self::Vhd,
            FormatName::Raw => Self::Raw,
        }
    }
}

impl FormatName {
    /// The format that a file of this name is expected to have.
    pub fn by_suffix(file: &Path) -> Option<Self> {
        let suffix = file.extension()?.to_str()?.to_ascii_lowercase();
        match suffix.as_str() {
            "vhdx" | "avhdx" => Some(Self::Vhdx),
            "vhd" | "avhd" => Some(Self::Vhd),
            "raw" | "img" => Some(Self::Raw),
            _ => None,
        }
    }

    /// The format of a new file: as said by `option`, else as its name has it.
    pub fn of_new(said: Option<Self>, file: &Path, option: &str) -> Result<Self> {
        said.or_else(|| Self::by_suffix(file)).ok_or_else(|| {
            Error::usage(format!("the name of {} does not tell its format", file.display()))
                .hint(format!("{option} says it, or a name that ends in .vhdx, .vhd or .raw"))
        })
    }

    /// Whether a file's name says that it is raw.
    pub fn is_raw(file: &Path) -> bool {
        Self::by_suffix(file) == Some(Self::Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_format_in_any_case() {
        for (name, format) in [
            ("a.vhdx", Some(FormatName::Vhdx)),
            ("A.VHD", Some(FormatName::Vhd)),
            ("cp_1.avhdx", Some(FormatName::Vhdx)),
            ("disk.img", Some(FormatName::Raw)),
            ("disk", None),
            ("disk.qcow2", None),
        ] {
            assert_eq!(FormatName::by_suffix(Path::new(name)), format, "{name}");
        }
    }
}
