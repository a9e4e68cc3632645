//! The built-in base image: made once for a machine, taken in by each root that asks for it.
//!
//! ```text
//!   <cache>/base/rootfs.tar ─► VM unpacks it ─► <root>/images/base…      (first root)
//!                                                    └─ copied ─► <cache>/base/base.vhdx
//!   <cache>/base/base.vhdx ─► adopted by <root>/images/                  (every other root)
//! ```

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::store::oci::RunConfig;
use crate::store::{ImageInfo, Name, NewImage};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The image's name.
const NAME: &str = "base";
/// The variables of its containers.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Time for another daemon that is making it on the slowest machine.
const LONGEST: Duration = Duration::from_secs(900);
/// How often that daemon is looked after.
const POLL: Duration = Duration::from_millis(100);

/// The parts of the image in the cache.
#[derive(Clone, Debug)]
struct Parts {
    folder: PathBuf,
}

impl Parts {
    fn in_cache(cache: &Path) -> Self {
        Self { folder: cache.join("base") }
    }

    /// Its file tree. Made by set-up.
    fn files(&self) -> PathBuf {
        self.folder.join("rootfs.tar")
    }

    /// The empty disk every app image stands on. Made by set-up.
    fn root(&self) -> PathBuf {
        self.folder.join("root.vhdx")
    }

    /// Its layer over the root. Made here.
    fn layer(&self) -> PathBuf {
        self.folder.join("base.vhdx")
    }

    /// What set-up says about the parts it made.
    fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// The manifest of the parts that the layer was made from.
    fn made_from(&self) -> PathBuf {
        self.folder.join("base.from")
    }

    /// Errors where a part that set-up makes is missing.
    fn check(&self) -> Result<()> {
        for part in [self.files(), self.root()] {
            if !part.is_file() {
                return Err(missing(&part));
            }
        }
        Ok(())
    }

    /// The layer is there, and made from the parts that are there now.
    fn has_layer(&self) -> bool {
        let is_same = match (fs::read(self.manifest()), fs::read(self.made_from())) {
            (Ok(now), Ok(then)) => now == then,
            _ => false,
        };
        is_same && self.layer().is_file() && self.layer().with_extension("json").is_file()
    }
}

impl Engine {
    /// A disk with an empty file system. Made by set-up.
    pub(crate) fn empty_disk(&self) -> PathBuf {
        Parts::in_cache(&self.places().cache).root()
    }
}

fn missing(part: &Path) -> Error {
    Error::internal(format!("the cache has no {}", part.display()))
        .hint("run `ireko setup`, which fills the cache")
}

impl Engine {
    /// The empty disk every app image stands on; an error with the cure where it is missing.
    pub(crate) fn common_root(&self) -> Result<PathBuf> {
        let root = Parts::in_cache(&self.places().cache).root();
        if root.is_file() { Ok(root) } else { Err(missing(&root)) }
    }

    /// Takes the base image in, making it where this machine has none yet.
    pub(crate) async fn make_base(&self) -> Result<ImageInfo> {
        let _one = self.base.lock().await;
        if let Ok(image) = self.image(NAME).await {
            return Ok(image);
        }
        let parts = Parts::in_cache(&self.places().cache);
        if !parts.has_layer() {
            parts.check()?;
            let _lock = lock_cache(&parts.folder).await?;
            if !parts.has_layer() {
                return self.unpack_base(parts).await;
            }
        }
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.adopt(&[parts.root(), parts.layer()], &Name::parse(NAME)?)?))
            .await
    }

    async fn unpack_base(&self, parts: Parts) -> Result<ImageInfo> {
        tracing::info!("the base image is made");
        let manifest =
            fs::read(parts.manifest()).attempt(|| "read the base image's manifest".into())?;
        let new = NewImage {
            config: RunConfig {
                cmd: vec!["sh".into()],
                env: vec![PATH.into()],
                ..RunConfig::default()
            },
            machine: None,
            generalized: false,
            container: None,
            name: Some(Name::parse(NAME)?),
            comment: "Ireko's built-in base image: Debian's busybox".into(),
            author: String::new(),
            created_by: "ireko setup".into(),
            created: Timestamp::now(),
        };
        let image = self.apply_archive(&parts.files(), NAME, new).await?;
        let (store, id) = (Arc::clone(&self.store), image.id);
        let kept = blocking(move || {
            store.copy_out(&id, &parts.layer())?;
            // Last: it is what makes the layer count.
            fs::write(parts.made_from(), manifest).attempt(|| "keep the base image".into())
        })
        .await;
        if let Err(error) = kept {
            // Another root will have to make it again; this one has it.
            tracing::warn!(error = error.chain(), "the base image is not kept in the cache");
        }
        Ok(image)
    }
}

/// Keeps other daemons of this machine from making the same; `None` where the cache is not ours to
/// write.
async fn lock_cache(folder: &Path) -> Result<Option<File>> {
    let path = folder.join("lock");
    let Ok(file) = File::options().create(true).append(true).open(&path) else { return Ok(None) };
    let deadline = Instant::now() + LONGEST;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(Error::internal(format!(
                "another daemon has held {} for {} s",
                path.display(),
                LONGEST.as_secs()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_counts_only_for_the_parts_it_was_made_from() {
        let cache = tempfile::tempdir().unwrap();
        let parts = Parts::in_cache(cache.path());
        fs::create_dir(&parts.folder).unwrap();
        assert_eq!(
            parts.check().unwrap_err().remedy().map(|hint| hint.contains("ireko setup")),
            Some(true)
        );
        for part in [parts.files(), parts.root()] {
            fs::write(part, b"").unwrap();
        }
        parts.check().unwrap();
        fs::write(parts.manifest(), b"1").unwrap();
        assert!(!parts.has_layer());
        fs::write(parts.layer(), b"").unwrap();
        fs::write(parts.layer().with_extension("json"), b"").unwrap();
        fs::write(parts.made_from(), b"1").unwrap();
        assert!(parts.has_layer());
        fs::write(parts.manifest(), b"2").unwrap();
        assert!(!parts.has_layer());
    }
}
