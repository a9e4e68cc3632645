//! Names that point at images. They live in `tags.json` alone; no file is renamed.

use crate::error::{Error, Result};
use crate::id::ImageId;
use crate::index::Index;
use crate::name::Name;
use crate::store::Store;

impl Store {
    /// Gives an image one more name, durably; an image that had the name loses it.
    ///
    /// Another spelling of a name that exists is [`crate::ErrorKind::Conflict`].
    pub fn tag(&self, image: &ImageId, name: &Name) -> Result<()> {
        let mut index = self.index();
        index.image(image)?;
        check_spelling(&index, Some(name))?;
        let mut tags = index.tags().clone();
        tags.insert(name.clone(), *image);
        self.set_tags(&mut index, tags)
    }

    /// Gives an image another name in place of one it has, durably; its other names stay.
    ///
    /// Fails with [`crate::ErrorKind::Conflict`] where another image has the new name; the same name
    /// in another spelling is fine.
    pub fn rename(&self, old: &Name, new: &Name) -> Result<ImageId> {
        let mut index = self.index();
        let mut tags = index.tags().clone();
        let image = tags
            .remove(old)
            .ok_or_else(|| Error::not_found(format!("No such image: {}", old.familiar())))?;
        if let Some((taken, _)) = tags.get_key_value(new) {
            return Err(Error::conflict(format!("the name {} is in use", taken.familiar())).hint(
                format!("give that image another name first, or remove it: {}", taken.short()),
            ));
        }
        tags.insert(new.clone(), image);
        self.set_tags(&mut index, tags)?;
        Ok(image)
    }
}

/// What becomes of a name that another image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameInUse {
    /// The new image gets it, as by docker's `tag` and `commit`.
    Moves,
    /// It stays where it is, and there is no new image.
    Stays,
}

impl Store {
    /// Fails with [`crate::ErrorKind::Conflict`] where an image has the name.
    pub fn check_unused(&self, name: &Name) -> Result<()> {
        check_unused(&self.index(), name)
    }
}

/// Refuses a name that an image has.
pub(crate) fn check_unused(index: &Index, name: &Name) -> Result<()> {
    match index.tags().get_key_value(name) {
        Some((taken, owner)) if index.image(owner).is_ok() => Err(Error::conflict(format!(
            "the name {} is in use by image {}",
            taken.familiar(),
            owner.short()
        ))
        .hint("choose another name for the new image, or remove that one first")),
        _ => Ok(()),
    }
}

/// Refuses a name that exists in another spelling.
pub(crate) fn check_spelling(index: &Index, name: Option<&Name>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    match index.tags().get_key_value(name) {
        Some((taken, _)) if !taken.is_spelt_as(name) => Err(Error::conflict(format!(
            "{} and {} are one name to docker, and an image is called {}",
            name.short(),
            taken.short(),
            taken.familiar()
        ))
        .hint("spell it as it is, or choose another name")),
        _ => Ok(()),
    }
}
