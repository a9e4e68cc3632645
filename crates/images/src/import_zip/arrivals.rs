//! What the images of a zip become here: their configuration, their names, their places.

use super::chains::{Member, Parent};
use super::{came_in_meanwhile, taken};
use crate::arrive::Arriving;
use crate::compose::{NewImage, compose};
use crate::error::{Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::index::Index;
use crate::name::Name;
use crate::names;
use crate::state::{Arrival, Kind, Role, Sidecar};
use crate::zip_reader::{ZipReader, ZippedLayer};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// What is to arrive, base first.
pub(super) struct Arrivals {
    pub arriving: Vec<Arriving>,
    /// Names that other images have here.
    pub names_taken: Vec<String>,
}

/// Says what becomes of each member, in the given order; `name` is the topmost image's.
pub(super) fn of(
    index: &Index,
    zip: &ZipReader,
    members: &[Member],
    order: &[usize],
    name: Option<&Name>,
) -> Result<Arrivals> {
    let top = top_image(zip, members, name)?;
    let (mut arriving, mut names_taken) = (Vec::new(), Vec::new());
    let mut sidecars: BTreeMap<usize, Sidecar> = BTreeMap::new();
    for &number in order {
        let (member, zipped) = (&members[number], &zip.layers[number]);
        let below = match member.parent {
            Some(Parent::Member(parent)) => sidecars.get(&parent),
            Some(Parent::Here(guid)) => index.layer(guid).map(|layer| &layer.sidecar),
            None => None,
        };
        let (sidecar, said) = describe(index, zipped, below)?;
        let wanted = match name.filter(|_| top == Some(number)) {
            Some(name) => Names::Given(std::slice::from_ref(name)),
            None if zipped.is_keyless => Names::Given(&said),
            None => Names::Said(&said),
        };
        check_disks(index, members, &sidecar, &member.called)?;
        sidecars.insert(number, sidecar.clone());
        arriving.extend(arrive(index, member, sidecar, wanted, &mut names_taken)?);
    }
    name_once(&mut arriving, &mut names_taken);
    Ok(Arrivals { arriving, names_taken })
}

/// Refuses an image whose data disks are neither in the zip nor here.
fn check_disks(index: &Index, members: &[Member], sidecar: &Sidecar, called: &str) -> Result<()> {
    let is_known = |guid| members.iter().any(|it| it.guid == guid) || index.layer(guid).is_some();
    match sidecar.disks.iter().find(|disk| !is_known(disk.guid)) {
        None => Ok(()),
        Some(missing) => Err(Error::bad_input(format!(
            "the data disk {} of {called} is neither in the zip nor in the store: layer {}",
            missing.name, missing.guid
        ))
        .hint("export the image once more where it comes from: its zip holds all its disks")),
    }
}

/// Returns which layer a given name is for: the one image that no other of the zip stands on.
fn top_image(zip: &ZipReader, members: &[Member], name: Option<&Name>) -> Result<Option<usize>> {
    let Some(name) = name else { return Ok(None) };
    let is_image = |number: usize| match &zip.layers[number].sidecar {
        Some(said) => said.sidecar.image_id().is_some(),
        None => true,
    };
    let is_below = |number: usize| {
        members
            .iter()
            .any(|member| matches!(member.parent, Some(Parent::Member(it)) if it == number))
    };
    let tops: Vec<_> = (0..members.len()).filter(|n| is_image(*n) && !is_below(*n)).collect();
    match tops[..] {
        [top] => Ok(Some(top)),
        [] => {
            Err(Error::bad_input(format!("the zip holds no image to be called {}", name.short())))
        }
        _ => Err(Error::bad_input(format!(
            "the zip holds {} images side by side: which is to be called {}?",
            tops.len(),
            name.short()
        ))
        .hint("leave the name out: they keep theirs, and `ireko tag` gives others")),
    }
}

/// The names that an image of the zip is to have.
enum Names<'a> {
    /// These, or none: whoever imports it wants this one, or it has nothing else to be known by.
    Given(&'a [Name]),
    /// Those it had, or is called in the zip; as far as they are free.
    Said(&'a [Name]),
}

/// Returns a layer's sidecar, and the names the zip has for it. One of which nothing is said anywhere
/// is a machine image called as its file, or is what it stands on.
fn describe(
    index: &Index,
    zipped: &ZippedLayer,
    below: Option<&Sidecar>,
) -> Result<(Sidecar, Vec<Name>)> {
    if let Some(said) = &zipped.sidecar {
        return Ok((said.sidecar.clone(), said.names.clone()));
    }
    if let Some(here) = index.layer(zipped.guid) {
        return Ok((here.sidecar.clone(), Vec::new()));
    }
    let slug = names::parse_disk_file(&zipped.file).map_or("", |(slug, _)| slug);
    let config = below.and_then(Sidecar::config);
    let new = NewImage {
        config: config.map(|config| config.document().config.clone()).unwrap_or_default(),
        // Guessed when somebody makes a container of it.
        machine: None,
        generalized: false,
        container: None,
        name: None,
        comment: String::new(),
        author: String::new(),
        created_by: String::new(),
        created: zipped.time.unwrap_or_else(Timestamp::now),
    };
    let (guid, kind) = (zipped.guid, below.map_or(Kind::Machine, |below| below.kind));
    let config = compose(config.map(|config| config.document()), kind, guid, &new)?;
    let sidecar = Sidecar {
        guid,
        kind,
        name: slug.to_owned(),
        chain: None,
        role: Role::Image(config),
        disks: Vec::new(),
        steps: 1,
    };
    Ok((sidecar, Name::parse(slug).into_iter().collect()))
}

/// Says how a layer arrives; `None` for one that is here as it should be.
fn arrive(
    index: &Index,
    member: &Member,
    sidecar: Sidecar,
    wanted: Names<'_>,
    names_taken: &mut Vec<String>,
) -> Result<Option<Arriving>> {
    let former = index.layer(member.guid).map(|layer| layer.sidecar.clone());
    if member.is_new && former.is_some() {
        return Err(came_in_meanwhile(&member.file));
    }
    let mut names = Vec::new();
    if let Some(id) = sidecar.image_id() {
        let (wanted, is_given) = match wanted {
            Names::Given(names) => (names, true),
            Names::Said(names) => (names, false),
        };
        for name in wanted {
            match index.tags().get(name) {
                Some(holder) if *holder == id => {}
                Some(_) if is_given => return Err(taken(name)),
                Some(_) => names_taken.push(name.familiar()),
                None => names.push(name.to_string()),
            }
        }
    }
    let was_image = former.as_ref().is_some_and(|former| former.image_id().is_some());
    let becomes_image = sidecar.image_id().is_some() && !was_image;
    let arrival = Arrival { file: member.file.clone(), brings_disk: member.is_new, names };
    Ok(match former {
        None => Some(Arriving { arrival, sidecar, former: None }),
        Some(former) if becomes_image => Some(Arriving { arrival, sidecar, former: Some(former) }),
        Some(_) if arrival.names.is_empty() => None,
        Some(former) => Some(Arriving { arrival, sidecar: former.clone(), former: Some(former) }),
    })
}

/// Leaves each name to the first image that is to have it.
fn name_once(arriving: &mut [Arriving], names_taken: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for one in arriving {
        one.arrival.names.retain(|name| {
            let is_first = Name::parse(name).is_ok_and(|name| seen.insert(name));
            if !is_first {
                names_taken.push(name.clone());
            }
            is_first
        });
    }
}

/// Refuses two images of one id, and an id that another layer has here.
pub(super) fn check_ids(index: &Index, arriving: &[Arriving]) -> Result<()> {
    let mut seen: BTreeMap<ImageId, LayerGuid> = BTreeMap::new();
    for one in arriving {
        let guid = one.sidecar.guid;
        let Some(id) = one.sidecar.image_id() else { continue };
        let here = index.image(&id).ok().map(|image| image.layer.sidecar.guid);
        for other in here.into_iter().chain(seen.insert(id, guid)) {
            if other != guid {
                return Err(Error::conflict(format!(
                    "{} and layer {other} are images of one id, {}",
                    one.arrival.file,
                    id.short()
                )));
            }
        }
    }
    Ok(())
}
