//! What happens when a store is opened: the files are read, the journal is worked off.
//!
//! ```text
//!   read tags.json, images/*.json, images/*.vhdx
//!   for each verb in the journal
//!     being undone                        ─► undo it
//!     its file is in images/              ─► finish it
//!     a removal, a replacement, a fold    ─► finish it
//!     a living shim holds the disk        ─► leave it to `settle_commits`
//!     else                                ─► forget it
//!     any of these fails                  ─► leave it to the next start, and sweep nothing
//!   take in foreign files; sweep what nothing needs
//! ```

use crate::collect::sweep;
use crate::commit::{CommitUnderWay, DiskUnderWay, Freezing};
use crate::error::Result;
use crate::index::Index;
use crate::journal::{UNDONE, Work};
use crate::name::Name;
use crate::state::{Intent, Role, Sidecar, read_tags};
use crate::store::Store;
use crate::{arrive, chain, durable, export, foreign, names, parallel};
use std::collections::BTreeSet;
use std::sync::Weak;

/// Brings a store's folders into a state between verbs, and its index into the same.
pub(crate) fn recover(store: &Store) -> Result<()> {
    let mut index = store.index();
    index.set_tags(read_tags(&store.places.tags)?);
    read_images(store, &mut index)?;
    sweep_containers(store)?;
    for (work, intent) in store.journal.entries()? {
        tracing::info!(?intent, "settling a verb that was interrupted");
        if let Err(error) = store.reserve.spend(|| settle(store, &mut index, &work, &intent)) {
            leave(&mut index, &intent, &crate::error::chain(&error).to_string());
        }
    }
    foreign::take_in(store, &mut index)?;
    sweep(store, &mut index);
    Ok(())
}

/// Removes the disks that were being made in containers' folders.
fn sweep_containers(store: &Store) -> Result<()> {
    for container in durable::names_in(&store.places.containers)? {
        let folder = store.places.containers.join(container);
        if !folder.is_dir() {
            continue;
        }
        let names = durable::names_in(&folder)?;
        for name in names.iter().filter(|name| durable::is_aside(name)) {
            durable::discard(&folder.join(name));
        }
    }
    Ok(())
}

/// Reads every file that has a sidecar; removes what interrupted changes left.
pub(crate) fn read_images(store: &Store, index: &mut Index) -> Result<()> {
    let names = durable::names_in(&store.places.images)?;
    let with_disk: BTreeSet<String> = names
        .iter()
        .filter(|name| names::parse_disk_file(name).is_some())
        .map(|name| names::sidecar_file(name))
        .collect();
    let mut disks = Vec::new();
    for name in &names {
        if durable::is_aside(name) {
            durable::discard(&store.image_path(name));
        } else if name.ends_with(".json") {
            if !with_disk.contains(name) {
                drop_orphan(store, name)?;
            }
        } else if names::parse_disk_file(name).is_some()
            && names.binary_search(&names::sidecar_file(name)).is_ok()
        {
            disks.push(name);
        }
    }
    let layers = parallel::map(&disks, |name| store.load(name));
    for (name, layer) in disks.into_iter().zip(layers) {
        match layer {
            Ok(layer) => {
                if let Err(reason) = &layer.disk {
                    tracing::warn!(file = name, reason, "a layer that cannot be read");
                }
                index.insert(layer);
            }
            Err(error) => {
                let reason = crate::error::chain(&error).to_string();
                tracing::warn!(file = name, reason, "a layer whose sidecar cannot be read");
                index.damaged.insert(name.clone(), reason);
            }
        }
    }
    Ok(())
}

/// Removes a layer's sidecar whose disk file went first, when it was swept.
fn drop_orphan(store: &Store, sidecar_file: &str) -> Result<()> {
    if names::parse_sidecar_file(sidecar_file).is_none() {
        return Ok(());
    }
    let path = store.image_path(sidecar_file);
    match Sidecar::read(&path) {
        Ok(Sidecar { role: Role::Layer(_), .. }) => durable::remove_file(&path),
        _ => {
            tracing::warn!(file = sidecar_file, "an image's disk file is not there");
            Ok(())
        }
    }
}

