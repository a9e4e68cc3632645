//! Pausing a container's processes, listing them, and the size of its terminal.

use crate::blocking::to_its_end;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::shim_client::{GUEST, unexpected};
use crate::state::RunState;
use ireko_protocol::agent::{ProcessId, ProcessInfo};
use ireko_protocol::shim::{Answer, Request};
use std::sync::Arc;

impl Engine {
    /// Stops a container's processes where they are. Errors where it does not run, or is paused.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            if container.record().is_paused() {
                return Err(Error::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            engine.set_paused(&container, true).await
        })
        .await
    }

    /// Lets a paused container's processes run. Errors where it is not paused.
    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            if !container.record().is_paused() {
                return Err(Error::conflict(format!("Container {} is not paused", container.id)));
            }
            engine.unpause_container(&container).await
        })
        .await
    }

    pub(crate) async fn unpause_container(&self, container: &Arc<Container>) -> Result<()> {
        self.set_paused(container, false).await
    }

    async fn set_paused(&self, container: &Arc<Container>, pause: bool) -> Result<()> {
        let (request, word) =
            if pause { (Request::Pause, "pause") } else { (Request::Unpause, "unpause") };
        let shim = container.running_shim(self.places())?;
        shim.ask(request, GUEST)
            .await
            .map_err(|error| error.into_error(|| format!("{word} container {}", container.id)))?;
        let record = container
            .update(move |record| {
                if let RunState::Running { paused, .. } = &mut record.state {
                    *paused = pause;
                }
            })
            .await?;
        self.emit(&record, word, &[]);
        Ok(())
    }

    /// The processes of a running container.
    pub async fn top(&self, reference: &str) -> Result<Vec<ProcessInfo>> {
        let container = self.find(reference)?;
        let shim = container.running_shim(self.places())?;
        let answer = shim.ask(Request::ListProcesses, GUEST).await.map_err(|error| {
            error.into_error(|| format!("list the processes of container {}", container.id))
        })?;
        match answer {
            Answer::Processes { processes } => {
                self.emit(&container.record(), "top", &[]);
                Ok(processes)
            }
            other => Err(unexpected("list processes", &other)),
        }
    }

    /// Sets the size of a running container's terminal.
    pub async fn resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.find(reference)?;
        let shim = container.running_shim(self.places())?;
        let request = Request::Resize { process: ProcessId::INIT, rows, columns };
        shim.ask(request, GUEST).await.map_err(|error| {
            error.into_error(|| format!("resize the terminal of container {}", container.id))
        })?;
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        self.emit(&container.record(), "resize", &size);
        Ok(())
    }
}
