//! Folding: layers in a row that are nobody's become one file.
//!
//! ```text
//!   base ◄─ x ◄─ y ◄─ z ◄─┬─ c1        x, y and z were images once
//!                         └─ web
//!   base ◄─ z ◄─┬─ c1                  z = x + y + z, in z's file
//!               └─ web
//! ```
//! As in a merge that deletes its sources, the folded file has the bytes and the DataWriteGuid of the
//! uppermost and takes its name by a rename: who stands on that finds it as before, also a VM that has
//! the old files open. The others are not removed here. What nobody stands on any more is swept, and
//! whether that is so is read from the disks. See docs/decisions/0007.

mod rows;

use crate::collect::sweep;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LayerGuid;
use crate::import::end;
use crate::index::{Index, Pin};
use crate::journal::{Prepared, Work};
use crate::land::end_of_done;
use crate::merge::{Identity, Stretch};
use crate::state::{Intent, Role, Sidecar};
use crate::store::Store;
use crate::{copy, durable, names};
use ireko_disk::Watch;
use rows::{Row, rows};
use std::sync::{PoisonError, TryLockError};

/// How much is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldExtent {
    /// Every row, to one file each.
    Whole,
    /// Of long rows, what can be had by copying little more than the smaller files hold. Nothing in a
    /// root that another program laid out: its owner has to ask.
    Worthwhile,
}

/// A row of layers that is to become one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The base name that the file has.
    pub file: String,
    /// The base names of all that go into it, uppermost first; `file` is the first.
    pub layers: Vec<String>,
    /// Bytes that they take on the host: no more are copied.
    pub bytes: u64,
}

/// What a folding did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// The rows that are one file now.
    pub folds: Vec<Fold>,
    /// Rows that stay, each with the reason, for people.
    pub kept: Vec<String>,
    /// Bytes that are free now. A VM that has an old file open keeps its bytes until it ends.
    pub freed: u64,
}

impl Store {
    /// Tells what [`Store::fold`] would do now; changes nothing.
    pub fn foldable(&self, extent: FoldExtent) -> Result<Vec<Fold>> {
        Ok(self.rows(extent)?.iter().map(Row::fold).collect())
    }