fn settle(store: &Store, index: &mut Index, work: &Work, intent: &Intent) -> Result<()> {
    match intent {
        Intent::Arrive { file, .. } | Intent::Commit { file, .. }
            if durable::exists(&work.path(UNDONE))? =>
        {
            // Data disks were made layers before.
            store.take_back(index, work, file)
        }
        Intent::Arrive { file, reference } => match durable::exists(&store.image_path(file))? {
            true => store.land(index, work, file, named(reference)?.as_ref()).map(drop),
            false => work.end(),
        },
        Intent::Commit { file, leaf, reference, disks } => {
            let under_way = |file: &String, leaf: &String| DiskUnderWay {
                leaf: store.places.root.join(leaf),
                file: file.clone(),
                parent: None,
            };
            let commit = CommitUnderWay {
                own: under_way(file, leaf),
                data: disks.iter().map(|disk| under_way(&disk.file, &disk.leaf)).collect(),
                work: work.clone(),
                reference: named(reference)?,
                held: Weak::new(),
            };
            settle_commit(store, index, commit)
        }
        Intent::Remove { file, references } => {
            let references: Vec<_> =
                references.iter().map(|name| named_one(name)).collect::<Result<_>>()?;
            store.finish_removal(index, work, file, &references)
        }
        Intent::RemoveAll { images } => store.finish_removals(index, work, images),
        Intent::Relink { links } => store.finish_links(index, work, links),
        Intent::Replace(replacement) => store.settle_replacement(index, work, replacement),
        Intent::Fold { file } => store.settle_fold(index, work, file),
        Intent::ArriveAll { arrivals } => match arrive::is_undone(work)? {
            true => store.take_back_all(index, work, arrivals),
            false if arrivals.is_empty() => work.end(),
            false => store.land_all(index, work, arrivals),
        },
        Intent::Export { folder } => export::sweep(work, folder),
    }
}

/// Leaves a verb that cannot be settled to the next start. Until then its file is not taken for a
/// foreign one, and nothing that it may stand on is swept.
fn leave(index: &mut Index, intent: &Intent, reason: &str) {
    tracing::error!(?intent, reason, "an interrupted verb cannot be settled; it is left");
    let files: Vec<&String> = match intent {
        Intent::Arrive { file, .. } => vec![file],
        Intent::Commit { file, disks, .. } => {
            disks.iter().map(|disk| &disk.file).chain([file]).collect()
        }
        Intent::ArriveAll { arrivals } => arrivals.iter().map(|arrival| &arrival.file).collect(),
        _ => Vec::new(),
    };
    index.damaged.extend(files.into_iter().map(|file| (file.clone(), reason.to_owned())));
}

fn settle_commit(store: &Store, index: &mut Index, mut commit: CommitUnderWay) -> Result<()> {
    match store.look(&commit.own)? {
        Freezing::NotDone => store.forget(index, &commit),
        Freezing::Done => {
            let Some((_, guid)) = names::parse_disk_file(&commit.own.file) else {
                return commit.work.end();
            };
            store.land_commit(index, guid, &commit).map(drop)
        }
        Freezing::Undecided => {
            let Some((_, guid)) = names::parse_disk_file(&commit.own.file) else {
                return commit.work.end();
            };
            tracing::info!(file = commit.own.file, "a living shim may still commit");
            for disk in commit.data.iter_mut().chain([&mut commit.own]) {
                // What a disk stands on must stay, whichever of its two names the disk now has.
                let frozen = store.image_path(&disk.file);
                let path = if durable::exists(&frozen)? { &frozen } else { &disk.leaf };
                let parent = chain::parent(index, path)?.map(|parent| parent.sidecar.guid);
                disk.parent = parent.map(|guid| (guid, index.pin(guid)));
            }
            index.commits.insert(guid, commit);
            Ok(())
        }
    }
}

fn named(reference: &Option<String>) -> Result<Option<Name>> {
    reference.as_deref().map(named_one).transpose()
}

fn named_one(name: &str) -> Result<Name> {
    Name::parse(name)
}
