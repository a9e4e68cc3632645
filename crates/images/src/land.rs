//! How a layer file that is ready becomes an image, and how that is taken back.
//!
//! Commit, import and adoption end here, in the running store and at recovery alike. Every step may
//! be repeated, so whoever finds a verb under way just takes the same road once more.
//!
//! ```text
//!   work/<file>.vhdx ─► images/<file>.vhdx      (the point of no return for recovery)
//!   work/image.json  ─► images/<file>.json
//!   tags.json gets the name
//!   work is struck out
//!
//!   taken back:  image.json ─► work/undone.json    (the point of no return back)
//!                work/layer.json ─► images/<file>.json      where the bytes must stay, or
//!                images/<file>.vhdx is removed              where they need not
//! ```

use crate::error::Result;
use crate::id::ImageId;
use crate::index::{Index, Layer};
use crate::journal::{IMAGE, LAYER, UNDONE, Work};
use crate::name::Name;
use crate::state::Sidecar;
use crate::store::Store;
use crate::{durable, layer_file, names};
use std::path::PathBuf;

impl Store {
    /// Puts a finished layer and its sidecar into place, and tags it.
    pub(crate) fn land(
        &self,
        index: &mut Index,
        work: &Work,
        file: &str,
        reference: Option<&Name>,
    ) -> Result<Option<ImageId>> {
        let image = self.put_in_place(index, work, file)?;
        if let (Some(id), Some(reference)) = (image, reference) {
            let mut tags = index.tags().clone();
            tags.insert(reference.clone(), id);
            self.set_tags(index, tags)?;
        }
        end_of_done(work);
        Ok(image)
    }

    /// Puts a finished layer and its sidecar into place, over what may be there under that name.
    pub(crate) fn put_in_place(
        &self,
        index: &mut Index,
        work: &Work,
        file: &str,
    ) -> Result<Option<ImageId>> {
        let (made, disk) = (work.path(file), self.image_path(file));
        if durable::exists(&made)? {
            durable::protect(&made)?;
            durable::rename(&made, &disk)?;
        } else {
            durable::protect(&disk)?;
        }
        if durable::exists(&work.path(IMAGE))? {
            durable::rename(&work.path(IMAGE), &self.sidecar_path(file))?;
        }
        let layer = self.load(file)?;
        let image = layer.sidecar.image_id();
        index.insert(layer);
        Ok(image)
    }

    /// Gives a file in `images/` its sidecar as a mere layer, which lies in `work` under its own name.
    pub(crate) fn put_layer_in_place(
        &self,
        index: &mut Index,
        work: &Work,
        file: &str,
    ) -> Result<()> {
        let prepared = work.path(&names::sidecar_file(file));
        durable::protect(&self.image_path(file))?;
        if durable::exists(&prepared)? {
            durable::rename(&prepared, &self.sidecar_path(file))?;
        }
        index.insert(self.load(file)?);
        Ok(())
    }

    /// Takes a landing back: the file becomes a mere layer if something stands on it, else it goes.
    pub(crate) fn take_back(&self, index: &mut Index, work: &Work, file: &str) -> Result<()> {
        let sidecar = self.sidecar_path(file);
        if !durable::exists(&work.path(UNDONE))? {
            let image = match durable::exists(&work.path(IMAGE))? {
                true => work.path(IMAGE),
                false => sidecar.clone(),
            };
            if durable::exists(&image)? {
                durable::rename(&image, &work.path(UNDONE))?;
            }
        }
        if durable::exists(&work.path(LAYER))? {
            durable::rename(&work.path(LAYER), &sidecar)?;
        }
        if durable::exists(&sidecar)? {
            index.insert(self.load(file)?);
        } else {
            durable::remove_file(&self.image_path(file))?;
            if let Some(layer) = index.by_file(file) {
                let guid = layer.sidecar.guid;
                index.forget(guid);
            }
        }
        work.end()
    }

    /// Reads a layer file's sidecar and, as far as it can be read, the file.
    pub(crate) fn load(&self, file: &str) -> Result<Layer> {
        let sidecar = Sidecar::read(&self.sidecar_path(file))?;
        let disk = layer_file::facts(&self.image_path(file))
            .map_err(|error| crate::error::chain(&error).to_string());
        Ok(Layer { file: file.to_owned(), sidecar, disk })
    }

    pub(crate) fn sidecar_path(&self, file: &str) -> PathBuf {
        self.image_path(&names::sidecar_file(file))
    }
}

/// Strikes out a verb that is done.
pub(crate) fn end_of_done(work: &Work) {
    if let Err(error) = work.end() {
        // The next start will merely do it once more.
        tracing::warn!(error = %crate::error::chain(&error), "a journal entry stays");
    }
}
