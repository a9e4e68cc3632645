//! Which of our crates may depend on which.
//!
//! The drawing is in ARCHITECTURE.md. An edge that is not in [`ALLOWED`] fails `cargo xtask rooms`: adding one here is a change of the
//! architecture, and belongs in ARCHITECTURE.md too.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Each room with the rooms it may use. A room missing here may use none and fails the check.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "ireko",
        &[
            "ireko-cli",
            "ireko-confine",
            "ireko-daemon",
            "ireko-network",
            "ireko-protocol",
            "ireko-setup",
            "ireko-shim",
            // Only for `ireko probe`: docs/decisions/0001.
            "ireko-vm",
        ],
    ),
    ("ireko-agent", &["ireko-protocol", "ireko-tar"]),
    ("ireko-block-export", &["ireko-disk"]),
    ("ireko-cgroup", &[]),
    // Disk files only for `ireko vhd`.
    ("ireko-cli", &["ireko-block-export", "ireko-disk", "ireko-protocol"]),
    ("ireko-confine", &["ireko-protocol"]),
    ("ireko-daemon", &["ireko-engine", "ireko-protocol"]),
    ("ireko-disk", &[]),
    ("ireko-engine", &["ireko-cgroup", "ireko-images", "ireko-protocol"]),
    ("ireko-images", &["ireko-disk", "ireko-oci", "ireko-tar", "ireko-zip"]),
    ("ireko-network", &["ireko-protocol"]),
    ("ireko-oci", &[]),
    ("ireko-protocol", &[]),
    ("ireko-setup", &["ireko-disk"]),
    (
        "ireko-shim",
        &["ireko-block-export", "ireko-cgroup", "ireko-disk", "ireko-protocol", "ireko-vm"],
    ),
    ("ireko-tar", &[]),
    ("ireko-vm", &[]),
    ("ireko-zip", &[]),
    // For tests only; see DEVELOPMENT_ONLY.
    ("ireko-e2e", &["ireko-disk", "ireko-protocol", "ireko-testkit"]),
    (
        "ireko-fuzz",
        &[
            "ireko-block-export",
            "ireko-disk",
            "ireko-images",
            "ireko-network",
            "ireko-protocol",
            "ireko-testkit",
            "ireko-zip",
        ],
    ),
    ("ireko-testkit", &["ireko-disk"]),
    ("xtask", &[]),
];

/// Nothing that is shipped may depend on these; any room's tests may use the test kit.
const DEVELOPMENT_ONLY: [&str; 4] = ["ireko-e2e", "ireko-fuzz", "ireko-testkit", "xtask"];
const TEST_KIT: &str = "ireko-testkit";

/// One dependency between crates of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    for_tests: bool,
}

