//! Committing a running container: its disks become layers, the VM goes on with a child of each.
//!
//! ```text
//!   sync ──► guest freezes ──► hold ── leaf frozen, next child opened ── release ──► guest thaws
//!   (long, writes go on)       (short, writes wait; the number of bytes written does not matter)
//! ```
//!
//! Where the files go was decided and journalled by the engine; moving them is `disk`'s.

use crate::guest::{Guest, ORDINARY};
use crate::live_disk::LiveDisk;
use ireko_disk::{Disk, FreezePlan};
use ireko_protocol::agent::{DiskSerial, FREEZE_LIMIT, Reply, RequestBody};
use ireko_protocol::shim::{CommitRequest, Committed};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The way of an answer through a busy guest.
const GRACE: Duration = Duration::from_secs(10);

/// Somebody in the guest who can hold its file systems still.
pub trait Freezes {
    /// Holds them still; whether that is certain.
    fn freeze(&self) -> bool;
    /// Lets them go on; whether they were held still all the time. Also asked where they may not be held
    /// (`is_certain`): a guest that is late may do it after all.
    fn thaw(&self, is_certain: bool) -> bool;
}

/// Carries out a commit; afterwards it is durable. `disks` are the VM's, the root disk among them.
///
/// Fails without an image where a chain could not be frozen; further disks may be frozen then. A guest
/// that cannot freeze its file systems does not fail the commit: the layers are then
/// crash-consistent, and the answer says so.
pub fn commit(
    disks: &[(DiskSerial, Arc<LiveDisk>)],
    guest: &dyn Freezes,
    request: CommitRequest,
) -> Result<Committed, ireko_disk::Error> {
    let plans = plans(disks, &request)?;
    let started = Instant::now();
    for (disk, _) in &plans {
        disk.flush()?;
    }
    let sync_micros = started.elapsed().as_micros() as u64;

    let frozen = request.freeze_guest && guest.freeze();
    let hold = Instant::now();
    let result = LiveDisk::freeze_all(&plans);
    let stayed_frozen = request.freeze_guest && guest.thaw(frozen) && frozen;
    let hold_micros = hold.elapsed().as_micros() as u64;
    result?;
    Ok(Committed { file_system_consistent: stayed_frozen, sync_micros, hold_micros })
}

/// Which disk goes where; the root disk last, since it decides whether there is an image.
fn plans<'a>(
    disks: &'a [(DiskSerial, Arc<LiveDisk>)],
    request: &CommitRequest,
) -> Result<Vec<(&'a LiveDisk, FreezePlan)>, ireko_disk::Error> {
    let find = |serial: &DiskSerial| {
        let found = disks.iter().find(|(one, _)| one == serial).map(|(_, disk)| &**disk);
        found.ok_or_else(|| {
            let message = format!("the VM has no disk {}", serial.0);
            ireko_disk::Error::new(ireko_disk::ErrorKind::NotFound, message)
        })
    };
    let further = request.disks.iter().map(|disk| {
        let plan = FreezePlan {
            frozen: disk.frozen.clone(),
            frozen_parent: disk.frozen_parent.clone(),
            next_parent: disk.next_parent.clone(),
        };
        Ok((find(&disk.serial)?, plan))
    });
    let root = FreezePlan {
        frozen: request.frozen.clone(),
        frozen_parent: Some(request.frozen_parent.clone()),
        next_parent: request.next_parent.clone(),
    };
    further.chain([find(&DiskSerial::root()).map(|disk| (disk, root))]).collect()
}

impl Freezes for Guest {
    fn freeze(&self) -> bool {
        match self.call(RequestBody::Freeze, ORDINARY) {
            Ok(Reply::Done) => true,
            other => {
                tracing::warn!(?other, "the guest does not freeze; the layer is crash-consistent");
                false
            }
        }
    }

    /// The agent thaws by itself after a while, and says so: a later answer is not worth waiting for.
    fn thaw(&self, is_certain: bool) -> bool {
        if !is_certain {
            if let Err(error) = self.tell(RequestBody::Thaw) {
                tracing::warn!(%error, "the guest is not told to thaw");
            }
            return false;
        }
        match self.call(RequestBody::Thaw, FREEZE_LIMIT + GRACE) {
            Ok(Reply::Thawed { was_frozen }) => was_frozen,
            other => {
                tracing::warn!(?other, "the guest does not answer to thaw");
                false
            }
        }
    }
}
