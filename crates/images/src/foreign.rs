//! Taking in files that came into `images/` by other hands: another program's, a copied folder's.
//!
//! A file `<name>_<guid>.vhdx` without a sidecar becomes a machine image. Its bytes stay as they are;
//! it is made read-only, gets a sidecar, and a tag made of its name where that can be one and is
//! free. One that was renamed, and has left its sidecar behind, gets that. What cannot be taken in is logged, and tried again at the next start.

use crate::compose::{NewImage, compose};
use crate::error::{During, Result};
use crate::id::LayerGuid;
use crate::index::Index;
use crate::name::Name;
use crate::state::{Kind, Role, Sidecar};
use crate::store::Store;
use crate::{durable, layer_file, names};
use ireko_oci::RunConfig;
use jiff::Timestamp;

/// Takes in every file that has no sidecar, except those of verbs still under way.
pub(crate) fn take_in(store: &Store, index: &mut Index) -> Result<()> {
    for file in durable::names_in(&store.places.images)? {
        let unfinished = index.commit_of(&file).is_some();
        if unfinished || index.by_file(&file).is_some() || index.damaged.contains_key(&file) {
            continue;
        }
        let Some((slug, guid)) = names::parse_disk_file(&file) else { continue };
        if let Some(twin) = index.layer(guid) {
            tracing::warn!(file, twin = twin.file, "ignored: another file has the same GUID");
            continue;
        }
        if let Err(error) = take_in_file(store, index, &file, slug, guid) {
            let reason = crate::error::chain(&error).to_string();
            tracing::warn!(file, reason, "a file without a sidecar could not be taken in");
            index.damaged.insert(file, reason);
        }
    }
    Ok(())
}

fn take_in_file(
    store: &Store,
    index: &mut Index,
    file: &str,
    slug: &str,
    guid: LayerGuid,
) -> Result<()> {
    layer_file::facts(&store.image_path(file))?;
    durable::protect(&store.image_path(file))?;
    if let Some(left) = sidecar_left_behind(store, guid)? {
        durable::rename(&store.image_path(&left), &store.sidecar_path(file))?;
        index.insert(store.load(file)?);
        tracing::info!(file, left, "a file was renamed: its sidecar is as well");
        return Ok(());
    }
    let sidecar = make_sidecar(store, file, slug, guid)?;
    durable::replace(&store.sidecar_path(file), &sidecar.to_json())?;
    let layer = store.load(file)?;
    let id = layer.sidecar.image_id();
    index.insert(layer);
    tracing::info!(file, "took in a machine image");
    if let (Some(id), Ok(name)) = (id, Name::parse(slug))
        && !index.tags().contains_key(&name)
    {
        let mut tags = index.tags().clone();
        tags.insert(name, id);
        store.set_tags(index, tags)?;
    }
    Ok(())
}

/// Finds the sidecar of a disk file that was renamed without it. Nothing else has this key.
fn sidecar_left_behind(store: &Store, guid: LayerGuid) -> Result<Option<String>> {
    let names = durable::names_in(&store.places.images)?;
    Ok(names.into_iter().find(|name| {
        names::parse_sidecar_file(name).is_some_and(|(_, key)| key == guid)
            && Sidecar::read(&store.image_path(name)).is_ok()
    }))
}

fn make_sidecar(store: &Store, file: &str, slug: &str, guid: LayerGuid) -> Result<Sidecar> {
    let path = store.image_path(file);
    let modified = std::fs::metadata(&path)
        .and_then(|file| file.modified())
        .during(|| format!("look at {}", path.display()))?;
    let new = NewImage {
        config: RunConfig::default(),
        // Its parent may come later: guessed when somebody makes a container of it.
        machine: None,
        generalized: false,
        container: None,
        name: None,
        comment: String::new(),
        author: String::new(),
        created_by: String::new(),
        created: Timestamp::try_from(modified).unwrap_or_default(),
    };
    let kind = Kind::Machine;
    let config = compose(None, kind, guid, &new)?;
    Ok(Sidecar {
        guid,
        kind,
        name: slug.to_owned(),
        chain: None,
        role: Role::Image(config),
        disks: Vec::new(),
        steps: 1,
    })
}
