//! Where the root, the cache and the sockets are.
//!
//! ```text
//!   <root>/                         --root, IREKO_ROOT, else the XDG data folder
//!   <root>/ireko.sock               link to <runtime>/ireko.sock
//!   <cache>/                        --cache, IREKO_CACHE, else the XDG cache folder
//!   <runtime>/ = …/ireko/<8 hex of root>/
//!   <runtime>/<12 hex VM id>/       one VM's sockets
//! ```
//!
//! Only names are computed here; nothing is made or opened.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Unix socket paths end at 107 bytes; over this many the root is refused.
pub const MAX_SOCKET_PATH: usize = 100;

/// What the names depend on; taken from the process by [`Environment::of_process`].
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Effective user id.
    pub uid: u32,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub xdg_data: Option<OsString>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime: Option<OsString>,
    /// `IREKO_ROOT`.
    pub root: Option<OsString>,
    /// `IREKO_CACHE`.
    pub cache: Option<OsString>,
}

impl Environment {
    /// Reads the variables of this process; `uid` is its effective user id.
    pub fn of_process(uid: u32) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            uid,
            home: variable("HOME"),
            xdg_data: variable("XDG_DATA_HOME"),
            xdg_cache: variable("XDG_CACHE_HOME"),
            xdg_runtime: variable("XDG_RUNTIME_DIR"),
            root: variable("IREKO_ROOT"),
            cache: variable("IREKO_CACHE"),
        }
    }

    fn home_folder(&self, xdg: &Option<OsString>, below_home: &str) -> PathBuf {
        match (xdg, &self.home) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(home).join(below_home),
            (None, None) => PathBuf::from(format!("/tmp/ireko-{}", self.uid)).join(below_home),
        }
    }
}

/// The three folders everything else is found from. All absolute where the inputs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The store.
    pub root: PathBuf,
    /// Machine-wide, re-creatable.
    pub cache: PathBuf,
    /// Sockets of this root.
    pub runtime: PathBuf,
}

impl Places {
    /// Finds the folders; `root` and `cache` are what the command line gave, already absolute.
    pub fn new(env: &Environment, root: Option<PathBuf>, cache: Option<PathBuf>) -> Self {
        let root =
            root.or_else(|| env.root.clone().map(PathBuf::from)).unwrap_or_else(|| match env.uid {
                0 => PathBuf::from("/var/lib/ireko"),
                _ => env.home_folder(&env.xdg_data, ".local/share").join("ireko"),
            });
        let cache =
            cache.or_else(|| env.cache.clone().map(PathBuf::from)).unwrap_or_else(|| {
                match (env.uid, &env.xdg_cache) {
                    (0, None) => PathBuf::from("/var/cache/ireko"),
                    _ => env.home_folder(&env.xdg_cache, ".cache").join("ireko"),
                }
            });
        let sockets = match (env.uid, &env.xdg_runtime) {
            (0, _) => PathBuf::from("/run/ireko"),
            (_, Some(folder)) => Path::new(folder).join("ireko"),
            (uid, None) => PathBuf::from(format!("/tmp/ireko-{uid}/run")),
        };
        let runtime = sockets.join(format!("{:08x}", hash(root.as_os_str().as_encoded_bytes())));
        Self { root, cache, runtime }
    }

    /// Where clients connect; a link to [`Places::socket`], so that it is short enough to bind.
    pub fn socket_link(&self) -> PathBuf {
        self.root.join("ireko.sock")
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("ireko.sock")
    }

    /// The folder of one VM's sockets; `vm` is its id, 12 hex digits.
    pub fn vm_dir(&self, vm: &str) -> PathBuf {
        self.runtime.join(vm)
    }
}

/// FNV-1a: a stable, short name for a root; collisions would only be shared folders.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_user_gets_system_folders_and_others_their_own() {
        let root = Places::new(&Environment::default(), None, None);
        assert_eq!(root.root, Path::new("/var/lib/ireko"));
        assert_eq!(root.cache, Path::new("/var/cache/ireko"));
        assert!(root.runtime.starts_with("/run/ireko"));

        let user = Environment { uid: 1000, home: Some("/home/ann".into()), ..Default::default() };
        let user = Places::new(&user, None, None);
        assert_eq!(user.root, Path::new("/home/ann/.local/share/ireko"));
        assert_eq!(user.cache, Path::new("/home/ann/.cache/ireko"));
        assert!(user.runtime.starts_with("/tmp/ireko-1000/run"));
    }

    #[test]
    fn two_roots_have_two_runtime_folders() {
        let places = |root: &str| Places::new(&Environment::default(), Some(root.into()), None);
        assert_ne!(places("/a").runtime, places("/b").runtime);
        assert_eq!(places("/a").runtime, places("/a").runtime);
    }
}
