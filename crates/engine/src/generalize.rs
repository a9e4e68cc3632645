//! Images of whole operating systems without an identity of their own.
//!
//! ```text
//!   image ◄─ new layer ─► VM: Generalize ─► publish ─► image, generalized
//! ```
//!
//! What the source holds stays there: the new image stands on it.

use crate::blocking::to_its_end;
use crate::commit::{CommitOptions, CommitReport};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::guest_work::Derived;
use crate::shim_client::GUEST;
use crate::stop::stopped_by_user;
use crate::store::{ImageInfo, Kind, Name};
use crate::wait::{WaitFor, Waiting};
use ireko_images::NameInUse;
use ireko_protocol::plan::Work;
use ireko_protocol::shim::{Answer, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What a Windows calls itself.
const WINDOWS: &str = "mswindows";
/// The namespace of Windows' answer files.
const ANSWERS: &str = "urn:schemas-microsoft-com:unattend";
/// Time for a Windows to generalize itself: minutes, and on slow disks many.
const SYSPREP: Duration = Duration::from_secs(3600);

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
    /// Errors where the image holds no whole operating system, or one that Ireko cannot generalize, and
    /// where an image has the name; then nothing is left of the new one.
    pub async fn generalize_image(
        &self,
        reference: &str,
        name: &str,
        by: Generalizer,
    ) -> Result<ImageInfo> {
        let name = Name::parse(name)?;
        let source = self.image(reference).await?;
        let engine = self.clone();
        to_its_end(async move { engine.generalize(&source, name, by, NameInUse::Stays).await })
            .await
    }

    /// Commits a container and generalizes what that makes; the image in between is removed. As of any
    /// commit, the name goes to the new image.
    ///
    /// A Windows that runs generalizes itself, with an answer file's text where one is given, and is
    /// committed when it has powered itself off.
    pub async fn commit_generalized(
        &self,
        reference: &str,
        options: CommitOptions,
        answer_file: Option<String>,
    ) -> Result<CommitReport> {
        let name = options.name.as_deref().map(Name::parse).transpose()?;
        let name = name.ok_or_else(|| Error::bad_parameter("a generalized image needs a name"))?;
        answer_file.as_deref().map_or(Ok(()), check_answers)?;
        let container = self.find(reference)?;
        if !container.record().process.is_machine() {
            return Err(no_system(reference));
        }
        let (engine, reference) = (self.clone(), reference.to_owned());
        to_its_end(async move {
            let by = match engine.runs_windows(&container).await {
                true => {
                    engine.sysprep(&container, answer_file).await?;
                    Generalizer::Itself
                }
                false if answer_file.is_some() => {
                    return Err(Error::conflict(format!(
                        "an answer file is for a Windows that runs and has qemu-guest-agent, which \
                         container {} does not say to be",
                        container.record().name
                    )));
                }
                false => Generalizer::Offline,
            };
            let plain = CommitOptions { name: None, ..options };
            let report = engine.commit(&reference, plain).await?;
            let made = engine.generalize(&report.image, name, by, NameInUse::Moves).await;
            let between = report.image.id.to_string();
            if let Err(error) = engine.remove_image(&between, false).await {
                tracing::warn!(error = error.chain(), between, "an image is left over");
            }
            Ok(CommitReport { image: made?, ..report })
        })
        .await
    }

    /// Whether a container runs a Windows that says so.
    async fn runs_windows(&self, container: &Container) -> bool {
        let Ok(shim) = container.running_shim(self.places()) else { return false };
        matches!(shim.ask(Request::System, GUEST).await, Ok(Answer::System { id }) if id == WINDOWS)
    }

    /// Has a Windows generalize itself; returns when it is off.
    async fn sysprep(&self, container: &Arc<Container>, answer_file: Option<String>) -> Result<()> {
        let shim = container.running_shim(self.places())?;
        let what = || format!("generalize container {}", container.record().name);
        let waiting = Waiting::new(container, WaitFor::NextExit);
        // Its end is wanted, whatever its restart policy says.
        stopped_by_user(container).await;
        let request = Request::Sysprep { answer_file, seconds: SYSPREP.as_secs() };
        shim.ask(request, SYSPREP + GUEST).await.map_err(|error| error.into_error(what))?;
        let ending = timeout(GUEST, waiting.ending())
            .await
            .map_err(|_| Error::internal(format!("{}: its VM does not end", what())))?;
        match ending.exit_code {
            0 => Ok(()),
            code => Err(Error::conflict(format!(
                "{}: it did not power itself off but ended with {code}",
                what()
            ))),
        }
    }

    async fn generalize(
        &self,
        source: &ImageInfo,
        name: Name,
        by: Generalizer,
        in_use: NameInUse,
    ) -> Result<ImageInfo> {
        if source.kind != Kind::Machine {
            return Err(no_system(&source.name));
        }
        let work = match by {
            Generalizer::Itself => None,
            Generalizer::Offline => Some(Work::Generalize),
        };
        let derived = Derived { work, generalized: true, word: "generalized", in_use };
        let image = self.derive(source, name, derived).await.map_err(|error| {
            error.or_hint(
                "a Windows generalizes itself: `ireko commit --generalize` has a running one do so where \
                 it has qemu-guest-agent; else run `sysprep /generalize /oobe /shutdown /mode:vm` in it, \
                 commit it when it is off, and say so with `ireko image generalize --done`",
            )
        })?;
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

/// Refuses what sysprep would refuse too, in a log file and after the machine's services were stopped.
fn check_answers(text: &str) -> Result<()> {
    match text.contains("<unattend") && text.contains(ANSWERS) {
        true => Ok(()),
        false => Err(Error::bad_parameter(format!(
            "this is no answer file of Windows': one has <unattend xmlns=\"{ANSWERS}\"> at its top"
        ))),
    }
}

fn no_system(name: &str) -> Error {
    Error::bad_parameter(format!(
        "{name} is no whole operating system: a container of it has no identity but its own"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one in the documentation, as a user copies it.
    fn documented() -> &'static str {
        let text = include_str!("../../../docs/machines.md");
        let from = text.find("<?xml").unwrap();
        let to = text[from..].find("```").unwrap();
        &text[from..from + to]
    }

    #[test]
    fn what_is_no_answer_file_is_refused_before_anything_is_done() {
        check_answers(documented()).unwrap();
        for text in
            ["", "{}", "<unattend/>", "<domain xmlns='urn:schemas-microsoft-com:unattend'/>"]
        {
            let error = check_answers(text).unwrap_err().to_string();
            assert!(error.contains("no answer file"), "{error}");
        }
    }

    #[test]
    fn the_documented_answer_file_is_xml() {
        let lint = std::process::Command::new("xmllint")
            .args(["--noout", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(mut lint) = lint else {
            eprintln!("skipped: no xmllint (package libxml2-utils)");
            return;
        };
        std::io::Write::write_all(&mut lint.stdin.take().unwrap(), documented().as_bytes())
            .unwrap();
        assert!(lint.wait().unwrap().success());
    }
}
