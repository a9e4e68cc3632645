//! Which layer of the tree a differencing disk from elsewhere stands on.
//!
//! ```text
//!   locator: linkage (the parent's DataWriteGuid), paths
//!                 │                              │ base name only
//!                 ▼                              ▼
//!       every layer with that identity ──── several (copies of one file) ──► the one of that name
//! ```
//!
//! A path that the file names is never followed, and a name alone links nothing: the identity decides.

use crate::error::{Error, Result};
use crate::index::{self, Index, Layer};
use crate::{layer_file, names};
use ireko_disk::vhdx::{Info, ParentLink};
use std::path::Path;

/// Finds the layer that the disk at `leaf` was made over; `None` for a base disk.
///
/// Fails with [`crate::ErrorKind::BadInput`] where it is not in the tree, with what it is called.
pub(crate) fn in_tree<'a>(index: &'a Index, leaf: &Path) -> Result<Option<&'a Layer>> {
    let info = layer_file::info(leaf)?;
    let Some(link) = &info.parent else { return Ok(None) };
    let wanted = link.base_name();
    let identical: Vec<_> = index.layers().filter(|layer| is_parent(layer, link)).collect();
    match identical[..] {
        [] => Err(missing(index, &info, link, wanted.as_deref())),
        [parent] => Ok(Some(parent)),
        ref twins => {
            let named = wanted.as_deref().and_then(|wanted| called(twins, wanted));
            named.map(Some).ok_or_else(|| ambiguous(twins, wanted.as_deref()))
        }
    }
}

fn is_parent(layer: &Layer, link: &ParentLink) -> bool {
    layer.disk.as_ref().is_ok_and(|facts| link.accepts(facts.identity))
}

/// Returns the one of these that a locator calls `name`: by its GUID, its whole name, or the name it
/// had before it got a GUID. Windows' names have no case.
fn called<'a>(layers: &[&'a Layer], name: &str) -> Option<&'a Layer> {
    if let Some((_, guid)) = names::parse_disk_file(name) {
        return layers.iter().copied().find(|layer| layer.sidecar.guid == guid);
    }
    let stem = index::key(names::without_disk_suffix(name));
    let mut found = layers.iter().copied().filter(|layer| {
        names::parse_disk_file(&layer.file).is_some_and(|(slug, _)| index::key(slug) == stem)
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

fn missing(index: &Index, info: &Info, link: &ParentLink, wanted: Option<&str>) -> Error {
    if link.accepts(info.data_write_guid) {
        return Error::bad_input("the disk names itself as its parent");
    }
    let name = wanted.unwrap_or("a file it does not name");
    let layers: Vec<_> = index.layers().collect();
    match wanted.and_then(|wanted| called(&layers, wanted)) {
        Some(other) => Error::bad_input(format!(
            "the disk's parent {name} is here, but other bytes than the disk was made over: it \
             wants the data write GUID {}",
            link.linkage
        ))
        .hint(format!("{} was changed after the disk was made, or is another file", other.file)),
        None => Error::bad_input(format!(
            "the disk's parent is not in the tree: {name}, data write GUID {}",
            link.linkage
        ))
        .hint(format!("import {name} first")),
    }
}

fn ambiguous(twins: &[&Layer], wanted: Option<&str>) -> Error {
    let files: Vec<_> = twins.iter().map(|layer| layer.file.as_str()).collect();
    let name = wanted.unwrap_or("no name");
    Error::bad_input(format!(
        "the disk's parent may be any of {}: they are copies of one file, and the disk calls it \
         {name}",
        files.join(", ")
    ))
    .hint("link the disk to one of them first: `ireko vhd relink FILE --parent PARENT`")
}
