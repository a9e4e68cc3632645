//! What this machine offers, as the probe finds it.

use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use ireko_protocol::host::HostFacts;
use ireko_protocol::plan::AccelChoice;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Time for the probe; it may boot a guest where this boot's verdict is not known yet.
const LONGEST: Duration = Duration::from_secs(60);

impl Engine {
    /// Runs `ireko probe`, which alone knows QEMU, and returns what it found.
    pub async fn host_facts(&self) -> Result<HostFacts> {
        let what = || "run `ireko probe`".to_owned();
        let mut command = Command::new(&self.settings.executable);
        command.arg("probe").arg("--cache").arg(&self.places().cache);
        command.arg("--accel").arg(word(self.settings.accel));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LONGEST, command.output())
            .await
            .map_err(|_| Error::internal("`ireko probe` does not end"))?
            .attempt(what)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::internal(format!("`ireko probe` failed: {said}")));
        }
        serde_json::from_slice(&output.stdout).attempt(what)
    }
}

fn word(choice: AccelChoice) -> &'static str {
    match choice {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    }
}
