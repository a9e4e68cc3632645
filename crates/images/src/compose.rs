//! The configuration a new image gets.
//!
//! ```text
//!   the nearest configuration below ─┐
//!   the container's merged config   ─┼─► document ─► bytes, once ─► id
//!   created, our GUID, history      ─┘
//! ```

use crate::error::{During, Result};
use crate::id::LayerGuid;
use crate::name::Name;
use crate::state::Kind;
use ireko_oci::{
    ConfigDocument, Digest, HistoryEntry, ImageConfig, MachineConfig, RootFs, RunConfig,
};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

/// The field of our own configurations that carries the file's GUID. With the nanosecond of
/// creation it makes equal commits differ, as docker's do.
const GUID_FIELD: &str = "ireko.layer";

/// What the maker of an image says about it.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// What its containers run: for a commit the container's merged configuration.
    pub config: RunConfig,
    /// What boots it, where it is a whole operating system; `None` is what boots the image below.
    pub machine: Option<MachineConfig>,
    /// A whole operating system without an identity of its own.
    pub generalized: bool,
    /// The id of the container it was made of, and what the image of that was called.
    pub container: Option<(String, String)>,
    /// The name it gets, if any; an image that had the name loses it.
    pub name: Option<Name>,
    /// What was said about it.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// The command that made it, for its history.
    pub created_by: String,
    /// When it was made.
    pub created: Timestamp,
}

/// Writes the configuration of a new image on top of `parent`, or of none.
pub(crate) fn compose(
    parent: Option<&ConfigDocument>,
    kind: Kind,
    guid: LayerGuid,
    new: &NewImage,
) -> Result<ImageConfig> {
    let base = match parent {
        Some(parent) => parent.clone(),
        None => ConfigDocument {
            architecture: architecture().to_owned(),
            os: match kind {
                Kind::App => "linux".to_owned(),
                Kind::Machine => UNKNOWN_OS.to_owned(),
            },
            ..ConfigDocument::default()
        },
    };
    let mut diff_ids = base.rootfs.diff_ids;
    diff_ids.push(provisional_diff_id(guid));
    let mut history = base.history;
    history.push(HistoryEntry {
        created: Some(new.created),
        created_by: new.created_by.clone(),
        author: new.author.clone(),
        comment: new.comment.clone(),
        empty_layer: false,
    });
    // The parent's other fields speak of the parent (its build, its container).
    let mut extra = BTreeMap::from([(GUID_FIELD.to_owned(), guid.to_string().into())]);
    if let Some((id, image)) = &new.container {
        extra.insert("container".to_owned(), id.clone().into());
        extra.insert("container_config".to_owned(), json!({ "Image": image }));
    }
    let document = ConfigDocument {
        created: Some(new.created),
        author: new.author.clone(),
        comment: new.comment.clone(),
        config: new.config.clone(),
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        history,
        machine: new.machine.or(base.machine),
        generalized: new.generalized,
        extra,
        architecture: base.architecture,
        variant: base.variant,
        os: base.os,
        os_version: base.os_version,
        os_features: base.os_features,
    };
    ImageConfig::write(&document).during(|| "write the new image's configuration".to_owned())
}

/// Writes the configuration of an image whose one file holds what the topmost `made_by` steps of `top`'s
/// history made.
///
/// They stay in the history, marked as docker marks squashed ones: without
/// a layer of their own. A new step has it.
pub(crate) fn compose_merged(
    top: &ConfigDocument,
    kind: Kind,
    guid: LayerGuid,
    made_by: usize,
    new: &NewImage,
) -> Result<ImageConfig> {
    let mut merged = top.clone();
    let steps = merged.history.iter_mut().rev().filter(|step| !step.empty_layer);
    steps.take(made_by).for_each(|step| step.empty_layer = true);
    let kept = merged.rootfs.diff_ids.len().saturating_sub(made_by);
    merged.rootfs.diff_ids.truncate(kept);
    compose(Some(&merged), kind, guid, new)
}

/// What a machine image's configuration says where nobody knows its operating system.
const UNKNOWN_OS: &str = "unknown";

/// Stands for the digest of a layer's tar, which is only computed when someone needs the tar: the
/// sha256 of the text `ireko layer <guid>`.
fn provisional_diff_id(guid: LayerGuid) -> Digest {
    Digest::of(format!("ireko layer {guid}").as_bytes())
}

/// Returns this machine's processor in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_image() -> NewImage {
        NewImage {
            config: RunConfig { cmd: vec!["sh".into()], ..RunConfig::default() },
            machine: None,
            generalized: false,
            container: None,
            name: None,
            comment: "c".into(),
            author: "a".into(),
            created_by: "sh -c x".into(),
            created: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_child_takes_the_containers_config_and_adds_to_its_parents_history() {
        let parent = ImageConfig::parse(
            r#"{"os":"linux","architecture":"arm64","config":{"Cmd":["old"]},"container":"c",
                "history":[{"created_by":"first"}],"rootfs":{"diff_ids":[
                "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
        )
        .unwrap();
        let guid = LayerGuid::random();
        let child = compose(Some(parent.document()), Kind::App, guid, &new_image()).unwrap();
        let document = child.document();
        assert_eq!(document.architecture, "arm64");
        assert_eq!(document.config.cmd, ["sh"]);
        assert_eq!(document.history.len(), 2);
        assert_eq!(document.history[1].created_by, "sh -c x");
        assert_eq!(document.rootfs.diff_ids.len(), 2);
        assert_eq!(document.created.unwrap().subsec_nanosecond(), 6);
        assert_eq!(document.extra.keys().collect::<Vec<_>>(), [GUID_FIELD]);
    }

    #[test]
    fn a_merged_image_has_one_step_with_a_layer_for_all_that_were_merged() {
        let step = |guid, parent: Option<&ImageConfig>| {
            compose(parent.map(|p| p.document()), Kind::App, guid, &new_image()).unwrap()
        };
        let base = step(LayerGuid::random(), None);
        let web = step(LayerGuid::random(), Some(&base));
        let api = step(LayerGuid::random(), Some(&web));
        let check = |files, empty: &[bool], layers| {
            let top = api.document();
            let merged =
                compose_merged(top, Kind::App, LayerGuid::random(), files, &new_image()).unwrap();
            let document = merged.document();
            let seen: Vec<_> = document.history.iter().map(|step| step.empty_layer).collect();
            assert_eq!(seen, empty);
            assert_eq!(document.rootfs.diff_ids.len(), layers);
            assert_eq!(document.config, top.config);
        };
        check(2, &[false, true, true, false], 2);
        // The common root below is no step of anyone's.
        check(4, &[true, true, true, false], 1);
    }

    #[test]
    fn equal_commits_get_different_ids() {
        let id = |guid| compose(None, Kind::App, guid, &new_image()).unwrap().digest();
        let guid = LayerGuid::random();
        assert_eq!(id(guid), id(guid));
        assert_ne!(id(guid), id(LayerGuid::random()));
    }
}
