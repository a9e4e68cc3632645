//! What a daemon is started with.

use ireko_protocol::places::Places;
use ireko_protocol::plan::AccelChoice;
use std::path::PathBuf;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Root, cache and the folder of sockets; absolute.
    pub places: Places,
    /// Where it listens beside the root's own socket: `unix:///absolute/path`.
    pub hosts: Vec<String>,
    /// How guests' CPUs are run.
    pub accel: AccelChoice,
    /// How many VMs stand by for containers of each shape.
    pub pool: usize,
    /// The host's control group in which each VM gets its own; absolute.
    pub group: Option<PathBuf>,
    /// Leave the terminal's session.
    pub background: bool,
}

/// Reads a `-H` value.
///
/// Errors with one sentence for people: only absolute paths of unix sockets can be listened on.
pub(crate) fn host_path(host: &str) -> Result<PathBuf, String> {
    if host.starts_with("tcp://") || host.starts_with("ssh://") {
        return Err(format!(
            "Ireko does not listen on {host}: whoever reaches this API owns the machine, so it is \
             served on unix sockets only; use -H unix:///path"
        ));
    }
    let path = PathBuf::from(host.strip_prefix("unix://").unwrap_or(host));
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("-H {host:?} is not of the form unix:///absolute/path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_can_be_listened_on() {
        assert_eq!(host_path("unix:///run/x.sock").unwrap(), PathBuf::from("/run/x.sock"));
        assert!(host_path("tcp://127.0.0.1:2375").unwrap_err().contains("unix sockets only"));
        assert!(host_path("unix://relative").is_err());
    }
}
