//! What the engine needs of the images room, in one place: its types, and its errors in our words.

use crate::error::{Error, ErrorKind};

pub(crate) use ireko_images::Kind;
pub(crate) use ireko_images::{Compression, NewImage, Store, begins_archive};
pub use ireko_images::{HistoryStep, ImageInfo, Name, Removed, oci};

impl From<ireko_images::Error> for Error {
    fn from(error: ireko_images::Error) -> Self {
        let kind = match error.kind() {
            ireko_images::ErrorKind::NotFound => ErrorKind::NotFound,
            ireko_images::ErrorKind::Conflict | ireko_images::ErrorKind::InUse => {
                ErrorKind::Conflict
            }
            ireko_images::ErrorKind::BadInput => ErrorKind::BadParameter,
            _ => ErrorKind::Internal,
        };
        let hint = error.remedy().map(str::to_owned);
        Self::wrapping(kind, error, hint)
    }
}

impl From<oci::Error> for Error {
    fn from(error: oci::Error) -> Self {
        Self::bad_parameter(error.to_string())
    }
}
