//! What is done with a container's files, in its guest: the engine asks the shim, the shim the agent.
//!
//! A job has a stream of bytes in, a stream of bytes out, and one answer when both have ended.
//!
//! ```text
//!   Look, Unpack, …   paths are the container's own: as its processes see them while it runs,
//!                     on its disk alone while it does not
//!   Export, List, …   the disk alone: nothing of what is mounted over it
//! ```

use serde::{Deserialize, Serialize};

/// Work with files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum FileJob {
    /// Looks at a path; a link at its end is not followed. Answer: [`FileAnswer::Stat`].
    Look {
        /// Absolute path in the container.
        path: String,
    },
    /// Writes a file or a folder as a tar archive whose first entry is its base name.
    Pack {
        /// Absolute path in the container; a slash or a dot at its end follows a link.
        path: String,
    },
    /// Reads a tar archive and unpacks it into a folder.
    Unpack {
        /// Absolute path in the container, links followed.
        path: String,
        /// A folder is not replaced by something else, nor something else by a folder.
        keep_kinds: bool,
        /// Everything gets this owner, `user[:group]`; `None` keeps the archive's.
        owner: Option<String>,
    },
    /// Writes all of the disk as a tar archive.
    Export,
    /// Lists all of the disk: [`listing`](crate::listing) entries, each folder's in the order of their bytes.
    List,
    /// Reads paths, each with a zero byte after it, and writes each file's size on the disk, a
    /// little-endian u64, and its bytes.
    Read,
    /// Reads paths, each with a zero byte after it, and writes a tar archive of what is there on the
    /// disk, without what is in folders.
    PackListed,
}

/// What a job comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "files", rename_all = "snake_case")]
pub enum FileAnswer {
    /// It was done.
    Done,
    /// What is at a path.
    Stat(PathStat),
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Linux's `st_mode`: type and permissions.
    pub mode: u32,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Of a link: what it leads to in the end, or as far as that goes; an absolute path in the container.
    pub link_target: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Reply;
    use crate::shim::Answer;

    #[test]
    fn an_answer_is_read_back_from_either_channel() {
        let stat = PathStat { mode: 1, size: 2, mtime: (3, 4), link_target: "/a".into() };
        for answer in [FileAnswer::Done, FileAnswer::Stat(stat)] {
            let text = serde_json::to_string(&Answer::Files(answer.clone())).unwrap();
            let read: Answer = serde_json::from_str(&text).unwrap();
            assert_eq!(read, Answer::Files(answer.clone()), "{text}");
            let text = serde_json::to_string(&Reply::Files(answer.clone())).unwrap();
            let read: Reply = serde_json::from_str(&text).unwrap();
            assert_eq!(read, Reply::Files(answer), "{text}");
        }
    }
}
