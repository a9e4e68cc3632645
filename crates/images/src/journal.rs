//! The journal: a folder for each verb under way, so that the next start can finish or undo it.
//!
//! A folder appears whole, by one rename, and disappears by one. What a verb will need on its way
//! is written into it beforehand: once the verb has begun to change `images/` it only renames, and
//! a full disk cannot stop it half way.
//!
//! ```text
//!   journal/<guid>/entry.json     the intent
//!                  image.json     the sidecar that comes with success
//!                  layer.json     the sidecar that comes with failure or removal
//!                  undone.json    image.json, once the verb has failed and is being undone
//!                  <file>.vhdx    the layer itself, while it is being made
//!                  <file>.json    a sidecar that another layer gets with success
//!   journal/.<guid>               being made, or over: swept at the next start
//!   journal/reserve               see the module of that name
//! ```

use crate::durable;
use crate::error::Result;
use crate::id::LayerGuid;
use crate::state::{Intent, Sidecar};
use std::path::{Path, PathBuf};

/// The name of the sidecar that comes with success.
pub(crate) const IMAGE: &str = "image.json";
/// The name of the sidecar that comes with failure or removal.
pub(crate) const LAYER: &str = "layer.json";
/// The name of the sidecar of a verb that is being undone.
pub(crate) const UNDONE: &str = "undone.json";
const ENTRY: &str = "entry.json";

/// The folder of all verbs under way.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
}

/// The folder of one verb under way.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    folder: PathBuf,
}

/// The sidecars that a verb will need.
#[derive(Default)]
pub(crate) struct Prepared<'a> {
    pub image: Option<&'a Sidecar>,
    pub layer: Option<&'a Sidecar>,
}

impl Journal {
    /// Opens the journal, without the folders that were being made or thrown away.
    pub(crate) fn open(folder: &Path) -> Result<Journal> {
        durable::make_folder(folder)?;
        for name in durable::names_in(folder)? {
            if name.starts_with('.') {
                durable::discard(&folder.join(name));
            }
        }
        Ok(Journal { folder: folder.to_owned() })
    }

    /// Records an intent, durably. `guid` names it; a layer's verb takes the layer's.
    pub(crate) fn begin(
        &self,
        guid: LayerGuid,
        intent: &Intent,
        prepared: Prepared<'_>,
    ) -> Result<Work> {
        let sidecars = [(IMAGE, prepared.image), (LAYER, prepared.layer)];
        let files = sidecars.iter().filter_map(|(name, sidecar)| Some((*name, (*sidecar)?)));
        self.begin_with(guid, intent, files)
    }

    /// As [`Journal::begin`], with sidecars under names of the caller's choice.
    pub(crate) fn begin_with<'a>(
        &self,
        guid: LayerGuid,
        intent: &Intent,
        sidecars: impl IntoIterator<Item = (&'a str, &'a Sidecar)>,
    ) -> Result<Work> {
        let aside = self.folder.join(format!(".{guid}"));
        let work = Work { folder: self.folder.join(guid.to_string()) };
        durable::discard(&aside);
        let write = || {
            durable::make_folder(&aside)?;
            durable::write_new(&aside.join(ENTRY), &intent.to_json())?;
            for (name, sidecar) in sidecars {
                durable::write_new(&aside.join(name), &sidecar.to_json())?;
            }
            durable::sync_folder(&aside)?;
            durable::rename(&aside, &work.folder)
        };
        write().inspect_err(|_| durable::discard(&aside))?;
        Ok(work)
    }

    /// Lists the verbs that are under way.
    pub(crate) fn entries(&self) -> Result<Vec<(Work, Intent)>> {
        let mut entries = Vec::new();
        for name in durable::names_in(&self.folder)? {
            let work = Work { folder: self.folder.join(&name) };
            if name.starts_with('.') || !work.folder.is_dir() {
                continue;
            }
            let intent = Intent::read(&work.path(ENTRY)).map_err(|error| {
                error.hint(
                    "move that folder out of journal/: the verb it records stays half done, \
                     everything else works",
                )
            })?;
            entries.push((work, intent));
        }
        Ok(entries)
    }
}

impl Work {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Adds a file under this name.
    pub(crate) fn add(&self, name: &str, bytes: &[u8]) -> Result<()> {
        durable::replace(&self.path(name), bytes)
    }

    /// Adds the sidecar that comes with success, and says what the verb now is.
    pub(crate) fn complete(&self, intent: &Intent, image: &Sidecar) -> Result<()> {
        durable::replace(&self.path(IMAGE), &image.to_json())?;
        self.restate(intent)
    }

    /// Says what the verb now is.
    pub(crate) fn restate(&self, intent: &Intent) -> Result<()> {
        durable::replace(&self.path(ENTRY), &intent.to_json())
    }

    /// Strikes the verb out, durably: it is done or undone.
    pub(crate) fn end(&self) -> Result<()> {
        let Some(name) = self.folder.file_name().and_then(|name| name.to_str()) else {
            return Ok(());
        };
        let over = self.folder.with_file_name(format!(".{name}"));
        durable::discard(&over);
        durable::rename(&self.folder, &over)?;
        durable::discard(&over);
        Ok(())
    }
}
