//! What the file's name, or the user, says an image is called and which key it has.

use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::name::Name;
use crate::names;
use crate::recognise::{DiskFormat, Recognised};
use std::path::Path;

/// What is given.
#[derive(Debug, PartialEq)]
pub(super) struct Given {
    pub name: Name,
    /// The GUID in the name of a VHDX.
    pub key: Option<LayerGuid>,
}

/// Endings that say what a file is, and nothing of what it is called.
const ENDINGS: [&str; 18] = [
    ".vhdx", ".avhdx", ".vhd", ".qcow2", ".qcow", ".vmdk", ".vdi", ".raw", ".img", ".dd", ".ova",
    ".box", ".tar.gz", ".tar.xz", ".tar.zst", ".tgz", ".txz", ".tar",
];

/// Reads a file's name; `name` counts instead where it is given.
pub(super) fn of(source: &Path, what: Recognised, name: Option<&str>) -> Result<Given> {
    let file = source.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let (stem, key) = match names::parse_disk_file(&file) {
        Some((stem, key)) if what == Recognised::Disk(DiskFormat::Vhdx) => (stem, Some(key)),
        _ => (without_ending(&file), None),
    };
    let name = match name {
        Some(given) => Name::parse(given)?,
        None => Name::parse(stem).map_err(|_| {
            Error::bad_input(format!("no image can be called after {file}"))
                .hint("give it a name: ireko image import FILE NAME")
        })?,
    };
    Ok(Given { name, key })
}

fn without_ending(file: &str) -> &str {
    let lower = file.to_ascii_lowercase();
    let ending = ENDINGS.iter().find(|ending| lower.ends_with(**ending));
    ending.and_then(|ending| file.get(..file.len() - ending.len())).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Compression;
    use crate::recognise::Packing;

    const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

    #[track_caller]
    fn check(file: &str, what: Recognised, name: &str, key: Option<&str>) {
        let given = of(Path::new(file), what, None).unwrap();
        assert_eq!(given.name.short(), name);
        assert_eq!(given.key, key.map(|key| key.parse().unwrap()));
    }

    #[test]
    fn a_vhdx_is_called_as_its_file_without_guid_and_keeps_the_guid() {
        let vhdx = Recognised::Disk(DiskFormat::Vhdx);
        check(&format!("/x/Win2016_Hyper-V_{GUID}.vhdx"), vhdx, "Win2016_Hyper-V", Some(GUID));
        check(&format!("日本語_{}.VHDX", GUID.to_uppercase()), vhdx, "日本語", Some(GUID));
        check("/x/web.vhdx", vhdx, "web", None);
        check("/x/web", vhdx, "web", None);
        let given = of(Path::new(&format!("a_{GUID}.vhdx")), vhdx, Some("B:2")).unwrap();
        assert_eq!((given.name.short(), given.key), ("B:2".to_owned(), GUID.parse().ok()));
    }

    #[test]
    fn other_files_are_called_as_they_are_without_their_ending() {
        check("/x/debian-12.QCOW2", Recognised::Disk(DiskFormat::Qcow2), "debian-12", None);
        check("a.b.img", Recognised::Disk(DiskFormat::Raw), "a.b", None);
        let boxed = Recognised::Packed(Packing::VagrantBox, Compression::Gzip);
        check("generic.tar.gz", boxed, "generic", None);
        let error = of(Path::new("/x/((.img"), boxed, None).unwrap_err();
        assert!(error.remedy().is_some());
        assert!(of(Path::new("/x/a.img"), boxed, Some("")).is_err());
    }
}
