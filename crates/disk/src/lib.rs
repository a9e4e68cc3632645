//! Virtual disks in files: VHDX, VHD and chains of differencing disks.
//!
//! ```text
//!   guest's view      ┌───┬───┬───┬───┬───┬───┐
//!   (Disk)            │ a │ B │ 0 │ c │ B'│ · │
//!                     └───┴───┴───┴───┴───┴───┘
//!   leaf    (Layer)   │   │   │ 0 │   │ B'│   │   written
//!   parent            │   │ B │   │   │ x │   │   read only
//!   base              │ a │ x │ x │ c │   │   │   read only
//!
//!   each layer a file (Storage)
//! ```
//! A [`Chain`] is what a virtual machine writes to; it is a [`Disk`], and so is anything else that can be exported
//! as one. A flush that returned survives a power cut. Making a child and freezing a leaf under a
//! new child take the same time whatever the disk's size.
//!
//! ```
//! use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
//! use ireko_disk::{Access, Chain, Disk, FreezePlan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let [base, leaf, web] = ["base.vhdx", "leaf.vhdx", "web.vhdx"].map(|name| folder.path().join(name));
//! vhdx::create(&base, &CreateOptions::new(40 << 30))?;
//! vhdx::create_child(&leaf, &base, r".\base.vhdx", &ChildOptions::default())?;
//!
//! let mut disk = Chain::open(&[leaf.clone(), base.clone()], Access::ReadWrite)?;
//! disk.write_at(1 << 30, b"hello")?;
//! disk.flush()?;
//!
//! // The leaf becomes an immutable file; the disk goes on in a new child of it.
//! let plan = FreezePlan {
//!     frozen: web.clone(),
//!     frozen_parent: Some(r".\base.vhdx".into()),
//!     next_parent: r".\web.vhdx".into(),
//! };
//! disk.freeze(&plan)?;
//! disk.write_at(1 << 30, b"later")?;
//!
//! let image = Chain::open(&[web, base], Access::ReadOnly)?;
//! let mut bytes = [0; 5];
//! image.read_at(1 << 30, &mut bytes)?;
//! assert_eq!(&bytes, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Verbs on files
//!
//! | | what it does | after a power cut |
//! |---|---|---|
//! | [`vhdx::create`], [`vhdx::create_child`], [`vhd::create`], … | a new disk, empty or over a parent | a whole file, or one that is of no use and has no children |
//! | [`Chain::freeze`] | the leaf becomes immutable under a new child, also while it is used | [`freeze::recover`] goes on or back |
//! | [`convert`] | a disk, read through its parents, as one new file of any format | the file is there, whole, or not |
//! | [`merge::into_new`] | the topmost layers as one new file over the rest | the same |
//! | [`merge::into_parent`] | the parent takes over what the leaf holds | the disk reads the same; called again, it goes on |
//! | [`compact()`] | the file as short as what it holds | the disk reads the same |
//! | [`resize()`] | a larger or smaller disk | the old size or the new one |
//! | [`relink()`] | another place or file for the parent | the old link or the new one |
//! | [`check::check`], [`check::repair`] | what is wrong with a file, and its cure | as good as before, or better |
//!
//! Long ones take a [`Watch`], which is told how far they are and can stop them. Files are locked (`flock`) while they are used: one writer, or readers.
//!
//! Everything here is synchronous and may be called from several threads. Disk files are taken for hostile: a damaged one is an [`Error`], never a panic,
//! and never costs memory that its true size does not explain.
#![forbid(unsafe_code)]

mod error;
mod guid;

mod disk;
mod storage;
mod watch;

mod format;
mod kind;
mod layer;
mod number_map;
mod pages;
mod piece;
pub mod raw;
pub mod vhd;
pub mod vhdx;
mod zeros;

mod chain;
pub mod check;
mod compact;
mod compare;
mod convert;
mod copy;
mod extents;
pub mod freeze;
pub mod merge;
mod parent_path;
mod publish;
mod ranges;
mod relink;
mod resize;

pub use chain::find::find_chain;
pub use chain::{Access, Chain, Held, Stretch};
pub use compact::{CompactOptions, Compacted, FileSize, compact, compact_storage};
pub use compare::first_difference;
pub use convert::{NewDisk, convert};
pub use copy::{Copied, Onto, copy};
pub use disk::{Disk, Extent, ExtentKind, Geometry};
pub use error::{Error, ErrorKind, Result};
pub use format::Format;
pub use freeze::FreezePlan;
pub use guid::Guid;
pub use kind::{Kind, Provision};
pub use merge::MergeOptions;
pub use parent_path::relative_parent_path;
pub use relink::{RelinkOptions, Verify, relink};
pub use resize::{ResizeOptions, resize, resize_storage};
pub use storage::{FileStorage, Lock, MemoryStorage, Storage};
pub use watch::Watch;
