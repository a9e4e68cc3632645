//! Where things are under a root, in whatever case the folders were made.
//!
//! Another program's root has `Images` and `Containers`; it opens as it is. Windows makes no
//! difference between the two, so a root that has both is refused here.

use crate::durable;
use crate::error::{During, Error, Result};
use std::path::{Path, PathBuf};

/// What the folder of images is called where Ireko makes it.
const IMAGES: &str = "images";

/// Where things are under the root.
#[derive(Debug)]
pub(crate) struct Places {
    pub root: PathBuf,
    pub images: PathBuf,
    pub containers: PathBuf,
    pub tags: PathBuf,
}

impl Places {
    /// Finds the folders, making what is missing.
    pub(crate) fn open(root: &Path) -> Result<Places> {
        durable::make_folder(root)?;
        let places = Places {
            images: folder(root, IMAGES)?,
            containers: folder(root, "containers")?,
            tags: root.join("tags.json"),
            root: root.to_owned(),
        };
        durable::make_folder(&places.images)?;
        durable::make_folder(&places.containers)?;
        Ok(places)
    }

    /// Tells whether `folder` is a container's.
    pub(crate) fn is_containers(&self, folder: &Path) -> bool {
        folder.parent() == Some(&self.containers)
    }

    /// Tells whether the folders are called as Ireko calls them, and not as another program does.
    pub(crate) fn is_ours(&self) -> bool {
        self.images_name() == IMAGES
    }

    /// Returns the name of the folder of images: `images`, or as it was found.
    pub(crate) fn images_name(&self) -> &str {
        self.images.file_name().and_then(|name| name.to_str()).unwrap_or(IMAGES)
    }
}

fn folder(root: &Path, name: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in durable::names_in(root)? {
        let path = root.join(&entry);
        let is_folder = || path.metadata().map(|entry| entry.is_dir());
        if entry.eq_ignore_ascii_case(name)
            && is_folder().during(|| format!("look at {}", path.display()))?
        {
            found.push(entry);
        }
    }
    match found.as_slice() {
        [] => Ok(root.join(name)),
        [one] => Ok(root.join(one)),
        several => Err(Error::conflict(format!(
            "{} has folders that differ in case only: {}",
            root.display(),
            several.join(", ")
        ))
        .hint("move the files of one into the other and remove it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn folders_are_found_in_any_case_and_made_in_lower_case() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("Images")).unwrap();
        std::fs::write(root.path().join("CONTAINERS"), "a file").unwrap();
        let places = Places::open(root.path()).unwrap();
        assert_eq!(places.images, root.path().join("Images"));
        assert_eq!((places.images_name(), places.is_ours()), ("Images", false));
        assert_eq!(places.containers, root.path().join("containers"));
    }

    #[test]
    fn two_spellings_of_one_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for name in ["Images", "images"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let error = Places::open(root.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().ends_with("Images, images"), "{error}");
    }
}
