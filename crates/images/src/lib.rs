//! The store: the tree of images and every verb on it.
//!
//! Plain files under one root, written by one process. Every change is whole and durable when its
//! call returns; one that is killed half way is finished or undone by the next [`Store::open`].
//! Moving bytes within disks is left to `ireko-disk`, running anything to the engine.
//!
//! ```text
//!   <root>/images/<slug>_<guid>.vhdx   a layer: bytes that never change, over a parent
//!                 <slug>_<guid>.json   its sidecar: an image with a configuration, or a mere layer
//!          tags.json                   names of images
//!          containers/<id>/            each container's disk stands on a layer
//!          journal/                    verbs under way
//!
//!       app-root ◄─ base ◄─ web ◄─ api          images and layers, a tree
//!                     ▲       ▲
//!                     c1      c2                 containers' disks, its leaves
//! ```
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! use ireko_images::Store;
//!
//! let store = Store::open(folder.path())?;
//! assert!(store.list().is_empty());
//! let error = store.find("base").unwrap_err();
//! assert_eq!(error.to_string(), "No such image: base:latest");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod error;
mod id;
mod name;
mod names;

mod claims;
mod durable;
mod foreign;
mod index;
mod journal;
mod places;
mod recover;
mod reserve;
mod state;
mod step;
mod store;

mod chain;
mod find;
mod history;
mod hold;
mod parent;
mod tree;

mod compression;
mod recognise;
mod saved;
mod skeleton;
mod stack;

mod adopt;
mod arrive;
mod collect;
mod commit;
mod compose;
mod containers;
mod create;
mod data_disks;
mod demote;
mod export;
mod fold;
mod import;
mod import_disk;
mod import_zip;
mod land;
mod layers;
mod machine;
mod merge;
mod remove;
mod remove_tree;
mod repair;
mod tag;
mod usage;
mod verify;

#[doc(hidden)]
pub mod hostile;

mod conversion;
mod copy;
mod deflate;
mod layer_file;
mod leaf_facts;
mod parallel;
mod vet;
mod zip_reader;
mod zip_writer;

#[cfg(test)]
mod tests;

pub use collect::Garbage;
pub use commit::{DiskFreeze, MAX_DEPTH, PendingCommit};
pub use compose::NewImage;
pub use compression::Compression;
pub use containers::FoundDisks;
pub use conversion::{Conversion, Filled};
pub use data_disks::{DataDisk, DiskName, ImageDisk, PendingDataDisk};
pub use error::{Error, ErrorKind, Result};
pub use export::{ExportFormat, ExportTo, Exported, Layers, PendingExport};
pub use fold::{Fold, FoldExtent, Folded};
pub use history::HistoryStep;
pub use hold::Held;
pub use id::{ImageId, LayerGuid};
pub use import::PendingLayer;
pub use import_disk::PendingDisk;
pub use import_zip::ZipImported;
pub use ireko_disk::Watch;
pub use ireko_oci as oci;
pub use ireko_tar::begins_archive;
pub use layers::Ground;
pub use merge::{MergeFiles, MergeRequest, Merged, Sources};
pub use name::Name;
pub use recognise::{DiskFormat, FORMATS, GivenFormat, Packing, Recognised, recognise};
pub use remove::{ImageUser, Removed};
pub use remove_tree::{Doomed, DoomedTree};
pub use repair::{Broken, ParentCheck, Relinked, Repaired};
pub use saved::{SavedImage, SavedImages};
pub use skeleton::{Bone, Skeleton, write_skeleton};
pub use stack::{Stack, StackedLayer};
pub use state::Kind;
pub use store::{ImageInfo, Store};
pub use tag::NameInUse;
pub use tree::{ParentOf, Tree, TreeNode};
pub use usage::{DiskUsage, ImageUsage, Usage};
pub use verify::{Depth, Problem, Verified};
