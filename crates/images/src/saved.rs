//! Images as other programs save them: docker's archives and OCI image layouts, read where they lie.
//!
//! ```text
//!   manifest.json (docker) ─┐
//!                           ├─► images: configuration, names, layers ──unpack_layer──► plain tars, verified
//!   index.json (OCI) ───────┘
//! ```
//! What is in a layer's tar is the guest's affair; here it is bytes with a digest. Nothing that the archive names is
//! opened but what is in it.

mod files;
mod oci_layout;

use crate::compression::Compression;
use crate::error::{During, Error, ErrorKind, Result};
use crate::name::Name;
use files::Files;
use ireko_disk::Watch;
use ireko_oci::{ArchivedImage, Digest, Hasher, ImageConfig, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES};
use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// The most layers an image may have, which is docker's own limit.
const MAX_LAYERS: usize = 125;
/// The most images one archive may have.
const MAX_IMAGES: usize = 256;
/// The most bytes of one layer's tar: more than an app image's disk holds.
const MAX_LAYER_BYTES: u64 = 64 << 30;
const PIECE: usize = 256 << 10;

/// Saved images, open for reading.
#[derive(Debug)]
pub struct SavedImages {
    files: Files,
    images: Vec<SavedImage>,
}

/// One saved image.
#[derive(Clone, Debug)]
pub struct SavedImage {
    /// Its configuration, whose digest is its id.
    pub config: ImageConfig,
    /// What it is called; often nothing.
    pub names: Vec<Name>,
    layers: Vec<Blob>,
}

/// One file of a saved image.
#[derive(Clone, Debug)]
struct Blob {
    path: String,
    /// Of the file as it lies there; docker's archives name none.
    digest: Option<Digest>,
}

impl SavedImages {
    /// Opens what [`crate::Recognised::DockerArchive`] and [`crate::Recognised::OciLayout`] stand for: an uncompressed tar
    /// archive or a folder.
    ///
    /// Of an image for several platforms the one for this machine is taken. Fails with [`ErrorKind::BadInput`] where
    /// something is missing, contradicts itself, or is for another platform.
    pub fn open(path: &Path) -> Result<SavedImages> {
        let files = Files::open(path)?;
        let images = if files.has("manifest.json") {
            from_docker(&files)
        } else if files.has("index.json") {
            oci_layout::images(&files)
        } else {
            Err(Error::bad_input("neither manifest.json nor index.json is in it"))
        };
        let images = images.map_err(|error| error.about(path))?;
        if images.len() > MAX_IMAGES {
            return Err(Error::bad_input(format!("more than {MAX_IMAGES} images")).about(path));
        }
        images.iter().try_for_each(vet).map_err(|error| error.about(path))?;
        Ok(SavedImages { files, images })
    }

    /// Lists the images, at least one.
    pub fn images(&self) -> &[SavedImage] {
        &self.images
    }

    /// Writes an image's layer, counted from the lowest, as an uncompressed tar.
    ///
    /// Fails with [`ErrorKind::BadInput`] where it is not what the image's configuration says, bit for bit. Not synced.
    pub fn unpack_layer(
        &self,
        image: &SavedImage,
        layer: usize,
        to: &mut impl Write,
        watch: &dyn Watch,
    ) -> Result<()> {
        let expected = image.config.document().rootfs.diff_ids.get(layer);
        let (Some(blob), Some(&expected)) = (image.layers.get(layer), expected) else {
            return Err(Error::bad_input(format!("the image has no layer {layer}")));
        };
        let content = self.files.content(&blob.path)?;
        let total = content.size;
        let mut stored = Hashed { inner: content.bytes, hasher: Hasher::default(), count: 0 };
        let unpacked = unpack(&mut stored, total, to, watch)
            .map_err(|error| about_layer(error, &blob.path))?;
        if let Some(digest) = blob.digest {
            // What stands behind the compressed bytes was not needed, but is part of the file.
            io::copy(&mut stored, &mut io::sink()).during(|| format!("read {:?}", blob.path))?;
            check_digest(&blob.path, digest, stored.hasher.finish())?;
        }
        check_digest(&format!("the uncompressed {}", blob.path), expected, unpacked)
    }
}

fn from_docker(files: &Files) -> Result<Vec<SavedImage>> {
    let listed: Vec<ArchivedImage> = json(files, "manifest.json")?;
    if listed.is_empty() {
        return Err(Error::bad_input("manifest.json lists no image"));
    }
    let image = |one: ArchivedImage| {
        let config = files.text(&one.config, MAX_CONFIG_BYTES)?;
        let layers = one.layers.into_iter().map(|path| Blob { path, digest: None }).collect();
        let names = one.repo_tags.iter().map(|name| Name::parse(name));
        Ok(SavedImage { config: config_of(config)?, names: names.collect::<Result<_>>()?, layers })
    };
    listed.into_iter().take(MAX_IMAGES + 1).map(image).collect()
}

