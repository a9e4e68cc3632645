//! What a program may do that reads files of strangers: the argument of `ireko confine`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A program and the walls around it.
///
/// It may read and execute what programs need to start, read the given files, and write in the given
/// folder. Memory, processor time and the size of what it writes are limited; where the kernel has no
/// Landlock, only these limits hold, and a line on standard error says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The program, by an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Files it may read.
    pub read: Vec<PathBuf>,
    /// The folder in which it may make, read and write files.
    pub write: PathBuf,
    /// Bytes of memory it may map.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Bytes a file it writes may have.
    pub file_size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confinement_has_its_golden_form() {
        let golden = concat!(
            r#"{"program":"/usr/bin/qemu-img","arguments":["info","x"],"read":["/x"],"#,
            r#""write":"/y","memory":1,"cpu_seconds":2,"file_size":3}"#
        );
        let confinement: Confinement = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&confinement).unwrap(), golden);
    }
}