/// Checks the workspace this runs in; the summary is for people.
///
/// # Errors
/// Names each edge that is not allowed, and each crate that has no place in the table.
pub fn check_workspace() -> Result<String, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .map_err(|e| format!("run cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("read what cargo metadata says: {e}"))?;
    let (rooms, edges) = read_metadata(&metadata)?;
    let problems = problems(&rooms, &edges);
    match problems.is_empty() {
        true => {
            Ok(format!("rooms: {} crates, {} edges, all in the table", rooms.len(), edges.len()))
        }
        false => Err(format!("{}\nthe table is in xtask/src/rooms.rs", problems.join("\n"))),
    }
}

fn read_metadata(metadata: &Value) -> Result<(BTreeSet<String>, BTreeSet<Edge>), String> {
    let odd = || "cargo metadata has another form than known".to_owned();
    let packages = metadata["packages"].as_array().ok_or_else(odd)?;
    let name_of = |value: &Value| value["name"].as_str().map(str::to_owned).ok_or_else(odd);
    let rooms = packages.iter().map(name_of).collect::<Result<BTreeSet<_>, _>>()?;
    let mut edges = BTreeSet::new();
    for package in packages {
        let from = name_of(package)?;
        for dependency in package["dependencies"].as_array().ok_or_else(odd)? {
            let to = name_of(dependency)?;
            if rooms.contains(&to) {
                let for_tests = dependency["kind"].as_str() == Some("dev");
                edges.insert(Edge { from: from.clone(), to, for_tests });
            }
        }
    }
    Ok((rooms, edges))
}

fn problems(rooms: &BTreeSet<String>, edges: &BTreeSet<Edge>) -> Vec<String> {
    let strangers = rooms
        .iter()
        .filter(|room| allowed_for(room).is_none())
        .map(|room| format!("{room} has no place in the table"));
    let wrong = edges.iter().filter(|edge| !is_allowed(edge)).map(|edge| {
        let when = if edge.for_tests { " in its tests" } else { "" };
        format!("{} may not depend on {}{when}", edge.from, edge.to)
    });
    strangers.chain(wrong).collect()
}

fn is_allowed(Edge { from, to, for_tests }: &Edge) -> bool {
    if *for_tests && to == TEST_KIT {
        return true;
    }
    let shipped = !DEVELOPMENT_ONLY.contains(&from.as_str());
    if shipped && DEVELOPMENT_ONLY.contains(&to.as_str()) {
        return false;
    }
    allowed_for(from).is_some_and(|rooms| rooms.contains(&to.as_str()))
}

fn allowed_for(room: &str) -> Option<&'static [&'static str]> {
    ALLOWED.iter().find(|(name, _)| *name == room).map(|(_, rooms)| *rooms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(from: &str, to: &str, kind: Option<&str>, expected: &[&str]) {
        let metadata = json!({ "packages": [
            { "name": from, "dependencies": [
                { "name": to, "kind": kind }, { "name": "serde", "kind": null } ] },
            { "name": to, "dependencies": [] },
        ] });
        let (rooms, edges) = read_metadata(&metadata).unwrap();
        assert_eq!(problems(&rooms, &edges), expected);
    }

    #[test]
    fn an_edge_of_the_table_is_allowed() {
        check("ireko-images", "ireko-disk", None, &[]);
        check("ireko-cli", "ireko-protocol", None, &[]);
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        check("ireko-disk", "ireko-images", None, &["ireko-disk may not depend on ireko-images"]);
        check("ireko-engine", "ireko-vm", None, &["ireko-engine may not depend on ireko-vm"]);
        check(
            "ireko-shim",
            "ireko-images",
            Some("build"),
            &["ireko-shim may not depend on ireko-images"],
        );
    }

    #[test]
    fn tests_may_use_the_test_kit_and_nothing_else_beyond_the_table() {
        check("ireko-disk", "ireko-testkit", Some("dev"), &[]);
        check("ireko-disk", "ireko-testkit", None, &["ireko-disk may not depend on ireko-testkit"]);
        check(
            "ireko-vm",
            "ireko-disk",
            Some("dev"),
            &["ireko-vm may not depend on ireko-disk in its tests"],
        );
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        check(
            "ireko-utilities",
            "ireko-disk",
            None,
            &[
                "ireko-utilities has no place in the table",
                "ireko-utilities may not depend on ireko-disk",
            ],
        );
    }

    #[test]
    fn the_lowest_rooms_use_none_of_ours() {
        for room in ["ireko-cgroup", "ireko-disk", "ireko-oci", "ireko-vm", "ireko-protocol"] {
            assert_eq!(allowed_for(room), Some(&[][..]), "{room}");
        }
    }

    #[test]
    fn the_table_has_no_circle() {
        fn below(room: &str, path: &mut Vec<String>) {
            assert!(!path.iter().any(|above| above == room), "{path:?} leads back to {room}");
            path.push(room.to_owned());
            for next in allowed_for(room).unwrap_or_default() {
                below(next, path);
            }
            path.pop();
        }
        for (room, _) in ALLOWED {
            below(room, &mut Vec::new());
        }
    }

    #[test]
    fn this_workspace_keeps_to_the_table() {
        check_workspace().unwrap();
    }
}
