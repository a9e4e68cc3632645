//! The saved VMs that containers start from are the shims' business; here they are only kept sound.

use crate::engine::Engine;
use std::process::Stdio;
use tokio::process::Command;

impl Engine {
    /// Has all templates read whole, once after each start of the host, beside everything else: what
    /// changed on the disk behind the file system's back would otherwise never be noticed.
    pub(crate) fn verify_templates(&self) {
        let mut command = Command::new(&self.settings.executable);
        command.args(["template", "verify", "--once", "--cache"]).arg(&self.places().cache);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        tokio::spawn(async move {
            match command.output().await {
                Ok(done) if done.stderr.is_empty() => {}
                Ok(done) => {
                    let said = String::from_utf8_lossy(&done.stderr);
                    tracing::warn!("{}", said.trim());
                }
                Err(error) => tracing::warn!(%error, "the templates are not verified"),
            }
        });
    }
}
