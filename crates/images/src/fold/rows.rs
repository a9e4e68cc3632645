//! Which layers are folded: rows of them that are nobody's.

use super::FoldExtent;
use crate::collect::container_disks;
use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::index::{Index, Layer};
use crate::merge::is_common_root;
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A row shorter than this is left alone unless somebody asks.
const LONG: usize = 8;
/// What is copied is at most one more than so many times what the smaller files hold.
const WORTH: u64 = 4;

/// Layers that are to be one, uppermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub layers: Vec<LayerGuid>,
    /// Their base names.
    pub files: Vec<String>,
    /// What the lowest stands on.
    pub parent: Option<String>,
    /// What they take on the host together.
    pub bytes: u64,
}

/// Lists the rows that are to be folded, the smallest first.
///
/// Fails with [`crate::ErrorKind::Conflict`] while a file cannot be read: it may stand on anything.
pub(super) fn rows(store: &Store, index: &Index, extent: FoldExtent) -> Result<Vec<Row>> {
    let least = match extent {
        FoldExtent::Whole => 2,
        FoldExtent::Worthwhile => LONG,
    };
    // Who stands on what in the tree is known; containers' disks have to be looked at.
    let mut readers = of_layers(index);
    if !in_rows(index, &readers).iter().any(|row| row.len() >= least) {
        return Ok(Vec::new());
    }
    refuse_unreadable(index)?;
    for disk in container_disks(&store.places.containers)? {
        let parent = store.leaves.of(&disk)?.parent;
        if let Some(layer) = parent.and_then(|parent| index.by_file(&parent)) {
            readers.entry(layer.sidecar.guid).or_default().push(None);
        }
    }
    let mut rows: Vec<_> = in_rows(index, &readers)
        .iter()
        .filter(|row| row.len() >= least)
        .filter_map(|row| match extent {
            FoldExtent::Whole => Some(&row[..]),
            FoldExtent::Worthwhile => {
                let sizes: Vec<_> = row.iter().map(|layer| allocated(layer)).collect();
                Some(&row[stretch(&sizes)?])
            }
        })
        .map(Row::of)
        .collect();
    rows.sort_by_key(|row| row.bytes);
    Ok(rows)
}

impl Row {
    fn of(layers: &[&Layer]) -> Row {
        let lowest = layers.last().and_then(|layer| layer.disk.as_ref().ok());
        Row {
            layers: layers.iter().map(|layer| layer.sidecar.guid).collect(),
            files: layers.iter().map(|layer| layer.file.clone()).collect(),
            parent: lowest.and_then(|facts| facts.parent.clone()),
            bytes: layers.iter().map(|layer| allocated(layer)).sum(),
        }
    }

    /// Tells whether all is still as it was found.
    pub(super) fn is_current(&self, index: &Index) -> bool {
        let layers: Option<Vec<_>> = self.layers.iter().map(|guid| index.layer(*guid)).collect();
        let of_images = data_layers(index);
        layers.is_some_and(|layers| {
            let stand_on_each_other =
                layers.windows(2).all(|pair| parent(index, pair[0]) == Some(pair[1].sidecar.guid));
            let nobodys = layers.iter().all(|layer| is_nobodys(layer, &of_images));
            nobodys && stand_on_each_other && Row::of(&layers).parent == self.parent
        })
    }
}

/// Who stands on a layer: another layer, or `None` for a container's disk.
type Readers = BTreeMap<LayerGuid, Vec<Option<LayerGuid>>>;

fn of_layers(index: &Index) -> Readers {
    let mut readers = Readers::new();
    for layer in index.layers() {
        if let Some(parent) = parent(index, layer) {
            readers.entry(parent).or_default().push(Some(layer.sidecar.guid));
        }
    }
    readers
}

/// Lists the rows there are, each uppermost first; single layers too.
fn in_rows<'a>(index: &'a Index, readers: &Readers) -> Vec<Vec<&'a Layer>> {
    let of_images = data_layers(index);
    let nobodys = |layer: &Layer| is_nobodys(layer, &of_images);
    // The one that stands on it, where only one does and that is nobody's as well.
    let above = |layer: &Layer| match readers.get(&layer.sidecar.guid)?.as_slice() {
        [Some(only)] => index.layer(*only).filter(|only| nobodys(only)),
        _ => None,
    };
    let tops = index.layers().filter(|layer| nobodys(layer) && above(layer).is_none());
    tops.map(|top| {
        let mut row = vec![top];
        // From a top no way leads round in a circle: each has but one above it.
        while let Some(below) = row.last().and_then(|lowest| parent(index, lowest))
            && let Some(below) = index.layer(below).filter(|below| nobodys(below))
            && above(below).is_some()
        {
            row.push(below);
        }
        row
    })
    .collect()
}