    /// Folds layers, durably; progress counts bytes.
    ///
    /// Each row is folded whole or not at all: what was done before a failure, or before it was
    /// cancelled, stays done. Fails with [`ErrorKind::Conflict`] while another call is at it, and with
    /// [`ErrorKind::NoSpace`] where there is no room for the folded file beside the old ones.
    pub fn fold(&self, extent: FoldExtent, watch: &dyn Watch) -> Result<Folded> {
        let _alone = match self.folding.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::conflict("layers are being folded already")
                    .hint("try again when that has ended"));
            }
        };
        let mut folded = Folded::default();
        let mut left: Vec<LayerGuid> = Vec::new();
        let mut done = 0;
        // What was folded may be worth to be folded again with its neighbours.
        loop {
            let mut rows = self.rows(extent)?;
            rows.retain(|row| !left.contains(&row.layers[0]));
            let total = rows.iter().fold(done, |sum: u64, row| sum.saturating_add(row.bytes));
            let Some(row) = rows.first() else { return Ok(folded) };
            match self.fold_row(row, &Part { done, total, watch }) {
                Ok(freed) => {
                    folded.freed = folded.freed.saturating_add(freed);
                    folded.folds.push(row.fold());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::InUse) => {
                    left.push(row.layers[0]);
                    folded.kept.push(format!("{}: {}", row.files[0], crate::error::chain(&error)));
                }
                Err(error) => return Err(error),
            }
            done = done.saturating_add(row.bytes);
        }
    }

    fn rows(&self, extent: FoldExtent) -> Result<Vec<Row>> {
        if extent == FoldExtent::Worthwhile && !self.places.is_ours() {
            return Ok(Vec::new());
        }
        rows(self, &self.index(), extent)
    }

    /// Folds a row and returns how many bytes are free now.
    fn fold_row(&self, row: &Row, watch: &dyn Watch) -> Result<u64> {
        let (stretch, pin) = self.plan_fold(row)?;
        let (guid, top) = (LayerGuid::random(), &row.files[0]);
        copy::check_room(&self.image_path(top), row.bytes)
            .map_err(|error| error.within(format!("fold {} layers into {top}", row.files.len())))?;
        let made = names::disk_file("fold", guid);
        let intent = Intent::Arrive { file: made.clone(), reference: None };
        let work = self.journal.begin(guid, &intent, Prepared::default())?;
        self.write_merged(&stretch, Identity::OfTheUppermost, &work.path(&made), watch)
            .inspect_err(|_| end(&work))?;
        let mut index = self.index();
        let before = bytes(&index);
        self.prepare_fold(&index, row, pin, &work, &made).inspect_err(|_| end(&work))?;
        // From here on only renames follow: a failure is left to the next start, which finishes.
        self.put_in_place(&mut index, &work, top)?;
        end_of_done(&work);
        sweep(self, &mut index);
        tracing::info!(file = top, layers = row.files.len(), "folded layers that were nobody's");
        Ok(before.saturating_sub(bytes(&index)))
    }

    fn plan_fold(&self, row: &Row) -> Result<(Stretch, Pin)> {
        let mut index = self.index();
        refuse_changed(&index, row)?;
        let lineage = index.lineage(&row.files[0])?;
        let stretch = Stretch {
            chain: lineage.iter().map(|layer| self.image_path(&layer.file)).collect(),
            files: row.files.len(),
            parent: row.parent.clone(),
        };
        let pin = index.pin(row.layers[0]);
        Ok((stretch, pin))
    }

    /// Looks once more whether it may be done, and records it: from then on it is. Lets go of `own` while
    /// the index is still locked: of two verbs that refuse each other one has its way.
    fn prepare_fold(
        &self,
        index: &Index,
        row: &Row,
        own: Pin,
        work: &Work,
        made: &str,
    ) -> Result<()> {
        refuse_changed(index, row)?;
        index.refuse_read(row.layers[0], &own)?;
        let layers: Vec<_> = row.layers.iter().filter_map(|guid| index.layer(*guid)).collect();
        let Some(top) = layers.first() else { return Err(changed(row)) };
        // Images that are committed above continue the history of the nearest that has one.
        let former = layers.iter().find_map(|layer| layer.sidecar.config().cloned());
        let steps = layers.iter().fold(0_u32, |sum, one| sum.saturating_add(one.sidecar.steps));
        let sidecar = Sidecar { role: Role::Layer(former), steps, ..top.sidecar.clone() };
        durable::rename(&work.path(made), &work.path(&top.file))?;
        work.complete(&Intent::Fold { file: top.file.clone() }, &sidecar)
    }

    /// Does what [`Intent::Fold`] says, or the rest of it, and strikes it out.
    pub(crate) fn settle_fold(&self, index: &mut Index, work: &Work, file: &str) -> Result<()> {
        self.put_in_place(index, work, file)?;
        work.end()
    }
}

impl Row {
    fn fold(&self) -> Fold {
        let (file, layers) = (self.files[0].clone(), self.files.clone());
        Fold { file, layers, bytes: self.bytes }
    }
}

fn refuse_changed(index: &Index, row: &Row) -> Result<()> {
    if row.is_current(index) { Ok(()) } else { Err(changed(row)) }
}

fn changed(row: &Row) -> Error {
    Error::conflict(format!("{} is used otherwise by now", row.files[0]))
}

fn bytes(index: &Index) -> u64 {
    let facts = index.layers().filter_map(|layer| layer.disk.as_ref().ok());
    facts.map(|facts| facts.allocated).sum()
}

/// One fold of several, to whoever watches all of them.
struct Part<'a> {
    done: u64,
    total: u64,
    watch: &'a dyn Watch,
}

impl Watch for Part<'_> {
    fn advanced(&self, current: u64, _: u64) {
        self.watch.advanced(self.done.saturating_add(current).min(self.total), self.total);
    }

    fn cancelled(&self) -> bool {
        self.watch.cancelled()
    }
}
