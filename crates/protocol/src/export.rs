//! What is asked of an export, and what it answers: `/ireko/images/{name}/export`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What an image becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// Its layers' files, zipped.
    Zip,
    /// Its whole disk as one VHDX file.
    Vhdx,
    /// As one VHD file that grows.
    Vhd,
    /// As one fixed VHD file of whole MiB, as Azure takes it.
    VhdFixed,
    /// As one qcow2 file.
    Qcow2,
    /// As the disk's bytes.
    Raw,
    /// As one VMDK file that grows.
    Vmdk,
}

/// The body of `POST /ireko/images/{name}/export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportRequest {
    /// The file to write, in full, on the daemon's machine.
    pub path: PathBuf,
    /// All layers, not only the image's own. For zips alone.
    pub tree: bool,
    /// What to write; `null` has it from the file's name.
    pub format: Option<ExportFormat>,
    /// A file that is there is replaced.
    pub force: bool,
    /// The data disk that is written in place of the image's own. Not for zips, which hold all.
    pub disk: Option<String>,
    /// Files beside it that start the machine elsewhere. Not for zips.
    pub with: Vec<Definition>,
}

/// What starts an exported disk elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Definition {
    /// A domain of libvirt's, as XML.
    Libvirt,
    /// A PowerShell script for Hyper-V.
    Hyperv,
    /// A shell script that runs QEMU.
    Qemu,
}

/// Its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The image's id with `sha256:`.
    pub id: String,
    /// The file that was written.
    pub path: PathBuf,
    /// What it is.
    pub format: ExportFormat,
    /// Its length.
    pub bytes: u64,
    /// How many layers it holds; a flattened disk is made of so many.
    pub layers: usize,
    /// Data disks of the image that are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Files beside it that start the machine elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<PathBuf>,
}

/// Why a format could not be read: for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoFormat(String);

impl ExportFormat {
    /// All, in the order in which they are listed.
    pub const ALL: [Self; 7] =
        [Self::Zip, Self::Vhdx, Self::Vhd, Self::VhdFixed, Self::Qcow2, Self::Raw, Self::Vmdk];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::VhdFixed => "vhd-fixed",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
        }
    }

    /// The format that a file of this name is expected to have; an error where that is no one.
    pub fn by_suffix(file: &Path) -> Result<Self, NoFormat> {
        let suffix = file.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        match suffix.to_ascii_lowercase().as_str() {
            "zip" => Ok(Self::Zip),
            "vhdx" => Ok(Self::Vhdx),
            "qcow2" => Ok(Self::Qcow2),
            "raw" | "img" => Ok(Self::Raw),
            "vmdk" => Ok(Self::Vmdk),
            "vhd" => Err(NoFormat(format!(
                "{}: a VHD may be one that grows (vhd) or a fixed one, for Azure (vhd-fixed)",
                file.display()
            ))),
            _ => Err(NoFormat(format!("the name of {} does not tell its format", file.display()))),
        }
    }
}

impl Definition {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Libvirt, "libvirt"), (Self::Hyperv, "hyperv"), (Self::Qemu, "qemu")];
}

impl FromStr for Definition {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(definition, _)| definition).ok_or_else(|| {
            let known = Self::ALL.map(|(_, name)| name).join(", ");
            NoFormat(format!("{text:?} is none of {known}"))
        })
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ExportFormat {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            NoFormat(format!("{text:?} is no format: {known}"))
        })
    }
}

impl fmt::Display for NoFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoFormat {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formats_name_is_the_one_on_the_wire() {
        for format in ExportFormat::ALL {
            let json = serde_json::to_value(format).unwrap();
            assert_eq!(json, format.name());
            assert_eq!(format.name().parse(), Ok(format));
        }
        for (definition, name) in Definition::ALL {
            assert_eq!(serde_json::to_value(definition).unwrap(), name);
            assert_eq!(name.parse(), Ok(definition));
        }
        assert!("vmware".parse::<Definition>().unwrap_err().to_string().contains("hyperv"));
        assert!("ova".parse::<ExportFormat>().unwrap_err().to_string().contains("vhd-fixed"));
    }

    #[test]
    fn names_tell_the_format_unless_it_may_be_two() {
        for (name, format) in [
            ("web.zip", ExportFormat::Zip),
            ("/x/WEB.VHDX", ExportFormat::Vhdx),
            ("web.img", ExportFormat::Raw),
            ("web.v2.qcow2", ExportFormat::Qcow2),
            ("web.vmdk", ExportFormat::Vmdk),
        ] {
            assert_eq!(ExportFormat::by_suffix(Path::new(name)), Ok(format), "{name}");
        }
        for name in ["web", "web.tar", ".zip", "web.vhd"] {
            assert!(ExportFormat::by_suffix(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_request_needs_no_more_than_a_path() {
        let request: ExportRequest = serde_json::from_str(r#"{"path":"/x/web.zip"}"#).unwrap();
        assert_eq!((request.tree, request.format, request.force), (false, None, false));
        assert!(serde_json::from_str::<ExportRequest>(r#"{"path":"/x","deep":true}"#).is_err());
    }
}
