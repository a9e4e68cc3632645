//! A whole operating system's screen and keyboard.
//!
//! The VM serves its screen by VNC on a socket of its runtime folder. Viewers have to know a
//! password, which is made anew for each who asks for the way in: what leads them to the socket may
//! be a port that others reach as well.

use crate::blocking::blocking;
use crate::container::Container;
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::names::random_hex;
use crate::shim_client::{AskError, QUICK, Refusal, ShimSocket};
use ireko_protocol::agent::FailureKind;
use ireko_protocol::shim::{Keys, Request, SCREEN_SOCKET};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// The longest picture that is read, in bytes: the largest screen, and PNG makes it smaller.
const LONGEST_PICTURE: u64 = 64 << 20;
/// Time for a picture on a starved host.
const PICTURE: Duration = Duration::from_secs(70);
/// Time for the most keys that are typed at once.
const LONGEST_TYPING: Duration = Duration::from_secs(600);

impl Engine {
    /// What a running machine shows on its screen, as PNG.
    pub async fn screenshot(&self, reference: &str) -> Result<Vec<u8>> {
        let (container, shim, folder) = self.machine(reference)?;
        let file = folder.join(format!("screen-{}.png", random_hex(8)));
        let answer = shim.ask(Request::Screenshot { file: file.clone() }, PICTURE).await;
        let picture = blocking(move || {
            let picture =
                match answer {
                    Ok(_) => read(&file),
                    Err(error) => Err(error
                        .into_error(|| format!("take a picture of container {}", container.id))),
                };
            durable::remove_file(&file)?;
            picture
        });
        picture.await
    }

    /// Types on a running machine's keyboard.
    pub async fn send_keys(&self, reference: &str, keys: Keys) -> Result<()> {
        let (container, shim, _) = self.machine(reference)?;
        match shim.ask(Request::SendKeys { keys }, LONGEST_TYPING).await {
            Ok(_) => Ok(()),
            Err(AskError::Refused(Refusal { kind: FailureKind::BadInput, message })) => {
                Err(Error::bad_parameter(message))
            }
            Err(error) => Err(error.into_error(|| format!("type in container {}", container.id))),
        }
    }

    /// Lets viewers of a running machine's screen in who say the password that is returned, and
    /// from now on no other.
    pub async fn open_screen(&self, reference: &str) -> Result<String> {
        let (container, shim, _) = self.machine(reference)?;
        let password = random_hex(8);
        shim.ask(Request::SetScreenPassword { password: password.clone() }, QUICK).await.map_err(
            |error| error.into_error(|| format!("open the screen of container {}", container.id)),
        )?;
        Ok(password)
    }

    /// A connection to a running machine's screen; VNC is spoken on it.
    pub async fn view_screen(&self, reference: &str) -> Result<UnixStream> {
        let (_, _, folder) = self.machine(reference)?;
        let socket = folder.join(SCREEN_SOCKET);
        UnixStream::connect(&socket).await.attempt(|| format!("connect to {}", socket.display()))
    }

    /// A running machine, its shim, its VM's folder.
    fn machine(&self, reference: &str) -> Result<(Arc<Container>, ShimSocket, PathBuf)> {
        let container = self.find(reference)?;
        let record = container.record();
        if !record.process.is_machine() {
            return Err(Error::bad_parameter(format!(
                "container {} runs a process, not a whole operating system: it has no screen",
                record.name
            )));
        }
        let shim = container.running_shim(self.places())?;
        let vm = record.vm().ok_or_else(|| container.not_running())?;
        let folder = self.places().vm_dir(vm);
        Ok((container, shim, folder))
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut picture = Vec::new();
    File::open(file)
        .and_then(|file| file.take(LONGEST_PICTURE).read_to_end(&mut picture))
        .attempt(|| format!("read {}", file.display()))?;
    Ok(picture)
}
