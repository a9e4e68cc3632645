//! What a root takes on its file system: `GET /ireko/df`, `POST /ireko/gc`, `POST /ireko/fold`.
//!
//! All are bytes allocated on the host.

use serde::{Deserialize, Serialize};

/// What images and containers take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Images, newest first.
    pub images: Vec<ImageUsage>,
    /// Containers, newest first.
    pub containers: Vec<ContainerUsage>,
    /// All files of images and of layers, each counted once.
    pub layer_bytes: u64,
    /// Of these, what images need but no container.
    pub reclaimable_layer_bytes: u64,
    /// Of these, what neither needs: `ireko gc` removes it.
    pub garbage_bytes: u64,
    /// All containers' own disks.
    pub container_bytes: u64,
    /// What is free when all containers that do not run are removed.
    pub reclaimable_container_bytes: u64,
}

/// What an image takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    /// Its id with `sha256:`.
    pub id: String,
    /// Its names; may be none.
    pub names: Vec<String>,
    /// Its whole chain of files.
    pub total_bytes: u64,
    /// Of these, the files that no other image needs.
    pub own_bytes: u64,
    /// Of these, the files that other images need too.
    pub shared_bytes: u64,
    /// What is free when it is removed.
    pub reclaimable_bytes: u64,
    /// How many containers were made from it.
    pub containers: usize,
}

/// What a container takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Docker's word for its state.
    pub state: String,
    /// Its own disk.
    pub own_bytes: u64,
    /// Layers that only it needs: they were committed from it, and their image was removed.
    pub layer_bytes: u64,
    /// What is free when it is removed; 0 while it runs.
    pub reclaimable_bytes: u64,
}

/// What a collection of garbage removes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// It was done, not only shown.
    pub done: bool,
    /// The files, in the order in which they go.
    pub files: Vec<GarbageFile>,
    /// What they take together.
    pub bytes: u64,
}

/// What a folding of layers does, its result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// It was done, not only shown.
    pub done: bool,
    /// Rows of layers that are one file each, or would be.
    pub folds: Vec<Fold>,
    /// Rows that stay as they are, each with the reason, for people.
    pub kept: Vec<String>,
    /// What is free now; 0 where it was only shown.
    pub freed_bytes: u64,
}

/// A row of layers that becomes one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// The file's base name in the folder of images.
    pub file: String,
    /// The base names of all that go into it, the uppermost first: that is `file`.
    pub layers: Vec<String>,
    /// What they take together: no more is copied.
    pub bytes: u64,
}

/// A file that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageFile {
    /// Its base name in the folder of images.
    pub file: String,
    /// Its key, a GUID; `None` for what an interrupted verb left.
    pub layer: Option<String>,
    /// What it takes.
    pub bytes: u64,
}
