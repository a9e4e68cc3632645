//! Where copied things go, and what they are called there: docker's rules.
//!
//! | from | to nothing | to a file | to a folder |
//! |---|---|---|---|
//! | a file | takes that name; not where a slash ends it | replaces it | goes into it |
//! | a folder | takes that name | refused | goes into it |
//! | a folder, `/.` | takes that name | refused | what is in it goes into it |

use crate::error::{Error, Result};

/// Where things go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The folder, which is there or is found missing.
    pub folder: String,
    /// What it is called in it; `None` where only what is in a folder is copied.
    pub name: Option<String>,
}

/// Finds the goal. `there` says whether there is something, and whether that is a folder.
pub fn goal(
    is_folder: bool,
    is_content: bool,
    named: &str,
    there: Option<bool>,
    to: &str,
) -> Result<Goal> {
    match (is_folder, there) {
        (true, Some(true)) if is_content => Ok(Goal { folder: to.to_owned(), name: None }),
        (_, Some(true)) => {
            let name = (named != "/").then(|| named.to_owned());
            Ok(Goal { folder: to.to_owned(), name })
        }
        (true, Some(false)) => Err(Error::local(format!("cannot copy directory to the file {to}"))),
        (false, None) if to.ends_with('/') => Err(Error::local(format!("no such directory: {to}"))),
        _ => Ok(Goal { folder: parent(to), name: Some(base_name(to).to_owned()) }),
    }
}

/// Only what is in it is meant.
pub fn is_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// The last part of a path; `/` and `.` where it has no other.
pub fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("") => "/",
        Some(name) => name,
    }
}

fn parent(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
        None => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_docker_s_table() {
        let some = |folder: &str, name: &str| {
            Some(Goal { folder: folder.to_owned(), name: Some(name.to_owned()) })
        };
        let content = |folder: &str| Some(Goal { folder: folder.to_owned(), name: None });
        for (is_folder, is_content, there, to, expected) in [
            (false, false, None, "/a/b", some("/a", "b")),
            (false, false, None, "/a/b/", None),
            (false, false, Some(false), "/a/b", some("/a", "b")),
            (false, false, Some(true), "/a/b", some("/a/b", "it")),
            (true, false, None, "/b", some("/", "b")),
            (true, false, None, "b/", some(".", "b")),
            (true, false, Some(false), "/a/b", None),
            (true, false, Some(true), "/a/b", some("/a/b", "it")),
            (true, true, Some(true), "/a/b", content("/a/b")),
            (true, true, None, "/a/b", some("/a", "b")),
        ] {
            let found = goal(is_folder, is_content, "it", there, to).ok();
            assert_eq!(found, expected, "{is_folder} {is_content} {there:?} {to}");
        }
    }
}
