//! Taking in files of the machine-wide cache, and giving files to it.
//!
//! In the cache a file has a plain name and, beside it, the sidecar it has in `images/`. The common
//! root of app images has none: it is known by its DataWriteGuid, which set-up gave it at random.
//! Key and file name are the same in every root, so a child made in one root is one in all.
//!
//! ```text
//!   <cache>/base/root.vhdx                 ──► images/app-root_<guid>.vhdx   a layer
//!   <cache>/base/base.vhdx, base.json      ──► images/base_<guid>.vhdx       an image
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ImageId, LayerGuid};
use crate::import::end;
use crate::index::Pin;
use crate::journal::Prepared;
use crate::name::Name;
use crate::state::{Intent, Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::{copy, durable, layer_file, names};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// What the common root of app images is called in `images/`.
const COMMON_ROOT: &str = "app-root";

impl Store {
    /// Takes an image in from the cache and names it; copies what is not here yet.
    ///
    /// `files` are its disk files, base first, the image last. Each but the common root has its
    /// sidecar (`.json`) beside it. The chain is verified before anything is published; what does
    /// not fit together is [`ErrorKind::Corrupt`], and the cure is to set the cache up again.
    pub fn adopt(&self, files: &[PathBuf], name: &Name) -> Result<ImageInfo> {
        let (image, layers) = files
            .split_last()
            .ok_or_else(|| Error::bad_input("no files to adopt an image from"))?;
        let mut pins = Vec::new();
        for layer in layers {
            pins.push(self.bring_layer(layer)?);
        }
        let sidecar = Sidecar::read(&image.with_extension("json"))?;
        let id = sidecar.image_id().ok_or_else(|| {
            Error::corrupt(format!("{} is a layer, not an image", image.display()))
        })?;
        self.bring(image, &sidecar, Some(name))?;
        self.tag(&id, name)?;
        let index = self.index();
        Ok(self.info(&index, index.image(&id)?))
    }

    /// Writes a copy of an image's own file, and its sidecar beside it, for [`Store::adopt`].
    ///
    /// `disk` is the copy's path; its sidecar comes last, so a copy without one is no copy yet.
    pub fn copy_out(&self, image: &ImageId, disk: &Path) -> Result<()> {
        let (source, sidecar, _pin) = {
            let mut index = self.index();
            let layer = index.image(image)?.layer.clone();
            let pin = index.pin(layer.sidecar.guid);
            (self.image_path(&layer.file), layer.sidecar, pin)
        };
        let beside = disk.with_extension("json");
        durable::remove_file(&beside)?;
        let aside = durable::aside(disk)?;
        durable::discard(&aside);
        copy::copy(&source, &aside)
            .and_then(|()| durable::rename(&aside, disk))
            .inspect_err(|_| durable::discard(&aside))?;
        durable::replace(&beside, &sidecar.to_json())
    }

    /// Takes a file in as a layer, unless it is here; pins it.
    pub(crate) fn bring_layer(&self, file: &Path) -> Result<(LayerGuid, Pin)> {
        let beside = file.with_extension("json");
        let sidecar = match durable::exists(&beside)? {
            true => Sidecar::read(&beside)?.as_layer(),
            false => common_root(file)?,
        };
        Ok((sidecar.guid, self.bring(file, &sidecar, None)?))
    }

    /// Takes a file in as its sidecar says. One that is here as a layer becomes the image again.
    fn bring(&self, source: &Path, sidecar: &Sidecar, reference: Option<&Name>) -> Result<Pin> {
        let _one_at_a_time = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        let guid = sidecar.guid;
        let mut index = self.index();
        let here = index.layer(guid).cloned();
        if let Some(here) = &here
            && (sidecar.image_id().is_none() || here.sidecar.image_id().is_some())
        {
            return Ok(index.pin(guid));
        }
        drop(index);

        let file = match &here {
            Some(here) => here.file.clone(),
            None => names::disk_file(&sidecar.name, guid),
        };
        let intent =
            Intent::Arrive { file: file.clone(), reference: reference.map(Name::to_string) };
        let layer = here.as_ref().map(|here| &here.sidecar);
        let work = self.journal.begin(guid, &intent, Prepared { image: Some(sidecar), layer })?;
        if here.is_none() {
            self.copy_in(source, &work.path(&file)).inspect_err(|_| end(&work))?;
        }
        let mut index = self.index();
        if let Err(error) = self.land(&mut index, &work, &file, reference) {
            if let Err(second) = self.take_back(&mut index, &work, &file) {
                tracing::warn!(error = %crate::error::chain(&second), "left to the next start");
            }
            return Err(error);
        }
        Ok(index.pin(guid))
    }

    fn copy_in(&self, source: &Path, work: &Path) -> Result<()> {
        copy::copy(source, work)?;
        self.chain(work).and_then(|chain| layer_file::verify(&chain)).map_err(|error| {
            match error.kind() {
                ErrorKind::Corrupt => error.hint(format!(
                    "{} does not fit the other files of the cache: set the cache up again",
                    source.display()
                )),
                _ => error,
            }
        })
    }
}

/// Makes up the sidecar of the common root of app images.
fn common_root(file: &Path) -> Result<Sidecar> {
    let info = layer_file::info(file)?;
    if info.parent.is_some() {
        return Err(Error::corrupt(format!("{} has a parent but no .json", file.display())));
    }
    Ok(Sidecar {
        guid: info.data_write_guid.into(),
        kind: Kind::App,
        name: COMMON_ROOT.to_owned(),
        chain: None,
        role: Role::Layer(None),
        disks: Vec::new(),
        steps: 1,
    })
}
