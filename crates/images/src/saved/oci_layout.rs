//! OCI image layouts: everything by digest, from `index.json` down.

use super::files::Files;
use super::{Blob, SavedImage, config_of, json, platform};
use crate::error::{Error, Result};
use crate::name::Name;
use ireko_oci::{
    Descriptor, Digest, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, Platform,
};

/// Indexes within indexes.
const DEPTH: usize = 4;

/// Lists the images of a layout.
pub(super) fn images(files: &Files) -> Result<Vec<SavedImage>> {
    let index: Index = json(files, "index.json")?;
    let mut images = Vec::new();
    for descriptor in &index.manifests {
        if let Some(manifest) = choose(files, descriptor, DEPTH)? {
            images.push(image(files, &manifest, descriptor.name())?);
        }
    }
    match images.is_empty() {
        true => Err(Error::bad_input("index.json lists no image")),
        false => Ok(images),
    }
}

/// Finds the manifest for this machine; `None` for what is no image.
fn choose(files: &Files, descriptor: &Descriptor, depth: usize) -> Result<Option<Manifest>> {
    if descriptor.is_image() {
        return blob(files, descriptor, MAX_MANIFEST_BYTES)
            .and_then(|bytes| parse(&bytes))
            .map(Some);
    }
    if !descriptor.is_index() {
        return Ok(None);
    }
    if depth == 0 {
        return Err(Error::bad_input("its indexes are nested too deeply"));
    }
    let index: Index = parse(&blob(files, descriptor, MAX_MANIFEST_BYTES)?)?;
    let mut others = Vec::new();
    for inner in &index.manifests {
        match &inner.platform {
            Some(given) if !is_ours(given) => {
                others.push(format!("{}/{}", given.os, given.architecture));
            }
            _ => {
                if let Some(found) = choose(files, inner, depth - 1)? {
                    return Ok(Some(found));
                }
            }
        }
    }
    match others.is_empty() {
        true => Ok(None),
        false => Err(Error::bad_input(format!(
            "it has no image for {}, only for {}",
            platform().join("/"),
            others.join(", ")
        ))),
    }
}

fn is_ours(given: &Platform) -> bool {
    [&*given.os, &*given.architecture] == platform()
}

fn image(files: &Files, manifest: &Manifest, name: Option<&str>) -> Result<SavedImage> {
    let config = config_of(blob(files, &manifest.config, MAX_CONFIG_BYTES)?)?;
    let layer = |layer: &Descriptor| Blob { path: path(layer.digest), digest: Some(layer.digest) };
    Ok(SavedImage {
        config,
        names: name.map(Name::parse).transpose()?.into_iter().collect(),
        layers: manifest.layers.iter().map(layer).collect(),
    })
}

/// Reads a small blob, which is what its digest says.
fn blob(files: &Files, descriptor: &Descriptor, most: usize) -> Result<Vec<u8>> {
    let path = path(descriptor.digest);
    let bytes = files.text(&path, most)?;
    super::check_digest(&path, descriptor.digest, Digest::of(&bytes))?;
    Ok(bytes)
}

fn path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::bad_input(format!("a manifest cannot be read: {error}")))
}
