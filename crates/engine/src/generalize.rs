//! Images of whole operating systems without an identity of their own.
//!
//! ```text
//!   image ◄─ new layer ─► VM: Generalize ─► publish ─► image, generalized
//! ```
//!
//! What the source holds stays there: the new image stands on it.

use crate::blocking::{blocking, to_its_end};
use crate::commit::{CommitOptions, CommitReport};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::store::{ImageInfo, Kind, Name, NewImage};
use ireko_protocol::plan::Work;
use jiff::Timestamp;
use std::sync::Arc;

/// By whom a system is generalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generalizer {
    /// By Ireko, offline; for Linux.
    Offline,
    /// It did that itself, and the image only says so.
    Itself,
}

impl Engine {
    /// Makes an image of `reference`'s system without what tells it from its copies.
    ///
    /// Errors where the image holds no whole operating system, or one that Ireko cannot generalize;
    /// then nothing is left of the new one.
    pub async fn generalize_image(
        &self,
        reference: &str,
        name: &str,
        by: Generalizer,
    ) -> Result<ImageInfo> {
        let name = Name::parse(name)?;
        let source = self.image(reference).await?;
        let engine = self.clone();
        to_its_end(async move { engine.generalize(&source, name, by).await }).await
    }

    /// Commits a container and generalizes what that makes; the image in between is removed.
    pub async fn commit_generalized(
        &self,
        reference: &str,
        options: CommitOptions,
    ) -> Result<CommitReport> {
        let name = options.name.as_deref().map(Name::parse).transpose()?;
        let name = name.ok_or_else(|| Error::bad_parameter("a generalized image needs a name"))?;
        if !self.find(reference)?.record().process.is_machine() {
            return Err(no_system(reference));
        }
        let (engine, reference) = (self.clone(), reference.to_owned());
        to_its_end(async move {
            let plain = CommitOptions { name: None, ..options };
            let report = engine.commit(&reference, plain).await?;
            let made = engine.generalize(&report.image, name, Generalizer::Offline).await;
            let between = report.image.id.to_string();
            if let Err(error) = engine.remove_image(&between, false).await {
                tracing::warn!(error = error.chain(), between, "an image is left over");
            }
            Ok(CommitReport { image: made?, ..report })
        })
        .await
    }

    async fn generalize(
        &self,
        source: &ImageInfo,
        name: Name,
        by: Generalizer,
    ) -> Result<ImageInfo> {
        if source.kind != Kind::Machine {
            return Err(no_system(&source.name));
        }
        let (store, below, slug) = (Arc::clone(&self.store), source.id, name.short());
        let pending = blocking(move || {
            let ground = store.image_ground(&below)?;
            Ok(store.begin_layer(&ground, &slug)?)
        })
        .await?;
        let done = match by {
            Generalizer::Itself => Ok(()),
            Generalizer::Offline => {
                self.work_in_guest(&pending.leaf, &pending.work_dir, Work::Generalize).await
            }
        };
        let document = source.config.document();
        let new = NewImage {
            config: document.config.clone(),
            machine: document.machine,
            generalized: true,
            name: Some(name),
            comment: "generalized".to_owned(),
            author: document.author.clone(),
            created_by: String::new(),
            created: Timestamp::now(),
        };
        let store = Arc::clone(&self.store);
        let image = blocking(move || match done {
            Ok(()) => Ok(store.publish_over(pending, &below, new)?),
            Err(error) => {
                if let Err(abort) = store.abort_app_layer(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a failed generalization was not undone");
                }
                Err(error.hint(
                    "a Windows is generalized from inside: run `sysprep /generalize /oobe /shutdown \
                     /mode:vm` in a container of it, commit that when it is off, and say so with \
                     `ireko image generalize --done`",
                ))
            }
        })
        .await?;
        self.emit_image(&image.id.to_string(), "generalize", &image.id.to_string());
        Ok(image)
    }

    /// What a container has in common with others, where its image was made of one system and not
    /// generalized.
    pub async fn twins(&self, id: &str) -> Result<Option<String>> {
        let record = self.find(id)?.record();
        let has_twin = || {
            let others = self.containers();
            others.iter().any(|other| other.id != record.id && other.image_id == record.image_id)
        };
        if !record.process.is_machine() || record.image_id.is_empty() || !has_twin() {
            return Ok(None);
        }
        let image = self.image(&record.image_id).await?;
        if image.config.document().generalized {
            return Ok(None);
        }
        let name = &record.spec.image;
        Ok(Some(format!(
            "{name} is specialized: its containers share machine-id, ssh host keys, random seed and \
             whatever else tells one system from another, unless cloud-init in them makes their own; \
             `ireko image generalize {name} NEWNAME` makes an image whose containers do not"
        )))
    }
}

fn no_system(name: &str) -> Error {
    Error::bad_parameter(format!(
        "{name} is no whole operating system: a container of it has no identity but its own"
    ))
}
