//! The tree as people see it: images, each under the image it stands on.
//!
//! Layers between are left out. Containers are added by the engine, which asks
//! [`Store::parent_of`] for the image a container's disk stands on.

use crate::error::Result;
use crate::id::{ImageId, LayerGuid};
use crate::leaf_facts::Leaf;
use crate::parallel;
use crate::store::{ImageInfo, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All images, and how they stand on each other.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The images that stand on no other, oldest first.
    pub roots: Vec<ImageId>,
    /// Every image.
    pub nodes: BTreeMap<ImageId, TreeNode>,
}

/// One image in the tree.
#[derive(Clone, Debug)]
pub struct TreeNode {
    /// The image; [`ImageInfo::parent_image`] leads up.
    pub image: ImageInfo,
    /// The images right above it, oldest first.
    pub children: Vec<ImageId>,
}

/// What a container's disk stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentOf {
    /// The nearest layer of the tree below.
    pub layer: LayerGuid,
    /// The nearest image below: that layer, or one it stands on.
    pub image: Option<ImageId>,
    /// The file it stands on, which may be none of the tree.
    pub file: PathBuf,
    /// How many files the disk is made of, itself included.
    pub depth: usize,
    /// Bytes the disk's own file takes on the host.
    pub own_bytes: u64,
}

impl Store {
    /// Returns the tree of all images.
    pub fn tree(&self) -> Tree {
        let mut images = self.list();
        images.sort_by_key(|image| (image.created, image.id));
        let mut roots = Vec::new();
        let mut children: BTreeMap<ImageId, Vec<ImageId>> = BTreeMap::new();
        for image in &images {
            match image.parent_image {
                Some(parent) => children.entry(parent).or_default().push(image.id),
                None => roots.push(image.id),
            }
        }
        let nodes = images
            .into_iter()
            .map(|image| {
                let children = children.remove(&image.id).unwrap_or_default();
                (image.id, TreeNode { image, children })
            })
            .collect();
        Tree { roots, nodes }
    }

    /// Tells of several containers' disks what they stand on, in their order.
    pub fn parents_of(&self, leaves: &[PathBuf]) -> Vec<Result<Option<ParentOf>>> {
        parallel::map(leaves, |leaf| self.parent_of(leaf))
    }

    /// Tells what a container's disk stands on; `None` for a disk that stands on nothing.
    pub fn parent_of(&self, leaf: &Path) -> Result<Option<ParentOf>> {
        let Leaf { parent, allocated } = self.leaves.of(leaf)?;
        let index = self.index();
        if let Some(layer) = parent.as_deref().and_then(|name| index.by_file(name)) {
            return Ok(Some(ParentOf {
                file: self.image_path(&layer.file),
                layer: layer.sidecar.guid,
                image: index.nearest_image(&layer.file).map(|image| image.id),
                depth: 1 + index.lineage(&layer.file)?.len(),
                own_bytes: allocated,
            }));
        }
        let chain = self.chain_over(&index, leaf, parent)?;
        // A file between freezing and publishing is passed over: the tree ends below it.
        let parent = chain
            .iter()
            .skip(1)
            .filter_map(|path| path.file_name()?.to_str())
            .find_map(|file| index.by_file(file));
        let file = chain.get(1).cloned();
        Ok(parent.zip(file).map(|(parent, file)| ParentOf {
            file,
            layer: parent.sidecar.guid,
            image: index.nearest_image(&parent.file).map(|image| image.id),
            depth: chain.len(),
            own_bytes: allocated,
        }))
    }
}
