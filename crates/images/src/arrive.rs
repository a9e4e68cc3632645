//! How several layers come into `images/` in one verb: all of them or none.
//!
//! ```text
//!   work/<file>.vhdx, <file>.json   made and synced; `ready` beside them; then the entry names them all
//!   one after another, base first:
//!     work/<file>.vhdx ─► images/<file>.vhdx       where it is not here yet
//!     work/<file>.json ─► images/<file>.json
//!   tags.json gets the names; work is struck out
//!
//!   taken back:  work/ready ─► work/undone.json (the point of no return back), then, base last:
//!                both files removed, or work/<file>.was.json ─► images/<file>.json
//! ```
//!
//! Once the entry names the files a crash goes forward: nothing but renames is left, and the names.

use crate::error::Result;
use crate::index::Index;
use crate::journal::{UNDONE, Work};
use crate::land::end_of_done;
use crate::name::Name;
use crate::state::{Arrival, Intent, Sidecar};
use crate::store::Store;
use crate::{durable, names};
use std::path::PathBuf;

/// Becomes [`UNDONE`], which takes no space then.
const READY: &str = "ready";

/// A layer that is to arrive. Its disk file, where it brings one, lies in the work's folder.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub arrival: Arrival,
    pub sidecar: Sidecar,
    /// The sidecar it has here, where its disk file is here already.
    pub former: Option<Sidecar>,
}

impl Arriving {
    /// A layer whose disk file comes with it.
    pub(crate) fn new(file: String, names: Vec<String>, sidecar: Sidecar) -> Arriving {
        let arrival = Arrival { file, brings_disk: true, names };
        Arriving { arrival, sidecar, former: None }
    }
}

/// Writes the sidecars and says what the verb now is: from here on a crash goes forward.
pub(crate) fn complete(work: &Work, arriving: &[Arriving]) -> Result<()> {
    for one in arriving {
        let file = &one.arrival.file;
        durable::write_new(&work.path(&names::sidecar_file(file)), &one.sidecar.to_json())?;
        if let Some(former) = &one.former {
            durable::write_new(&former_path(work, file), &former.to_json())?;
        }
    }
    durable::write_new(&work.path(READY), b"")?;
    durable::sync_folder(work.folder())?;
    let arrivals = arriving.iter().map(|one| one.arrival.clone()).collect();
    work.restate(&Intent::ArriveAll { arrivals })
}

impl Store {
    /// Puts all layers into place, or none: where that fails it is taken back.
    pub(crate) fn bring_all(
        &self,
        index: &mut Index,
        work: &Work,
        arriving: &[Arriving],
    ) -> Result<()> {
        let arrivals: Vec<_> = arriving.iter().map(|one| one.arrival.clone()).collect();
        self.land_all(index, work, &arrivals).inspect_err(|_| {
            if let Err(second) = self.take_back_all(index, work, &arrivals) {
                tracing::warn!(error = %crate::error::chain(&second), "left to the next start");
            }
        })
    }

    /// Puts all layers into place, base first, and names them. Repeated at recovery.
    pub(crate) fn land_all(
        &self,
        index: &mut Index,
        work: &Work,
        arrivals: &[Arrival],
    ) -> Result<()> {
        for Arrival { file, brings_disk, .. } in arrivals {
            let (made, disk) = (work.path(file), self.image_path(file));
            if *brings_disk && durable::exists(&made)? {
                durable::protect(&made)?;
                durable::rename(&made, &disk)?;
            }
            let sidecar = work.path(&names::sidecar_file(file));
            if durable::exists(&sidecar)? {
                durable::rename(&sidecar, &self.sidecar_path(file))?;
            }
        }
        let mut tags = index.tags().clone();
        for Arrival { file, names, .. } in arrivals {
            let layer = self.load(file)?;
            let image = layer.sidecar.image_id();
            index.insert(layer);
            for name in names.iter().filter(|_| image.is_some()) {
                tags.extend(image.map(|id| Ok((Name::parse(name)?, id))).transpose()?);
            }
        }
        self.set_tags(index, tags)?;
        end_of_done(work);
        Ok(())
    }

    /// Takes a landing back, wherever it stopped. Repeated at recovery.
    pub(crate) fn take_back_all(
        &self,
        index: &mut Index,
        work: &Work,
        arrivals: &[Arrival],
    ) -> Result<()> {
        if durable::exists(&work.path(READY))? {
            durable::rename(&work.path(READY), &work.path(UNDONE))?;
        }
        for Arrival { file, brings_disk, .. } in arrivals.iter().rev() {
            let (former, sidecar) = (former_path(work, file), self.sidecar_path(file));
            if *brings_disk {
                let guid = index.by_file(file).map(|layer| layer.sidecar.guid);
                durable::remove_file(&sidecar)?;
                durable::remove_file(&self.image_path(file))?;
                if let Some(guid) = guid {
                    index.forget(guid);
                }
            } else {
                if durable::exists(&former)? {
                    durable::rename(&former, &sidecar)?;
                }
                index.insert(self.load(file)?);
            }
        }
        work.end()
    }
}

/// Tells whether a landing is being taken back.
pub(crate) fn is_undone(work: &Work) -> Result<bool> {
    durable::exists(&work.path(UNDONE))
}

fn former_path(work: &Work, file: &str) -> PathBuf {
    work.path(&names::sidecar_file(file)).with_extension("was.json")
}
