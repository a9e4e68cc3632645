//! What images and containers take on the host: alone, together, and what could be freed.
//!
//! ```text
//!   app-root ◄─ base ◄─ web ◄─ c1        web alone: its file, if no other image and no disk needs it
//!                  └──◄─ api             shared: app-root and base, which api needs too
//! ```
//! Each file is counted by who needs it: images, by their chains, and containers, by their disks'.

use crate::error::Result;
use crate::id::LayerGuid;
use crate::index::{Index, Layer};
use crate::layer_file;
use crate::store::{ImageInfo, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a store takes on its file system.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Every image, in the order of their keys.
    pub images: Vec<ImageUsage>,
    /// The disks that were asked about, in that order.
    pub disks: Vec<DiskUsage>,
    /// Bytes of all files in `images/`.
    pub layer_bytes: u64,
    /// Bytes of files in `images/` that images need, but no container.
    pub unused_image_bytes: u64,
    /// Bytes of files in `images/` that neither needs.
    pub garbage_bytes: u64,
}

/// What an image takes.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image; of its bytes in all,
    pub image: ImageInfo,
    /// … those that other images need too,
    pub shared_bytes: u64,
    /// … and those that only it needs: they are free when it is removed.
    pub reclaimable_bytes: u64,
}

/// What a container's disk takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of its files in the container's folder.
    pub own_bytes: u64,
    /// Bytes of layers that were part of an image once, and that only it needs.
    pub layer_bytes: u64,
}

/// Who needs a file.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    images: usize,
    disks: usize,
}

impl Store {
    /// Tells what images, and these disks of containers, take.
    pub fn usage(&self, disks: &[PathBuf]) -> Result<Usage> {
        let chains: Vec<_> = disks.iter().map(|disk| self.chain(disk)).collect();
        let index = self.index();
        let mut needs: BTreeMap<LayerGuid, Needs> = BTreeMap::new();
        for image in index.images() {
            for guid in files_of(&index, image.layer) {
                needs.entry(guid).or_default().images += 1;
            }
        }
        // A disk that cannot be read needs what it needs; that is not known here.
        let layers: Vec<Vec<_>> =
            chains.iter().flatten().map(|chain| of_chain(&index, chain)).collect();
        for guid in layers.iter().flatten() {
            needs.entry(*guid).or_default().disks += 1;
        }
        let sum = |wanted: &dyn Fn(Needs) -> bool| -> u64 {
            let files = index.layers().filter(|layer| {
                wanted(needs.get(&layer.sidecar.guid).copied().unwrap_or_default())
            });
            files.map(|layer| bytes(&index, layer.sidecar.guid)).sum()
        };
        let of = |guids: &[LayerGuid], wanted: &dyn Fn(Needs) -> bool| -> u64 {
            let wanted =
                guids.iter().filter(|guid| wanted(needs.get(guid).copied().unwrap_or_default()));
            wanted.map(|guid| bytes(&index, *guid)).sum()
        };
        let images = index
            .images()
            .map(|image| {
                let chain = files_of(&index, image.layer);
                ImageUsage {
                    shared_bytes: of(&chain, &|needs| needs.images > 1),
                    reclaimable_bytes: of(&chain, &|needs| needs.images == 1 && needs.disks == 0),
                    image: self.info(&index, image),
                }
            })
            .collect();
        let disks = disks
            .iter()
            .zip(&chains)
            .map(|(disk, chain)| {
                let alone = std::slice::from_ref(disk);
                let files = chain.as_deref().unwrap_or(alone);
                let own = files.iter().filter(|file| file.parent() == disk.parent());
                let layers = of_chain(&index, files);
                DiskUsage {
                    own_bytes: own.map(|file| layer_file::allocated(file)).sum(),
                    layer_bytes: of(&layers, &|needs| needs.images == 0 && needs.disks == 1),
                }
            })
            .collect();
        Ok(Usage {
            images,
            disks,
            layer_bytes: sum(&|_| true),
            unused_image_bytes: sum(&|needs| needs.images > 0 && needs.disks == 0),
            garbage_bytes: sum(&|needs| needs.images == 0 && needs.disks == 0),
        })
    }
}

/// Lists the keys of an image's files; none of one that is damaged.
fn files_of(index: &Index, image: &Layer) -> Vec<LayerGuid> {
    let files = index.files_of_image(image).unwrap_or_default();
    files.iter().map(|layer| layer.sidecar.guid).collect()
}

fn of_chain(index: &Index, chain: &[PathBuf]) -> Vec<LayerGuid> {
    let name = |path: &Path| index.by_file(path.file_name()?.to_str()?).map(|one| one.sidecar.guid);
    chain.iter().skip(1).filter_map(|path| name(path)).collect()
}

fn bytes(index: &Index, guid: LayerGuid) -> u64 {
    let facts = index.layer(guid).and_then(|layer| layer.disk.as_ref().ok());
    facts.map_or(0, |facts| facts.allocated)
}
