//! Names of files: `<slug>_<guid>.vhdx`.
//!
//! The GUID is the key; the slug is there for people, made from the name given at birth, and never
//! read back except when a foreign file is taken in. It is legal on NTFS too, so that a folder of
//! images can be carried anywhere.

use crate::id::LayerGuid;
use unicode_normalization::UnicodeNormalization;

/// The longest slug, in bytes; with `_<guid>.vhdx` it stays well under every file system's 255.
const MAX_SLUG_BYTES: usize = 120;
const GUID_CHARS: usize = 36;
/// What a slug is where nothing of the given name is left.
const NAMELESS: &str = "image";

/// The suffix of every disk file.
pub(crate) const DISK_SUFFIX: &str = ".vhdx";

/// Makes a slug: `name` in NFC, without what NTFS forbids in a file name, at most 120 bytes.
pub(crate) fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.nfc() {
        let letter = match letter {
            '<' | '>' | ':' | '"' | '/' | '\\' | '|' | '?' | '*' => '_',
            control if control.is_control() => '_',
            other => other,
        };
        if slug.len() + letter.len_utf8() > MAX_SLUG_BYTES {
            break;
        }
        slug.push(letter);
    }
    // A leading dot would hide the file, a trailing dot or space is lost on Windows.
    let slug = slug.trim_start_matches([' ', '.']).trim_end_matches([' ', '.']);
    match slug {
        "" => NAMELESS.to_owned(),
        // Once more: with one byte more it may be too long.
        device if is_device(device) => self::slug(&format!("_{device}")),
        usual => usual.to_owned(),
    }
}

/// Tells the names that Windows keeps for devices, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|number| {
            let mut letters = number.chars();
            matches!(letters.next(), Some('0'..='9' | '¹' | '²' | '³')) && letters.next().is_none()
        })
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered("COM")
        || numbered("LPT")
}

/// Returns a layer file's base name.
pub(crate) fn disk_file(name: &str, guid: LayerGuid) -> String {
    format!("{}_{guid}{DISK_SUFFIX}", slug(name))
}

/// Returns the base name of the sidecar that belongs to a layer file.
pub(crate) fn sidecar_file(disk_file: &str) -> String {
    format!("{}.json", without_disk_suffix(disk_file))
}

/// Splits a layer file's base name into slug and GUID; `None` for any other name.
pub(crate) fn parse_disk_file(file: &str) -> Option<(&str, LayerGuid)> {
    parse_stem(split_suffix(file)?)
}

/// Splits a sidecar's base name into slug and GUID; `None` for any other name.
pub(crate) fn parse_sidecar_file(file: &str) -> Option<(&str, LayerGuid)> {
    parse_stem(file.strip_suffix(".json")?)
}

fn parse_stem(stem: &str) -> Option<(&str, LayerGuid)> {
    let cut = stem.len().checked_sub(GUID_CHARS)?;
    let (slug, guid) = (stem.get(..cut)?.strip_suffix('_')?, stem.get(cut..)?);
    Some((slug, guid.parse().ok()?))
}

/// Returns a disk file's base name without `.vhdx`, in any case, where it ends so.
pub(crate) fn without_disk_suffix(file: &str) -> &str {
    split_suffix(file).unwrap_or(file)
}

/// Cuts `.vhdx` off, in any case.
fn split_suffix(file: &str) -> Option<&str> {
    let cut = file.len().checked_sub(DISK_SUFFIX.len())?;
    let (stem, suffix) = (file.get(..cut)?, file.get(cut..)?);
    suffix.eq_ignore_ascii_case(DISK_SUFFIX).then_some(stem)
}

/// Writes a parent locator's path for a child that lies beside its parent.
pub(crate) fn sibling_locator(parent: &str) -> String {
    format!(r".\{parent}")
}

/// Writes a parent locator's path for a container's disk.
pub(crate) fn scratch_locator(images: &str, parent: &str) -> String {
    format!(r"..\..\{images}\{parent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

    #[track_caller]
    fn check_slug(name: &str, expected: &str) {
        assert_eq!(slug(name), expected);
        assert_eq!(slug(expected), expected, "a slug's slug is itself");
    }

    #[test]
    fn a_slug_is_the_name_without_what_ntfs_forbids() {
        check_slug("base", "base");
        check_slug("Win2016_Hyper-V", "Win2016_Hyper-V");
        check_slug("日本語", "日本語");
        check_slug("repo/x:1.0", "repo_x_1.0");
        check_slug(r#"<>:"/\|?*"#, "_________");
        check_slug("a\u{0}b\n", "a_b_");
        check_slug("trailing. . ", "trailing");
        check_slug("../x", "_x");
        check_slug("", "image");
        check_slug("..", "image");
    }

    #[test]
    fn decomposed_letters_are_composed() {
        check_slug("か\u{3099}", "が");
    }

    #[test]
    fn names_of_devices_are_changed() {
        for name in ["con", "NUL", "aux.txt", "COM1", "lpt9.x", "COM¹", "CON .x"] {
            assert_eq!(slug(name), format!("_{name}"));
        }
        check_slug("console", "console");
        check_slug("com10", "com10");
        check_slug(&format!("CON.{}", "x".repeat(200)), &format!("_CON.{}", "x".repeat(115)));
    }

    #[test]
    fn a_slug_ends_between_letters_at_120_bytes() {
        assert_eq!(slug(&"x".repeat(300)).len(), 120);
        assert_eq!(slug(&"語".repeat(300)).chars().count(), 40);
    }

    #[test]
    fn file_names_give_slug_and_guid_back() {
        let guid: LayerGuid = GUID.parse().unwrap();
        let file = disk_file("a_b", guid);
        assert_eq!(file, format!("a_b_{GUID}.vhdx"));
        assert_eq!(parse_disk_file(&file), Some(("a_b", guid)));
        assert_eq!(sidecar_file(&file), format!("a_b_{GUID}.json"));
        let upper = format!("A_{}.VHDX", GUID.to_uppercase());
        assert_eq!(parse_disk_file(&upper), Some(("A", guid)));
        for other in ["", ".vhdx", "x.vhdx", "日本語日本語日本語日本語日本語.vhdx", GUID]
        {
            assert_eq!(parse_disk_file(other), None, "{other}");
        }
    }
}
