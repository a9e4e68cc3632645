//! Committing a running container: its scratch disk becomes a layer, the VM goes on with a child.
//!
//! ```text
//!   sync ──► guest freezes ──► hold ── leaf frozen, next child opened ── release ──► guest thaws
//!   (long, writes go on)       (short, writes wait; the number of bytes written does not matter)
//! ```
//!
//! Where the files go was decided and journalled by the engine; moving them is `disk`'s.

use crate::guest::Guest;
use crate::live_disk::LiveDisk;
use ireko_disk::{Disk, FreezePlan};
use ireko_protocol::agent::{FREEZE_LIMIT, Reply, RequestBody};
use ireko_protocol::shim::{CommitRequest, Committed};
use std::time::Instant;

/// Somebody in the guest who can hold its file systems still.
pub trait Freezes {
    /// Holds them still; whether that is certain.
    fn freeze(&self) -> bool;
    /// Lets them go on; whether they were held still all the time.
    fn thaw(&self) -> bool;
}

/// Carries out a commit; afterwards it is durable.
///
/// Fails without a change where the chain could not be frozen. A guest that cannot freeze its file
/// system does not fail the commit: the layer is then crash-consistent, and the answer says so.
pub fn commit(
    disk: &LiveDisk,
    guest: &dyn Freezes,
    request: CommitRequest,
) -> Result<Committed, ireko_disk::Error> {
    let started = Instant::now();
    disk.flush()?;
    let sync_micros = started.elapsed().as_micros() as u64;

    let frozen = request.freeze_guest && guest.freeze();
    let hold = Instant::now();
    let result = disk.freeze(&FreezePlan {
        frozen: request.frozen,
        frozen_parent: Some(request.frozen_parent),
        next_parent: request.next_parent,
    });
    // Thawed even where the freeze was not confirmed: a late guest may freeze after all.
    let stayed_frozen = request.freeze_guest && guest.thaw() && frozen;
    let hold_micros = hold.elapsed().as_micros() as u64;
    result?;
    Ok(Committed { file_system_consistent: stayed_frozen, sync_micros, hold_micros })
}

impl Freezes for Guest {
    fn freeze(&self) -> bool {
        match self.call(RequestBody::Freeze, FREEZE_LIMIT) {
            Ok(Reply::Done) => true,
            other => {
                tracing::warn!(?other, "the guest does not freeze; the layer is crash-consistent");
                false
            }
        }
    }

    /// The agent thaws by itself after a while.
    fn thaw(&self) -> bool {
        match self.call(RequestBody::Thaw, FREEZE_LIMIT) {
            Ok(Reply::Thawed { was_frozen }) => was_frozen,
            other => {
                tracing::warn!(?other, "the guest does not answer to thaw");
                false
            }
        }
    }
}
