//! Docker's own daemon, for comparison: containers that are processes of this machine's kernel.

use ireko_e2e::{World, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

const UP_WITHIN: Duration = Duration::from_secs(60);

/// A daemon of this machine's, in a network and with mounts of its own; it goes with this value.
pub struct Dockerd {
    process: Child,
    socket: PathBuf,
}

impl Dockerd {
    /// Started with the same `base` image as Ireko's; `None` where there is none, or it does not come up.
    pub fn start(world: &World, client: &Path) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("ireko-dockerd-").tempdir().ok()?.keep();
        let log = std::fs::File::create(folder.join("log")).ok()?;
        let script = "ip link set lo up; exec dockerd --host unix://$0/sock --data-root $0/data \
                      --exec-root $0/exec --pidfile $0/pid";
        let process = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", script])
            .arg(&folder)
            .stdout(log.try_clone().ok()?)
            .stderr(log)
            .spawn()
            .ok()?;
        let mut dockerd = Self { process, socket: folder.join("sock") };
        if !dockerd.comes_up(client) {
            println!("dockerd is left out: see {}", folder.join("log").display());
            return None;
        }
        let archive = folder.join("base.tar");
        world.ok(&["create", "--name", "exported", "base", "true"]);
        world.ok(&["export", "-o", archive.to_str()?, "exported"]);
        world.ok(&["rm", "exported"]);
        run(dockerd.docker(client).arg("import").arg(&archive).arg("base")).ok();
        Some(dockerd)
    }

    fn comes_up(&mut self, client: &Path) -> bool {
        let began = Instant::now();
        while began.elapsed() < UP_WITHIN {
            if run(self.docker(client).arg("version")).code == 0 {
                return true;
            }
            if !matches!(self.process.try_wait(), Ok(None)) {
                return false;
            }
            sleep(Duration::from_millis(100));
        }
        false
    }

    /// `docker` told to talk to it.
    pub fn docker(&self, client: &Path) -> Command {
        let mut command = Command::new(client);
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .env_remove("DOCKER_HOST");
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containers and its containerd first.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
        if let Some(folder) = self.socket.parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
