//! Finding an image by what people and clients write.
//!
//! ```text
//!   sha256:64 hex, 64 hex     the id
//!   x, x:tag, a.b/x:tag       a name in any spelling; `:latest` where it has no tag
//!   hex digits                the one id that begins so, if no tag is called that
//! ```

use crate::error::{Error, Result};
use crate::id::ImageId;
use crate::index::Index;
use crate::name::Name;
use crate::store::{ImageInfo, Store};

/// An image that was found, and by which kind of word.
pub(crate) enum Found {
    ByTag(ImageId, Name),
    ById(ImageId),
}

impl Found {
    pub(crate) fn id(&self) -> ImageId {
        match self {
            Found::ByTag(id, _) | Found::ById(id) => *id,
        }
    }
}

impl Store {
    /// Finds an image by tag, id or unique beginning of an id.
    ///
    /// Fails with [`crate::ErrorKind::NotFound`] and docker's `No such image: x:latest`, or with
    /// [`crate::ErrorKind::BadInput`] where the text can be no image's name.
    pub fn find(&self, reference: &str) -> Result<ImageInfo> {
        let index = self.index();
        let id = find(&index, reference)?.id();
        Ok(self.info(&index, index.image(&id)?))
    }
}

pub(crate) fn find(index: &Index, text: &str) -> Result<Found> {
    if let Ok(id) = text.parse::<ImageId>() {
        return index.image(&id).map(|_| Found::ById(id));
    }
    let parsed = Name::parse(text);
    if let Ok(name) = &parsed
        && let Some((name, id)) = index.tags().get_key_value(name)
        && index.image(id).is_ok()
    {
        return Ok(Found::ByTag(*id, name.clone()));
    }
    if let Some(id) = by_prefix(index, text)? {
        return Ok(Found::ById(id));
    }
    match parsed {
        Ok(name) => Err(Error::not_found(format!("No such image: {}", name.familiar()))),
        Err(error) => Err(error),
    }
}

fn by_prefix(index: &Index, text: &str) -> Result<Option<ImageId>> {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut matching =
        index.images().map(|image| image.id).filter(|id| id.hex().starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => {
            Err(Error::bad_input(format!("multiple IDs found with provided prefix: {text}"))
                .hint("give more digits of the id"))
        }
        (first, _) => Ok(first),
    }
}
