//! The part of the world that a confined program sees, by Landlock.
//!
//! Source: Documentation/userspace-api/landlock.rst of Linux.

use ireko_protocol::confine::Confinement;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rights that are asked for; an older kernel gives what it has.
const RIGHTS: ABI = ABI::V6;

/// What a program needs to start: the loader, libraries, and nothing that is anybody's.
const SYSTEM: [&str; 8] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
];
/// What a program may write into to no effect; QEMU tries its locks on it.
const NOWHERE: &str = "/dev/null";

/// Closes off everything but what the plan names, for this process and those after it.
///
/// Returns whether all of that holds. A path that is not there is left out.
pub(crate) fn put_up(plan: &Confinement) -> Result<bool, RulesetError> {
    let read = AccessFs::from_read(RIGHTS);
    let file: BitFlags<AccessFs> = AccessFs::ReadFile.into();
    // Plain files only: no links that lead elsewhere, no devices, no sockets.
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .handle_access(AccessNet::from_all(RIGHTS))?
        .scope(Scope::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules([&plan.program], read))?
        .add_rules(path_beneath_rules(&plan.read, file))?
        .add_rules(path_beneath_rules([&plan.write], write))?
        .add_rules(path_beneath_rules([NOWHERE], file | AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}
