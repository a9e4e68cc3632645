//! Which file an argv names: the container's PATH over the container's tree, failures in the words
//! docker's users know.

use ireko_protocol::agent::FailureKind;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, Result};
use crate::rooted::{Root, join, mode_of};

/// Searched where the environment has no PATH: docker's own.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the program `name`, as a path inside the root that begins with a slash.
pub fn find(root: &Root, name: &str, env: &[String], cwd: &str) -> Result<String> {
    if name.contains('/') {
        let path = joined(cwd, name);
        return match check(root, &path) {
            Ok(()) => Ok(path),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                Err(Failure::new(
                    FailureKind::NotFound,
                    format!("exec: \"{name}\": stat {name}: no such file or directory"),
                ))
            }
            Err(Errno::ISDIR) => Err(not_executable(name, "is a directory")),
            Err(Errno::ACCESS) => Err(not_executable(name, "permission denied")),
            Err(cause) => Err(Failure::of(format_args!("exec: \"{name}\""), cause)),
        };
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|folder| joined(&joined(cwd, folder), name))
        .find(|candidate| !name.is_empty() && check(root, candidate).is_ok())
        .ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("exec: \"{name}\": executable file not found in $PATH"),
            )
        })
}

/// What `execve` refused although the file was found.
pub fn exec_failure(name: &str, cause: Errno) -> Failure {
    match cause {
        // The file was there a moment ago: its interpreter is what is missing.
        Errno::NOENT => {
            Failure::new(FailureKind::NotFound, format!("exec {name}: no such file or directory"))
        }
        Errno::ACCESS | Errno::PERM => not_executable(name, "permission denied"),
        Errno::NOEXEC => {
            Failure::new(FailureKind::NotExecutable, format!("exec {name}: exec format error"))
        }
        cause => Failure {
            kind: FailureKind::NotExecutable,
            ..Failure::of(format_args!("exec {name}"), cause)
        },
    }
}

fn not_executable(name: &str, why: &str) -> Failure {
    Failure::new(FailureKind::NotExecutable, format!("exec: \"{name}\": {why}"))
}

fn joined(folder: &str, path: &str) -> String {
    String::from_utf8_lossy(&join(folder.as_bytes(), path.as_bytes())).into_owned()
}

fn check(root: &Root, path: &str) -> std::result::Result<(), Errno> {
    let mode = mode_of(&root.open_at(path.as_bytes(), OFlags::PATH)?)?;
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile if mode & 0o111 != 0 => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, mode| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        file("usr/bin/tool", 0o755);
        file("opt/tool", 0o644);
        file("work/run.sh", 0o755);
        symlink("/usr/bin", folder.path().join("bin")).unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    #[track_caller]
    fn check_found(name: &str, path: &str, expected: &str) {
        let (_folder, root) = root();
        let env = [format!("PATH={path}")];
        assert_eq!(find(&root, name, &env, "/work").as_deref(), Ok(expected));
    }

    #[track_caller]
    fn check_refused(name: &str, kind: FailureKind, message: &str) {
        let (_folder, root) = root();
        let failure = find(&root, name, &["PATH=/opt:/nowhere".into()], "/").unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
    }

    #[test]
    fn path_is_searched_in_order_and_skips_what_cannot_run() {
        check_found("tool", "/opt:/nowhere:/bin:/usr/bin", "/bin/tool");
        check_found("run.sh", "/opt:.", "/work/./run.sh");
    }

    #[test]
    fn a_name_with_a_slash_is_taken_from_the_working_directory() {
        check_found("./run.sh", "", "/work/./run.sh");
        check_found("/bin/tool", "", "/bin/tool");
    }

    #[test]
    fn what_cannot_run_is_refused_in_dockers_words() {
        use FailureKind::{NotExecutable, NotFound};
        check_refused("tool", NotFound, "exec: \"tool\": executable file not found in $PATH");
        check_refused("", NotFound, "exec: \"\": executable file not found in $PATH");
        check_refused("/x", NotFound, "exec: \"/x\": stat /x: no such file or directory");
        check_refused("/opt", NotExecutable, "exec: \"/opt\": is a directory");
        check_refused("/opt/tool", NotExecutable, "exec: \"/opt/tool\": permission denied");
    }

    #[test]
    fn without_a_path_the_usual_places_are_searched() {
        let (_folder, root) = root();
        assert_eq!(find(&root, "tool", &[], "/").as_deref(), Ok("/usr/bin/tool"));
    }
}
