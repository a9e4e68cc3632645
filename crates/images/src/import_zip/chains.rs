//! What stands on what: the layers of a zip, and those of the store below them.

use crate::commit::MAX_DEPTH;
use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::index::{self, Index, Layer, Pin};
use crate::store::Store;
use crate::zip_reader::ZippedLayer;
use crate::{layer_file, names};
use ireko_disk::Verify;
use ireko_disk::vhdx::Info;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// One of the zip's layers on its way.
pub(super) struct Member {
    pub guid: LayerGuid,
    /// Its base name here.
    pub file: String,
    /// Its base name in the zip.
    pub called: String,
    /// Where it is now.
    pub path: PathBuf,
    pub info: Info,
    /// It came out of the zip and is not here.
    pub is_new: bool,
    pub parent: Option<Parent>,
}

/// What a layer stands on.
#[derive(Clone, Copy)]
pub(super) enum Parent {
    /// Another layer of the zip, by its number.
    Member(usize),
    /// A layer of the store.
    Here(LayerGuid),
}

impl Store {
    /// Finds what each stands on, and keeps that from being swept.
    pub(super) fn find_parents(&self, members: &mut [Member], pins: &mut Vec<Pin>) -> Result<()> {
        let mut index = self.index();
        for number in 0..members.len() {
            members[number].parent = find_parent(&index, members, number)?;
            if let Some(Parent::Here(guid)) = members[number].parent {
                pins.push(index.pin(guid));
            }
        }
        Ok(())
    }

    /// Refuses a layer whose parent is not in the store.
    pub(super) fn check_parent(&self, layer: &ZippedLayer, info: Info) -> Result<()> {
        let (file, called, path) = (layer.file.clone(), layer.called.clone(), PathBuf::new());
        let (guid, is_new, parent) = (layer.guid, true, None);
        let member = Member { guid, file, called, path, info, is_new, parent };
        find_parent(&self.index(), &[member], 0).map(drop)
    }

    /// Rewrites the locators that call a parent by another name than it has here; in the given order.
    pub(super) fn link_members(&self, members: &[Member], order: &[usize]) -> Result<()> {
        for &number in order {
            let member = &members[number];
            let (Some(parent), true) = (member.parent, member.is_new) else { continue };
            let (file, path) = self.parent_file(members, parent)?;
            let known_as = member.info.parent.as_ref().and_then(|link| link.base_name());
            if known_as.is_some_and(|name| index::key(&name) == index::key(&file)) {
                continue;
            }
            let beside = member.path.parent().map(ToOwned::to_owned);
            let folders: Vec<_> = beside.into_iter().chain([self.places.images.clone()]).collect();
            let locator = names::sibling_locator(&file);
            layer_file::relink(&member.path, &path, &folders, locator, Verify::Identity)
                .map_err(|error| error.within(format!("link {} of the zip", member.called)))?;
        }
        Ok(())
    }

    fn parent_file(&self, members: &[Member], parent: Parent) -> Result<(String, PathBuf)> {
        match parent {
            Parent::Member(number) => {
                Ok((members[number].file.clone(), members[number].path.clone()))
            }
            Parent::Here(guid) => {
                let index = self.index();
                let layer = index
                    .layer(guid)
                    .ok_or_else(|| Error::conflict(format!("layer {guid} has just gone")))?;
                Ok((layer.file.clone(), self.image_path(&layer.file)))
            }
        }
    }

    /// Opens every chain that the zip brings, from its topmost file.
    pub(super) fn verify_members(&self, members: &[Member]) -> Result<()> {
        let below: BTreeSet<usize> = members
            .iter()
            .filter_map(|member| match member.parent {
                Some(Parent::Member(number)) => Some(number),
                _ => None,
            })
            .collect();
        for top in (0..members.len()).filter(|number| !below.contains(number)) {
            let chain = self.chain_of(members, top)?;
            if chain.len() > MAX_DEPTH {
                return Err(Error::bad_input(format!(
                    "{} stands on {} layers; no more than {MAX_DEPTH} can be stacked",
                    members[top].called,
                    chain.len() - 1
                )));
            }
            layer_file::verify(&chain).map_err(|error| {
                error.hint("the files of the zip do not belong together: export them once more")
            })?;
        }
        Ok(())
    }

