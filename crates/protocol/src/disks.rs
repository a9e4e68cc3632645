//! How a container's further disks are asked for: `[NAME=]SIZE` or `[NAME=]FILE`.
//!
//! What reads as a size is one; a file of such a name is written with its folder, `./10g`. Several are
//! a list with commas, which is what the annotation [`ANNOTATION`] of a create request holds.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The annotation of a container with its disks.
pub const ANNOTATION: &str = "ireko.disks";

/// One further disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWish {
    /// What it is to be called.
    pub name: Option<String>,
    /// What is to be on it.
    pub content: WishedContent,
}

/// What is to be on a further disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WishedContent {
    /// Nothing, so many bytes.
    Blank(u64),
    /// What a disk file holds.
    File(PathBuf),
}

/// Why a disk could not be read: for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDisk(String);

impl fmt::Display for NoDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoDisk {}

impl DiskWish {
    /// Reads a list with commas.
    pub fn list(text: &str) -> Result<Vec<Self>, NoDisk> {
        text.split(',').filter(|word| !word.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for DiskWish {
    type Err = NoDisk;

    fn from_str(text: &str) -> Result<Self, NoDisk> {
        let (name, content) = match text.split_once('=') {
            Some((name, content)) if !name.contains('/') => (Some(name.to_owned()), content),
            _ => (None, text),
        };
        if content.is_empty() || name.as_deref() == Some("") {
            return Err(NoDisk(format!("{text:?}: a disk is [NAME=]SIZE or [NAME=]FILE")));
        }
        if content.contains(',') {
            return Err(NoDisk(format!(
                "{content:?}: a comma ends a disk; call the file otherwise"
            )));
        }
        let content = match size(content)? {
            Some(bytes) => WishedContent::Blank(bytes),
            None => WishedContent::File(content.into()),
        };
        Ok(Self { name, content })
    }
}

impl fmt::Display for DiskWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        match &self.content {
            WishedContent::Blank(bytes) => write!(f, "{bytes}"),
            WishedContent::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// Bytes from `512m`, `10g`, `10GiB`, `4096`; `None` for what is no size.
fn size(text: &str) -> Result<Option<u64>, NoDisk> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.to_ascii_lowercase().as_str() {
        _ if number.is_empty() => return Ok(None),
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Ok(None),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << (10 * power)));
    bytes.map(Some).ok_or_else(|| NoDisk(format!("{text} is too large for a disk")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DiskWish {
        text.parse().unwrap()
    }

    #[test]
    fn a_size_is_a_blank_disk_and_all_else_a_file() {
        let blank = |name: Option<&str>, bytes| DiskWish {
            name: name.map(str::to_owned),
            content: WishedContent::Blank(bytes),
        };
        assert_eq!(read("10g"), blank(None, 10 << 30));
        assert_eq!(read("data=512MiB"), blank(Some("data"), 512 << 20));
        assert_eq!(read("4096"), blank(None, 4096));
        let file = |name: Option<&str>, path: &str| DiskWish {
            name: name.map(str::to_owned),
            content: WishedContent::File(path.into()),
        };
        assert_eq!(read("./10g"), file(None, "./10g"));
        assert_eq!(read("old=/a/b=c.vhdx"), file(Some("old"), "/a/b=c.vhdx"));
        assert_eq!(read("/a/b=c.vhdx"), file(None, "/a/b=c.vhdx"));
        assert_eq!(read("10gg"), file(None, "10gg"));
        for text in ["", "data=", "=1g", "99999999999t", "a,b"] {
            assert!(text.parse::<DiskWish>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_reads_as_it_is_written() {
        let list = DiskWish::list("data=1g,/x/y.vhdx").unwrap();
        let written: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["data=1073741824", "/x/y.vhdx"]);
        assert_eq!(DiskWish::list(&written.join(",")).unwrap(), list);
    }
}