fn config_of(bytes: Vec<u8>) -> Result<ImageConfig> {
    ImageConfig::parse(bytes).map_err(|error| Error::bad_input(error.to_string()))
}

fn json<T: serde::de::DeserializeOwned>(files: &Files, name: &str) -> Result<T> {
    let bytes = files.text(name, MAX_MANIFEST_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::bad_input(format!("{name:?} cannot be read: {error}")))
}

/// Refuses what could not run here, or is no image.
fn vet(image: &SavedImage) -> Result<()> {
    let document = image.config.document();
    let wanted = platform();
    let given = [&*document.os, &*document.architecture];
    if given.iter().zip(wanted).any(|(given, wanted)| !given.is_empty() && *given != wanted) {
        return Err(Error::bad_input(format!(
            "the image {} is for {}, and containers of this machine run {}",
            image.label(),
            given.join("/"),
            wanted.join("/")
        )));
    }
    let (layers, diff_ids) = (image.layers.len(), document.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(Error::bad_input(format!(
            "the image {} has {layers} layers, and {diff_ids} in its configuration",
            image.label()
        )));
    }
    if layers > MAX_LAYERS {
        return Err(Error::bad_input(format!(
            "the image {} has {layers} layers; at most {MAX_LAYERS} are read",
            image.label()
        )));
    }
    let spelt: BTreeSet<_> = image.names.iter().map(Name::to_string).collect();
    match spelt.len() == image.names.len() {
        true => Ok(()),
        false => Err(Error::bad_input(format!("the image {} has one name twice", image.label()))),
    }
}

impl SavedImage {
    /// Names the image for people.
    pub fn label(&self) -> String {
        let short = || self.config.digest().hex()[..12].to_owned();
        self.names.first().map_or_else(short, Name::familiar)
    }
}

/// Operating system and processor of this machine's app containers, in Go's words.
fn platform() -> [&'static str; 2] {
    ["linux", crate::compose::architecture()]
}

/// Copies a layer uncompressed, and returns the digest of that.
fn unpack(
    stored: &mut Hashed<impl Read>,
    total: u64,
    to: &mut impl Write,
    watch: &dyn Watch,
) -> io::Result<Digest> {
    let mut head = [0; 16];
    let count = read_head(stored, &mut head)?;
    let head = &head[..count];
    let compression = Compression::of(head).map_err(|name| {
        io::Error::other(format!("compressed with {name}, which Ireko does not read"))
    })?;
    // Counted apart, because the decoder owns what it reads from.
    let counted = Watched { inner: stored, total, watch };
    let whole = BufReader::with_capacity(PIECE, head.chain(counted));
    let mut plain = compression.decoder(whole)?;
    let (mut hasher, mut bytes, mut buffer) = (Hasher::default(), 0, vec![0; PIECE]);
    loop {
        let count = plain.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        bytes += count as u64;
        if bytes > MAX_LAYER_BYTES {
            let most = MAX_LAYER_BYTES >> 30;
            return Err(io::Error::other(format!(
                "larger than {most} GiB once it is uncompressed"
            )));
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(Written)?;
    }
}

fn read_head(source: &mut impl Read, head: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < head.len() {
        match source.read(&mut head[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn check_digest(what: &str, expected: Digest, seen: Digest) -> Result<()> {
    match seen == expected {
        true => Ok(()),
        false => Err(Error::bad_input(format!(
            "{what} is damaged: its digest is {seen}, and not {expected}"
        ))),
    }
}

/// A failure to write, told from those to read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Written(io::Error);

impl From<Written> for io::Error {
    fn from(error: Written) -> io::Error {
        io::Error::new(error.0.kind(), error)
    }
}

/// Somebody wants no more.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Cancelled;

fn about_layer(error: io::Error, path: &str) -> Error {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<Cancelled>()) {
        return Error::new(ErrorKind::Cancelled, "stopped on request");
    }
    if inner.is_some_and(|inner| inner.is::<Written>()) {
        let writing = Err::<(), _>(error).during(|| format!("write the layer {path:?} out"));
        return writing.err().unwrap_or_else(|| Error::bad_input("written"));
    }
    Error::bad_input(format!("the layer {path:?} cannot be read: {error}"))
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.count += length as u64;
        Ok(length)
    }
}

/// Tells how much was read, and ends when nobody wants more.
struct Watched<'a, R> {
    inner: &'a mut Hashed<R>,
    total: u64,
    watch: &'a dyn Watch,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.cancelled() {
            return Err(io::Error::other(Cancelled));
        }
        let length = self.inner.read(buffer)?;
        self.watch.advanced(self.inner.count, self.total);
        Ok(length)
    }
}