    /// Returns the files that make up a member's disk, leaf first.
    fn chain_of(&self, members: &[Member], top: usize) -> Result<Vec<PathBuf>> {
        let (mut chain, mut at) = (Vec::new(), Some(Parent::Member(top)));
        while let Some(Parent::Member(number)) = at {
            chain.push(members[number].path.clone());
            at = members[number].parent;
        }
        if let Some(Parent::Here(guid)) = at {
            let index = self.index();
            let layer = index
                .layer(guid)
                .ok_or_else(|| Error::conflict(format!("layer {guid} has just gone")))?;
            let lineage = index.lineage(&layer.file)?;
            chain.extend(lineage.iter().map(|layer| self.image_path(&layer.file)));
        }
        Ok(chain)
    }
}

/// Finds what a layer was made over: by the key in the name it knows its parent by, else by identity
/// alone. The identity is right in either case.
fn find_parent(index: &Index, members: &[Member], number: usize) -> Result<Option<Parent>> {
    let member = &members[number];
    let Some(link) = &member.info.parent else { return Ok(None) };
    let wanted = link.base_name();
    let key = wanted.as_deref().and_then(|name| Some(names::parse_disk_file(name)?.1));
    let identical = members.iter().enumerate().filter(|(other, candidate)| {
        *other != number && link.accepts(candidate.info.data_write_guid)
    });
    let in_zip: Vec<_> = identical.map(|(other, candidate)| (other, candidate.guid)).collect();
    let found_by = wanted.as_deref().map(index::key);
    let is_named = |(other, guid): &&(usize, LayerGuid)| {
        Some(*guid) == key || Some(index::key(&members[*other].called)) == found_by
    };
    if let Some((other, _)) = in_zip.iter().find(is_named) {
        return Ok(Some(Parent::Member(*other)));
    }
    let is_it =
        |layer: &&Layer| layer.disk.as_ref().is_ok_and(|facts| link.accepts(facts.identity));
    if let Some(layer) = key.and_then(|key| index.layer(key)).filter(is_it) {
        return Ok(Some(Parent::Here(layer.sidecar.guid)));
    }
    let known: BTreeSet<_> = members.iter().map(|member| member.guid).collect();
    let here: Vec<_> = index
        .layers()
        .filter(|layer| !known.contains(&layer.sidecar.guid) && is_it(layer))
        .map(|layer| layer.sidecar.guid)
        .collect();
    match (&in_zip[..], &here[..]) {
        ([(other, _)], []) => Ok(Some(Parent::Member(*other))),
        ([], [guid]) => Ok(Some(Parent::Here(*guid))),
        ([], []) => Err(missing(member, wanted.as_deref())),
        _ => Err(Error::bad_input(format!(
            "the parent of {} may be any of several copies of one file, and it calls it {:?}",
            member.called,
            wanted.unwrap_or_default()
        ))),
    }
}

fn missing(member: &Member, wanted: Option<&str>) -> Error {
    let name = wanted.unwrap_or("a file it does not name");
    Error::bad_input(format!(
        "the parent of {} is neither in the zip nor in the store: {name}",
        member.called
    ))
    .hint(format!("import {name} first, or export with --tree where the image comes from"))
}

/// Orders the zip's layers so that each comes after what it stands on.
pub(super) fn base_first(members: &[Member]) -> Result<Vec<usize>> {
    let (mut order, mut placed) = (Vec::new(), vec![false; members.len()]);
    while order.len() < members.len() {
        let before = order.len();
        for (number, member) in members.iter().enumerate() {
            let is_ready = match member.parent {
                Some(Parent::Member(parent)) => placed[parent],
                Some(Parent::Here(_)) | None => true,
            };
            if is_ready && !placed[number] {
                placed[number] = true;
                order.push(number);
            }
        }
        if order.len() == before {
            let in_cycle = members.iter().zip(&placed).find(|(_, placed)| !**placed);
            let file = in_cycle.map_or("", |(member, _)| &member.called);
            return Err(Error::bad_input(format!(
                "{file} stands on itself, by way of its parents"
            )));
        }
    }
    Ok(order)
}
