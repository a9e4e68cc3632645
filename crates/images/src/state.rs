//! The store's own files: sidecars, `tags.json`, journal entries. Versioned JSON.
//!
//! A reader refuses a version it does not know: an older program must not guess at a newer store.
//! The forms are pinned by the golden texts in the tests; a changed form needs a new version
//! and a reader for the old one. A field that may be missing, and that an older program may ignore,
//! is no change.

mod intent;
#[cfg(test)]
mod tests;

pub(crate) use intent::{Arrival, FrozenDisk, Gone, Intent, Link, Replacement};

use crate::data_disks::DiskName;
use crate::error::{During, Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::name::Name;
use ireko_oci::{Digest, ImageConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of all files here that this program writes, but those with data disks.
const VERSION: u32 = 1;
/// The version of files that speak of data disks: whoever passed over these would lose them.
const WITH_DISKS: u32 = 2;

/// The longest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// The longest sidecar of somebody else's that is read.
pub(crate) const MAX_SIDECAR: u64 = 8 << 20;

/// What a layer file is to people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    /// Listed, named by tags; its configuration's digest is its id.
    Image(ImageConfig),
    /// Holds bytes that an image or a container stands on, no more. One that was an image keeps its
    /// configuration: images committed on top of it later continue its history.
    Layer(Option<ImageConfig>),
}

/// What a container of the image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A utility VM that runs a process on this disk.
    App,
    /// The operating system on this disk, booted.
    Machine,
}

/// What lies beside a layer file: `<slug>_<guid>.json`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sidecar {
    pub guid: LayerGuid,
    pub kind: Kind,
    /// The name given at birth.
    pub name: String,
    /// The chain id of the OCI layers whose files this file and those below it hold, where it is known.
    pub chain: Option<Digest>,
    pub role: Role,
    /// An image's data disks, in the order in which its containers have them.
    pub disks: Vec<DataLayer>,
    /// How many steps of a history made the file: more than one where layers were folded.
    pub steps: u32,
}

/// A data disk of an image: a layer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataLayer {
    pub name: DiskName,
    /// The key of its topmost file.
    pub guid: LayerGuid,
}

/// A sidecar as it goes with an exported file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exported {
    pub sidecar: Sidecar,
    /// The names the image had.
    pub names: Vec<Name>,
}

impl Sidecar {
    /// Returns its id, if it is an image.
    pub(crate) fn image_id(&self) -> Option<ImageId> {
        match &self.role {
            Role::Image(config) => Some(config.digest().into()),
            Role::Layer(_) => None,
        }
    }

    /// Returns its configuration, or the one it had as an image.
    pub(crate) fn config(&self) -> Option<&ImageConfig> {
        match &self.role {
            Role::Image(config) => Some(config),
            Role::Layer(former) => former.as_ref(),
        }
    }

    /// Returns what this becomes when it is no image any more.
    pub(crate) fn as_layer(&self) -> Sidecar {
        let role = Role::Layer(self.config().cloned());
        Sidecar { role, disks: Vec::new(), ..self.clone() }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        to_json(&Versioned { version: self.version(), body: self.form() })
    }

    fn version(&self) -> u32 {
        if self.disks.is_empty() { VERSION } else { WITH_DISKS }
    }

    fn form(&self) -> SidecarForm {
        SidecarForm {
            guid: self.guid.to_string(),
            role: match &self.role {
                Role::Image(_) => RoleForm::Image,
                Role::Layer(_) => RoleForm::Layer,
            },
            kind: self.kind,
            name: self.name.clone(),
            chain: self.chain.map(|chain| chain.to_string()),
            config: self.config().map(|config| config.text().to_owned()),
            disks: self
                .disks
                .iter()
                .map(|disk| DataForm { name: disk.name.to_string(), layer: disk.guid.to_string() })
                .collect(),
            steps: (self.steps > 1).then_some(self.steps),
        }
    }

    pub(crate) fn from_json(bytes: &[u8]) -> Result<Sidecar> {
        Sidecar::from_form(from_json(bytes)?)
    }

