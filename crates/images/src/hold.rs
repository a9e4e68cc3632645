//! Keeping the files of a disk as they are while somebody is about to open them.
//!
//! A chain is a list of paths. Between the making of the list and the opening of the files another verb
//! could put one file in the place of several: whoever hands the list on holds the files until they
//! are open. An open file stays what it is.

use crate::chain;
use crate::error::Result;
use crate::index::Pin;
use crate::store::Store;
use std::path::{Path, PathBuf};

/// The files of a disk stay in their places, and are the same ones, while this lives.
#[derive(Clone, Debug)]
pub struct Held(#[expect(dead_code, reason = "its end is what counts")] Option<Pin>);

impl Store {
    /// As [`Store::chain`]; none of the files is replaced or removed while what is returned lives.
    pub fn hold_chain(&self, leaf: &Path) -> Result<(Vec<PathBuf>, Held)> {
        let parent = chain::parent_name(leaf)?;
        let mut index = self.index();
        let files = self.chain_over(&index, leaf, parent)?;
        let names = files.iter().skip(1).filter_map(|file| file.file_name()?.to_str());
        let layer = names.filter_map(|name| index.by_file(name)).next();
        let pin = layer.map(|layer| layer.sidecar.guid).map(|guid| index.pin(guid));
        Ok((files, Held(pin)))
    }
}
