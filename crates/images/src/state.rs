//! The store's own files: sidecars, `tags.json`, journal entries. Versioned JSON.
//!
//! A reader refuses a version it does not know: an older program must not guess at a newer store.
//! The forms are pinned by the golden texts in the tests below; a changed form needs a new version
//! and a reader for the old one. A field that may be missing, and that an older program may ignore,
//! is no change.

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
}

/// A data disk of an image: a layer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataLayer {
    pub name: DiskName,
    /// The key of its topmost file.
    pub guid: LayerGuid,
}

/// One verb under way: `journal/<guid>/entry.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Intent {
    /// A layer file is on its way into `images/`.
    Arrive {
        /// Its base name there.
        file: String,
        /// The name it then gets, in full.
        reference: Option<String>,
    },
    /// A container's disk is being frozen into `images/`.
    Commit {
        /// The frozen file's base name there.
        file: String,
        /// The container's disk, relative to the root.
        leaf: String,
        /// The name it then gets, in full.
        reference: Option<String>,
        /// Its data disks, which are frozen before it. What was frozen becomes a layer in any case.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        disks: Vec<FrozenDisk>,
    },
    /// An image is becoming a mere layer.
    Remove {
        /// The image's file in `images/`.
        file: String,
        /// The names it loses, in full.
        references: Vec<String>,
    },
    /// Several images are becoming mere layers, all or none.
    RemoveAll {
        /// In the order in which they are told of.
        images: Vec<Gone>,
    },
    /// A layer file is being replaced by one with the same bytes over a lower parent, and is another
    /// image from then on.
    Replace(Replacement),
    /// Disks are being told where their parents are.
    Relink {
        /// In order.
        links: Vec<Link>,
    },
    /// Several layer files are on their way into `images/`, all or none.
    ArriveAll {
        /// Base first; none as long as they are being made.
        arrivals: Vec<Arrival>,
    },
    /// An image is being written to a file outside the root.
    Export {
        /// The folder in which that is done; it goes whatever happens.
        folder: String,
    },
}

/// A data disk that is being frozen. Its sidecar lies in the journal under the name that it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FrozenDisk {
    /// The frozen file's base name in `images/`.
    pub file: String,
    /// The container's disk, relative to the root.
    pub leaf: String,
}

/// A disk and the file that becomes its parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The disk, relative to the root.
    pub disk: String,
    /// The parent's base name in `images/`.
    pub parent: String,
    /// Whatever the parent's bytes are.
    pub force: bool,
}

/// See [`Intent::Replace`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replacement {
    /// The file's base name in `images/`, and of the new one in the journal.
    pub file: String,
    /// The names that the image it was loses, in full.
    pub former: Vec<String>,
    /// The name that the image it becomes gets, in full.
    pub reference: String,
    /// Images below that become mere layers.
    pub images: Vec<Gone>,
}

/// An image that becomes a mere layer. Its sidecar as such lies in the journal under the name that it
/// gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// The image's file in `images/`.
    pub file: String,
    /// The names it loses, in full.
    pub references: Vec<String>,
}

/// A layer that comes with others. Its sidecar lies in the journal under the name that it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Its base name in `images/`.
    pub file: String,
    /// Its disk file comes too; else that is there, and becomes an image or gets names.
    pub brings_disk: bool,
    /// The names it gets, in full.
    pub names: Vec<String>,
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

impl Intent {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let version = match self {
            Intent::Commit { disks, .. } if !disks.is_empty() => WITH_DISKS,
            _ => VERSION,
        };
        to_json(&Versioned { version, body: self.clone() })
    }

    pub(crate) fn read(path: &Path) -> Result<Intent> {
        read(path).and_then(|bytes| from_json(&bytes)).map_err(|error| damaged(path, &error))
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

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

    fn sidecar(role: Role) -> Sidecar {
        let guid = GUID.parse().unwrap();
        Sidecar {
            guid,
            kind: Kind::App,
            name: "日本/x:1".into(),
            chain: None,
            role,
            disks: Vec::new(),
        }
    }

    #[test]
    fn sidecars_have_their_golden_form() {
        let config = ImageConfig::parse("{ \"os\":\"linux\"\n}").unwrap();
        let image = sidecar(Role::Image(config));
        let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "image",
  "kind": "app",
  "name": "日本/x:1",
  "config": "{ \"os\":\"linux\"\n}"
}
"#;
        assert_eq!(String::from_utf8(image.to_json()).unwrap(), golden);
        assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), image);

        let layer = Sidecar { chain: Some(Digest::of(b"")), ..sidecar(Role::Layer(None)) };
        let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "layer",
  "kind": "app",
  "name": "日本/x:1",
  "chain": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}
