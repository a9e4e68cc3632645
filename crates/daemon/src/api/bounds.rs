//! Capabilities, limits and kernel parameters: from Docker's words to a container's bounds.
//!
//! Processes of a container may do all that their machine's kernel lets them, where docker gives them a
//! dozen capabilities. So `CapAdd` only ever says what stays when `CapDrop` takes all.

use crate::api::error::{ApiError, ApiResult};
use crate::api::types::create::{HostConfig, Ulimit};
use ireko_protocol::bounds::{Bounds, Capability, ProcessLimit, Sysctl};
use serde_json::Value;

/// The word for every capability.
const ALL: &str = "ALL";

/// What the options come to.
pub(crate) fn bounds(host: &HostConfig) -> ApiResult<Bounds> {
    Ok(Bounds {
        without: without(host)?,
        no_new_privileges: no_new_privileges(host)?,
        privileged: host.privileged.unwrap_or_default(),
        limits: limits(host.ulimits.as_deref().unwrap_or_default())?,
        groups: host.group_add.clone().unwrap_or_default(),
        sysctls: sysctls(host)?,
        shm_bytes: match host.shm_size.unwrap_or_default() {
            0 => None,
            size => Some(
                u64::try_from(size)
                    .map_err(|_| ApiError::bad_request("SHM size can not be less than 0"))?,
            ),
        },
    })
}

fn without(host: &HostConfig) -> ApiResult<Vec<Capability>> {
    let (_, added) = capabilities("CapAdd", host.cap_add.as_deref())?;
    let (drops_all, dropped) = capabilities("CapDrop", host.cap_drop.as_deref())?;
    let is_lost = |one: &Capability| !added.contains(one) && (drops_all || dropped.contains(one));
    Ok(Capability::all().filter(is_lost).collect())
}

/// Whether all are named, and those that are named one by one.
fn capabilities(field: &str, names: Option<&[String]>) -> ApiResult<(bool, Vec<Capability>)> {
    let names = names.unwrap_or_default();
    let is_all = |name: &&String| name.eq_ignore_ascii_case(ALL);
    let read = |name: &String| {
        name.parse().map_err(|why| ApiError::bad_request(format!("invalid {field}: {why}")))
    };
    let single = names.iter().filter(|name| !is_all(name)).map(read).collect::<ApiResult<_>>()?;
    Ok((names.iter().any(|name| is_all(&name)), single))
}

fn no_new_privileges(host: &HostConfig) -> ApiResult<bool> {
    let mut wanted = false;
    for option in host.security_opt.iter().flatten() {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => wanted = true,
            ("no-new-privileges", "false") => wanted = false,
            // There is nothing of the kind that could be taken away.
            ("seccomp", "unconfined") | ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => {
                return Err(ApiError::not_yet(&format!(
                    "the security option {option:?} (SecurityOpt)"
                )));
            }
        }
    }
    Ok(wanted)
}

fn limits(ulimits: &[Ulimit]) -> ApiResult<Vec<ProcessLimit>> {
    let limit = |one: &Ulimit| {
        let name = one.name.clone();
        let of = serde_json::from_value(Value::String(name))
            .map_err(|_| ApiError::bad_request(format!("invalid ulimit type: {}", one.name)))?;
        // Whatever is negative is no limit.
        let [soft, hard] = [one.soft, one.hard].map(|number| u64::try_from(number).ok());
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(ApiError::bad_request(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                one.soft, one.hard
            )));
        }
        Ok(ProcessLimit { of, soft, hard })
    };
    ulimits.iter().map(limit).collect()
}

fn sysctls(host: &HostConfig) -> ApiResult<Vec<(Sysctl, String)>> {
    let given = host.sysctls.iter().flatten();
    given
        .map(|(name, value)| {
            let name = Sysctl::try_from(name.clone()).map_err(ApiError::bad_request)?;
            Ok((name, value.clone()))
        })
        .collect()
}

/// So many processes at most; `None` where it is not said, `Some(None)` where there is to be no limit.
pub(crate) fn pids_max(host: &HostConfig) -> Option<Option<u64>> {
    match host.pids_limit {
        None | Some(0) => None,
        Some(limit) => Some(u64::try_from(limit).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(host: Value) -> ApiResult<Bounds> {
        bounds(&serde_json::from_value(host).unwrap())
    }

    #[track_caller]
    fn refused(host: Value, words: &str) {
        let error = read(host).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn capabilities_are_dropped_one_by_one_or_all_but_some() {
        let kept = |host| {
            let without = read(host).unwrap().without;
            Capability::all().filter(|one| !without.contains(one)).count()
        };
        assert_eq!(kept(json!({})), 41);
        assert_eq!(kept(json!({ "CapAdd": ["NET_ADMIN"] })), 41);
        assert_eq!(kept(json!({ "CapDrop": ["mknod", "CAP_CHOWN"] })), 39);
        assert_eq!(kept(json!({ "CapDrop": ["ALL"], "CapAdd": ["NET_ADMIN"] })), 1);
        refused(json!({ "CapAdd": ["FLY"] }), "invalid CapAdd: unknown capability: \"CAP_FLY\"");
    }

    #[test]
    fn limits_are_those_of_setrlimit() {
        let limits = |soft, hard| {
            let one = json!({ "Name": "nofile", "Soft": soft, "Hard": hard });
            read(json!({ "Ulimits": [one] })).map(|bounds| bounds.limits[0])
        };
        assert_eq!(limits(5, 9).unwrap().hard, Some(9));
        assert_eq!(limits(-1, -1).unwrap().soft, None);
        assert!(limits(9, 5).is_err() && limits(-1, 5).is_err());
        refused(json!({ "Ulimits": [{ "Name": "fun" }] }), "invalid ulimit type: fun");
    }

    #[test]
    fn security_options_are_met_or_refused() {
        let wanted = |option: &str| read(json!({ "SecurityOpt": [option] }));
        assert!(wanted("no-new-privileges").unwrap().no_new_privileges);
        assert!(wanted("no-new-privileges:true").unwrap().no_new_privileges);
        assert!(wanted("seccomp=unconfined").unwrap().is_none());
        refused(json!({ "SecurityOpt": ["seccomp={}"] }), "SecurityOpt");
    }
}
