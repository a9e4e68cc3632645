//! How images refer to their parts: OCI manifests and indexes, docker's manifest of an archive, chain ids.
//!
//! ```text
//!   index.json ──► index ──► manifest (one platform) ──► config, layers      all by digest
//!   manifest.json ─────────────────────────────────────► config, layers      by name in the archive
//! ```
//!
//! Sources: OCI image spec, "Content Descriptors", "Image Manifest", "Image Index", "Image Layout", "Image Configuration"
//! (section "Layer ChainID"); for `manifest.json` the description of docker's image format, v1.2.

use crate::digest::Digest;
use crate::run_config::nullable;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The longest manifest or index that is read: what every registry takes.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// A reference to a blob by what it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default, deserialize_with = "nullable")]
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many these are.
    pub size: u64,
    /// What else is said about it.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on; in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// What an image runs on, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// `amd64`.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
}

/// One image for one platform: the OCI's, and docker's of schema 2, which reads the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
}

/// Several manifests, or further indexes: the OCI's, and docker's manifest list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// What it lists.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// One image in docker's `manifest.json`; blobs are named by their paths in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchivedImage {
    /// The configuration's path.
    pub config: String,
    /// Its names.
    #[serde(default, deserialize_with = "nullable")]
    pub repo_tags: Vec<String>,
    /// Its layers' paths, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<String>,
}

/// Media types.
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// What says that a manifest is about another one and no image: an attestation.
const ABOUT: &str = "vnd.docker.reference.type";
/// A whole name, as containerd and docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// A name, or only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl Descriptor {
    /// Tells whether it is an index.
    pub fn is_index(&self) -> bool {
        INDEXES.contains(&self.media_type.as_str())
    }

    /// Tells whether it is the manifest of an image.
    pub fn is_image(&self) -> bool {
        MANIFESTS.contains(&self.media_type.as_str()) && !self.annotations.contains_key(ABOUT)
    }

    /// Returns what the image is called, where the annotations say more than a tag.
    pub fn name(&self) -> Option<&str> {
        let full = self.annotations.get(FULL_NAME);
        let reference = self.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
        full.or(reference).map(String::as_str)
    }
}

/// Names what a layer and all below it give: equal layers over equal ones have equal chain ids.
pub fn chain_id(below: Option<Digest>, diff_id: Digest) -> Digest {
    match below {
        None => diff_id,
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_chain_id_is_as_the_specification_has_it() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Digest::of(text.as_bytes()));
        assert_eq!(chain_id(None, a), a);
        let ab = chain_id(Some(a), b);
        assert_eq!(ab, Digest::of(format!("{a} {b}").as_bytes()));
        assert_eq!(chain_id(Some(ab), c), Digest::of(format!("{ab} {c}").as_bytes()));
    }

    #[test]
    fn manifests_are_read_with_what_they_leave_out() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
                "config":{{"mediaType":"x","digest":"{EMPTY}","size":2,"annotations":null}},
                "layers":null}}"#
        );
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!((manifest.config.size, manifest.layers.len()), (2, 0));
        let saved: Vec<ArchivedImage> = serde_json::from_str(
            r#"[{"Config":"c.json","RepoTags":null,"Layers":["a/layer.tar"]}]"#,
        )
        .unwrap();
        assert_eq!((saved[0].config.as_str(), saved[0].layers.len()), ("c.json", 1));
    }

    #[test]
    fn an_image_is_called_by_a_whole_name_and_not_by_a_mere_tag() {
        let named = |annotations: &str| {
            let text = format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{EMPTY}","size":1,
                    "annotations":{annotations}}}"#
            );
            let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
            (descriptor.name().map(str::to_owned), descriptor.is_image())
        };
        let full = r#"{"io.containerd.image.name":"docker.io/library/a:1","org.opencontainers.image.ref.name":"1"}"#;
        assert_eq!(named(full), (Some("docker.io/library/a:1".into()), true));
        assert_eq!(named(r#"{"org.opencontainers.image.ref.name":"1"}"#), (None, true));
        assert_eq!(named(r#"{"org.opencontainers.image.ref.name":"a:1"}"#).0.unwrap(), "a:1");
        assert!(!named(r#"{"vnd.docker.reference.type":"attestation-manifest"}"#).1);
    }
}