"#;
        assert_eq!(String::from_utf8(layer.to_json()).unwrap(), golden);
        assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), layer);
    }

    #[test]
    fn what_has_data_disks_is_of_a_version_that_older_programs_refuse() {
        let disk = DataLayer { name: "data".parse().unwrap(), guid: GUID.parse().unwrap() };
        let config = ImageConfig::parse("{}").unwrap();
        let image = Sidecar { disks: vec![disk], ..sidecar(Role::Image(config)) };
        let json = String::from_utf8(image.to_json()).unwrap();
        let disks = format!(
            r#""disks": [
    {{
      "name": "data",
      "layer": "{GUID}"
    }}
  ]"#
        );
        assert!(json.contains("\"version\": 2") && json.contains(&disks), "{json}");
        assert_eq!(Sidecar::from_json(json.as_bytes()).unwrap(), image);
        assert!(image.as_layer().disks.is_empty());
        let frozen = FrozenDisk { file: "f".into(), leaf: "l".into() };
        let (file, leaf, reference) = ("x".into(), "y".into(), None);
        let commit = Intent::Commit { file, leaf, reference, disks: vec![frozen] };
        assert!(String::from_utf8(commit.to_json()).unwrap().contains("\"version\": 2"));
    }

    #[test]
    fn sidecars_are_exported_in_their_golden_form() {
        let exported = Exported {
            sidecar: sidecar(Role::Layer(None)),
            names: vec![Name::parse("日本").unwrap(), Name::parse("x:1").unwrap()],
        };
        let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "layer",
  "kind": "app",
  "name": "日本/x:1",
  "names": [
    "日本:latest",
    "docker.io/library/x:1"
  ]
}
"#;
        assert_eq!(String::from_utf8(exported.to_json()).unwrap(), golden);
        assert_eq!(Exported::from_json(golden.as_bytes()).unwrap(), exported);
        // Beside its file in `images/` it is a sidecar like any other.
        assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), exported.sidecar);
    }

    #[test]
    fn tags_have_their_golden_form() {
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let tags = BTreeMap::from([
            (Name::parse("x:1").unwrap(), id),
            (Name::parse("localhost/y").unwrap(), id),
            (Name::parse("Win2016_Hyper-V").unwrap(), id),
        ]);
        let hex = "ab".repeat(32);
        let golden = format!(
            r#"{{
  "version": 1,
  "tags": {{
    "Win2016_Hyper-V:latest": "sha256:{hex}",
    "docker.io/library/x:1": "sha256:{hex}",
    "localhost/y:latest": "sha256:{hex}"
  }}
}}
"#
        );
        assert_eq!(String::from_utf8(tags_to_json(&tags)).unwrap(), golden);
        assert_eq!(tags_from_json(golden.as_bytes()).unwrap(), tags);
    }

    fn gone() -> Gone {
        Gone { file: "g.vhdx".into(), references: vec!["a/b:c".into()] }
    }

    #[test]
    fn journal_entries_have_their_golden_form() {
        let entries = [
            (
                Intent::Arrive { file: "f.vhdx".into(), reference: None },
                r#"{"version":1,"verb":"arrive","file":"f.vhdx","reference":null}"#,
            ),
            (
                Intent::Commit {
                    file: "f.vhdx".into(),
                    leaf: "containers/c/s.vhdx".into(),
                    reference: Some("docker.io/library/x:1".into()),
                    disks: Vec::new(),
                },
                concat!(
                    r#"{"version":1,"verb":"commit","file":"f.vhdx","leaf":"containers/c/s.vhdx","#,
                    r#""reference":"docker.io/library/x:1"}"#
                ),
            ),
            (
                Intent::Remove { file: "f.vhdx".into(), references: vec!["a/b:c".into()] },
                r#"{"version":1,"verb":"remove","file":"f.vhdx","references":["a/b:c"]}"#,
            ),
            (
                Intent::RemoveAll { images: vec![gone()] },
                concat!(
                    r#"{"version":1,"verb":"remove_all","#,
                    r#""images":[{"file":"g.vhdx","references":["a/b:c"]}]}"#
                ),
            ),
            (
                Intent::Replace(Replacement {
                    file: "f.vhdx".into(),
                    former: vec!["a/b:c".into()],
                    reference: "a/b:d".into(),
                    images: vec![gone()],
                }),
                concat!(
                    r#"{"version":1,"verb":"replace","file":"f.vhdx","former":["a/b:c"],"#,
                    r#""reference":"a/b:d","#,
                    r#""images":[{"file":"g.vhdx","references":["a/b:c"]}]}"#
                ),
            ),
            (
                Intent::Relink {
                    links: vec![Link {
                        disk: "images/f.vhdx".into(),
                        parent: "g.vhdx".into(),
                        force: true,
                    }],
                },
                concat!(
                    r#"{"version":1,"verb":"relink","links":[{"disk":"images/f.vhdx","#,
                    r#""parent":"g.vhdx","force":true}]}"#
                ),
            ),
            (
                Intent::ArriveAll {
                    arrivals: vec![Arrival {
                        file: "f.vhdx".into(),
                        brings_disk: true,
                        names: vec!["a/b:c".into()],
                    }],
                },
                concat!(
                    r#"{"version":1,"verb":"arrive_all","arrivals":[{"file":"f.vhdx","#,
                    r#""brings_disk":true,"names":["a/b:c"]}]}"#
                ),
            ),
            (
                Intent::Export { folder: "/x/.ireko-export-g".into() },
                r#"{"version":1,"verb":"export","folder":"/x/.ireko-export-g"}"#,
            ),
        ];
        for (intent, golden) in entries {
            let written: serde_json::Value = serde_json::from_slice(&intent.to_json()).unwrap();
            assert_eq!(written, serde_json::from_str::<serde_json::Value>(golden).unwrap());
            assert_eq!(from_json::<Intent>(golden.as_bytes()).unwrap(), intent);
        }
    }

    #[test]
    fn a_newer_version_and_nonsense_are_refused() {
        let newer = br#"{"version":3,"guid":7}"#;
        let error = Sidecar::from_json(newer).unwrap_err().to_string();
        assert_eq!(error, "version 3 is unknown to this program, which knows 1 and 2");
        let no_config =
            format!(r#"{{"version":1,"guid":"{GUID}","role":"image","kind":"app","name":"x"}}"#);
        for text in ["", "[]", "{}", r#"{"version":1}"#, &no_config] {
            assert!(Sidecar::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