    fn from_form(form: SidecarForm) -> Result<Sidecar> {
        let config = match form.config {
            Some(text) => Some(ImageConfig::parse(text).during(|| "read `config`".to_owned())?),
            None => None,
        };
        let role = match (form.role, config) {
            (RoleForm::Image, Some(config)) => Role::Image(config),
            (RoleForm::Image, None) => return Err(Error::corrupt("an image without `config`")),
            (RoleForm::Layer, former) => Role::Layer(former),
        };
        let chain = form.chain.as_deref().map(Digest::parse).transpose();
        let chain = chain.during(|| "read `chain`".to_owned())?;
        let disk = |form: DataForm| {
            Ok::<_, Error>(DataLayer { name: form.name.parse()?, guid: form.layer.parse()? })
        };
        Ok(Sidecar {
            guid: form.guid.parse()?,
            kind: form.kind,
            name: form.name,
            chain,
            role,
            disks: form.disks.into_iter().map(disk).collect::<Result<_>>()?,
            steps: form.steps.unwrap_or(1).max(1),
        })
    }

    pub(crate) fn read(path: &Path) -> Result<Sidecar> {
        read(path)
            .and_then(|bytes| Sidecar::from_json(&bytes))
            .map_err(|error| damaged(path, &error))
    }
}

impl Exported {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let names = self.names.iter().map(Name::to_string).collect();
        let sidecar = SidecarForm { chain: None, ..self.sidecar.form() };
        let body = ExportedForm { sidecar, names: Some(names) };
        to_json(&Versioned { version: self.sidecar.version(), body })
    }

    pub(crate) fn from_json(bytes: &[u8]) -> Result<Exported> {
        let mut form: ExportedForm = from_json(bytes)?;
        // Which OCI layers a file holds it cannot say itself: images that have these would be given its bytes.
        form.sidecar.chain = None;
        let sidecar = Sidecar::from_form(form.sidecar)?;
        let names = match form.names {
            Some(names) => names.iter().map(|name| Name::parse(name)).collect::<Result<_>>()?,
            // One as it lies beside its file: somebody zipped the folder of images.
            None if sidecar.config().is_some() => Name::parse(&sidecar.name).into_iter().collect(),
            None => Vec::new(),
        };
        Ok(Exported { sidecar, names })
    }
}

/// Writes `tags.json`.
pub(crate) fn tags_to_json(tags: &BTreeMap<Name, ImageId>) -> Vec<u8> {
    let tags = tags.iter().map(|(name, id)| (name.to_string(), id.to_string())).collect();
    to_json(&Versioned { version: VERSION, body: TagsForm { tags } })
}

/// Reads `tags.json`; no file means no tags.
pub(crate) fn read_tags(path: &Path) -> Result<BTreeMap<Name, ImageId>> {
    if !crate::durable::exists(path)? {
        return Ok(BTreeMap::new());
    }
    read(path).and_then(|bytes| tags_from_json(&bytes)).map_err(|error| {
        damaged(path, &error)
            .hint("restore the file, or remove it: images keep their ids and can be tagged anew")
    })
}

fn tags_from_json(bytes: &[u8]) -> Result<BTreeMap<Name, ImageId>> {
    let form: TagsForm = from_json(bytes)?;
    form.tags.into_iter().map(|(name, id)| Ok((Name::parse(&name)?, id.parse()?))).collect()
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleForm {
    Image,
    Layer,
}

#[derive(Serialize, Deserialize)]
struct SidecarForm {
    guid: String,
    role: RoleForm,
    kind: Kind,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    /// JSON text within JSON: its bytes must come back exactly, because they are the image's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    disks: Vec<DataForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct DataForm {
    name: String,
    layer: String,
}

/// A sidecar on its way to another store.
#[derive(Serialize, Deserialize)]
struct ExportedForm {
    #[serde(flatten)]
    sidecar: SidecarForm,
    /// None in one that was not exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct TagsForm {
    tags: BTreeMap<String, String>,
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("strings and string maps always write");
    bytes.push(b'\n');
    bytes
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let VersionOnly { version } =
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(error.to_string()))?;
    if !(VERSION..=WITH_DISKS).contains(&version) {
        return Err(Error::corrupt(format!(
            "version {version} is unknown to this program, which knows {VERSION} and {WITH_DISKS}"
        )));
    }
    let versioned: Versioned<T> =
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(error.to_string()))?;
    Ok(versioned.body)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path).during(|| "read its length".to_owned())?.len();
    if length > MAX_BYTES {
        return Err(Error::corrupt(format!("{length} bytes long, {MAX_BYTES} at most expected")));
    }
    std::fs::read(path).during(|| "read it".to_owned())
}

fn damaged(path: &Path, error: &Error) -> Error {
    let kind = error.kind();
    Error::new(kind, format!("{}: {}", path.display(), crate::error::chain(error)))
}
