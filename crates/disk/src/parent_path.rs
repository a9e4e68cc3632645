//! A parent's place as a child remembers it: relative, with backslashes.

use std::path::{Component, Path, PathBuf};

use crate::error::{During, Error, ErrorKind, Result};
use crate::publish;

/// Returns the path from the folder of `child` to `parent`, as Hyper-V writes it: `.\base.vhdx`, `..\images\base.vhdx`.
///
/// `parent` exists; of `child` only the folder must. Symbolic links in folders are resolved, so that `..` leads where it says. Fails with
/// [`ErrorKind::Unsupported`] for names that are no Unicode or contain a backslash.
pub fn relative_parent_path(child: &Path, parent: &Path) -> Result<String> {
    let (from, to) = (folder_of(child)?, folder_of(parent)?);
    let name = parent.file_name().ok_or_else(|| unsuitable(parent))?;
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let mut path = match from.components().skip(shared).count() {
        0 => ".".to_owned(),
        ups => vec![".."; ups].join("\\"),
    };
    let rest = to.components().skip(shared).chain([Component::Normal(name)]);
    for component in rest {
        let text = component.as_os_str().to_str().filter(|text| !text.contains('\\'));
        path.push('\\');
        path.push_str(text.ok_or_else(|| unsuitable(parent))?);
    }
    Ok(path)
}

fn folder_of(file: &Path) -> Result<PathBuf> {
    let folder = publish::folder_of(file);
    folder.canonicalize().during(format_args!("look at {}", folder.display()))
}

fn unsuitable(parent: &Path) -> Error {
    let message = format!("{} cannot be written as a Windows path", parent.display());
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_childs_folder_to_the_parent() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/b", "c"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let check = |child: &str, parent: &str, expected: &str| {
            let (child, parent) = (folder.path().join(child), folder.path().join(parent));
            assert_eq!(relative_parent_path(&child, &parent).unwrap(), expected);
        };
        check("x.vhdx", "base.vhdx", r".\base.vhdx");
        check("a/b/x.vhdx", "base.vhdx", r"..\..\base.vhdx");
        check("x.vhdx", "a/b/base.vhdx", r".\a\b\base.vhdx");
        check("a/b/x.vhdx", "c/base.vhdx", r"..\..\c\base.vhdx");
    }

    #[test]
    fn a_name_with_a_backslash_is_refused() {
        let refused = relative_parent_path(Path::new("child"), Path::new(r"a\b")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
    }
}
