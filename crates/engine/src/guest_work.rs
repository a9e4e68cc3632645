//! Work that only a guest can do with a disk, in a VM of its own.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::monitor::{lost, remove_sockets};
use crate::names::random_hex;
use crate::plan::bare_guest;
use crate::shim_client::ShimSocket;
use crate::shim_process::LISTEN;
use crate::start::{shim_log, why_it_ended, write_plan};
use crate::store::{ImageInfo, Name, NewImage};
use ireko_protocol::plan::{StartChoice, VERSION, VmPlan, Work};
use ireko_protocol::shim::{Answer, Request};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Memory of a VM that works on a disk, in MiB.
const MEMORY_MIB: u64 = 512;
/// Time for the largest archive on the slowest machine.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Time for a shim that has said how its VM ended to end itself.
const FAREWELL: Duration = Duration::from_secs(30);

/// An image that work in a guest makes of another.
pub(crate) struct Derived {
    /// What is done with its disk; `None` is nothing.
    pub(crate) work: Option<Work>,
    /// Its system has no identity of its own.
    pub(crate) generalized: bool,
    /// What was done, in a word.
    pub(crate) word: &'static str,
}

impl Engine {
    /// Makes an image on top of `source`, whose configuration it has.
    ///
    /// Where the work fails nothing is left of it.
    pub(crate) async fn derive(
        &self,
        source: &ImageInfo,
        name: Name,
        derived: Derived,
    ) -> Result<ImageInfo> {
        let (store, below, slug) = (Arc::clone(&self.store), source.id, name.short());
        let pending = blocking(move || {
            let ground = store.image_ground(&below)?;
            Ok(store.begin_layer(&ground, &slug)?)
        })
        .await?;
        let Derived { work, generalized, word } = derived;
        let done = match work {
            None => Ok(()),
            Some(work) => self.work_in_guest(&pending.leaf, &pending.work_dir, work).await,
        };
        let document = source.config.document();
        let new = NewImage {
            config: document.config.clone(),
            machine: document.machine,
            generalized,
            name: Some(name),
            comment: word.to_owned(),
            author: document.author.clone(),
            created_by: String::new(),
            created: Timestamp::now(),
        };
        let store = Arc::clone(&self.store);
        blocking(move || match done {
            Ok(()) => Ok(store.publish_over(pending, &below, new)?),
            Err(error) => {
                if let Err(abort) = store.abort_app_layer(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a layer that was not made is not undone");
                }
                Err(error)
            }
        })
        .await
    }

    /// Has work done on the disk `leaf`, which is unmounted on return.
    ///
    /// `work_dir` takes the plan and what the shim writes.
    pub(crate) async fn work_in_guest(
        &self,
        leaf: &Path,
        work_dir: &Path,
        work: Work,
    ) -> Result<()> {
        let vm = random_hex(12);
        let (engine, leaf, work_dir) = (self.clone(), leaf.to_owned(), work_dir.to_owned());
        let (plan, _held) = blocking(move || {
            let (chain, held) = engine.store.hold_chain(&leaf)?;
            let plan = engine.plan_work(vm, chain, &work_dir, work);
            write_plan(&plan)?;
            Ok((plan, held))
        })
        .await?;
        let socket = ShimSocket::in_folder(&plan.runtime_dir);
        let mut process = self.spawn_shim(&plan)?;
        let answer = match process.reach(&socket, &shim_log(&plan.state_dir), LISTEN).await {
            Ok(()) => socket.ask(Request::Wait, LONGEST).await,
            Err(error) => Err(error.into()),
        };
        process.end_within(FAREWELL).await;
        remove_sockets(&plan.runtime_dir);
        let ended = match answer {
            Ok(Answer::Ended(record)) => record,
            Ok(_) => lost(&plan.vm),
            Err(error) => {
                let broken = error.into_error(|| "wait for the VM".into());
                tracing::warn!(error = broken.chain(), "a working VM broke off");
                return Err(why_it_ended(&plan.state_dir));
            }
        };
        match (ended.exit_code, ended.error) {
            (0, None) => Ok(()),
            (_, Some(reason)) => Err(Error::internal(reason)),
            (code, None) => {
                Err(Error::internal(format!("the work on the disk ended with code {code}")))
            }
        }
    }

    fn plan_work(&self, vm: String, chain: Vec<PathBuf>, work_dir: &Path, work: Work) -> VmPlan {
        VmPlan {
            version: VERSION,
            chain,
            disks: Vec::new(),
            runtime_dir: self.places().vm_dir(&vm),
            state_dir: work_dir.to_owned(),
            cache: self.places().cache.clone(),
            memory_mib: MEMORY_MIB,
            vcpus: 1,
            nics: Vec::new(),
            accel: self.settings.accel,
            start: StartChoice::Auto,
            configure: bare_guest("ireko-work".into()),
            work,
            vm,
        }
    }
}