/// Tells a layer that is only there because something stands on it. The layers of images that were
/// loaded are kept for others that have the same, and so is the common root of app images.
fn is_nobodys(layer: &Layer, of_images: &BTreeSet<LayerGuid>) -> bool {
    let Ok(facts) = &layer.disk else { return false };
    let shared = layer.sidecar.chain.is_some() || (facts.parent.is_none() && is_common_root(layer));
    !shared && layer.as_image().is_none() && !of_images.contains(&layer.sidecar.guid)
}

/// Lists the topmost layers of images' data disks.
fn data_layers(index: &Index) -> BTreeSet<LayerGuid> {
    index.images().flat_map(|image| &image.layer.sidecar.disks).map(|disk| disk.guid).collect()
}

fn parent(index: &Index, layer: &Layer) -> Option<LayerGuid> {
    let parent = layer.disk.as_ref().ok()?.parent.as_deref()?;
    Some(index.by_file(parent)?.sidecar.guid)
}

fn allocated(layer: &Layer) -> u64 {
    layer.disk.as_ref().map_or(0, |facts| facts.allocated)
}

fn refuse_unreadable(index: &Index) -> Result<()> {
    let unreadable =
        index.layers().find_map(|layer| Some((&layer.file, layer.disk.as_ref().err()?)));
    match index.damaged.iter().next().or(unreadable) {
        None => Ok(()),
        Some((file, reason)) => Err(Error::conflict(format!(
            "nothing is folded while images/{file} cannot be read: {reason}"
        ))
        .hint("repair that file, or move it away")),
    }
}

/// Finds the longest stretch of neighbours, the upper one of two, that is worth to be copied: its
/// largest file is no more than [`WORTH`] times as large as its others together.
fn stretch(sizes: &[u64]) -> Option<Range<usize>> {
    let mut longest: Option<Range<usize>> = None;
    for from in 0..sizes.len() {
        let (mut sum, mut largest) = (0_u64, 0_u64);
        for (to, size) in sizes.iter().enumerate().skip(from) {
            sum = sum.saturating_add(*size);
            largest = largest.max(*size);
            let is_worth = to > from && largest <= (sum - largest).saturating_mul(WORTH);
            if is_worth && longest.as_ref().is_none_or(|found| to - from >= found.len()) {
                longest = Some(from..to + 1);
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: &[u64], expected: Option<Range<usize>>) {
        assert_eq!(stretch(sizes), expected, "{sizes:?}");
    }

    #[test]
    fn a_large_file_is_copied_only_with_as_much_as_makes_it_worth() {
        check(&[], None);
        check(&[1], None);
        check(&[1, 1, 1], Some(0..3));
        check(&[1, 4], Some(0..2));
        check(&[1, 5], None);
        check(&[5, 1], None);
        check(&[1, 1, 1, 100], Some(0..3));
        check(&[100, 1, 1, 1], Some(1..4));
        check(&[1, 1, 100, 1, 1, 1], Some(3..6));
        check(&[1, 1, 100, 1, 1], Some(0..2));
        check(&[20, 1, 1, 1, 1, 1, 101], Some(0..6));
        check(&[u64::MAX, u64::MAX], None);
    }

    /// However a row grows, what is left of it is short, and no byte is copied often.
    #[test]
    fn a_row_that_grows_for_ever_stays_short_and_is_copied_seldom() {
        for sizes in [[1, 1, 1, 1], [1, 50, 1, 7], [1000, 1, 1, 300]] {
            let (mut row, mut written, mut copied) = (Vec::<u64>::new(), 0, 0);
            let mut deepest = 0;
            for commit in 0..4000 {
                let size = sizes[commit % sizes.len()];
                row.insert(0, size);
                written += size;
                while row.len() >= LONG {
                    let Some(stretch) = stretch(&row) else { break };
                    let sum = row[stretch.clone()].iter().sum();
                    copied += sum;
                    row.splice(stretch, [sum]);
                }
                deepest = deepest.max(row.len());
            }
            assert!(deepest < 16, "{sizes:?}: {deepest} files");
            assert!(copied < written * 16, "{sizes:?}: {copied} of {written}");
        }
    }
}
