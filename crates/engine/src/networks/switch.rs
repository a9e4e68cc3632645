//! A network's switch: the process that is there while a container of the network runs.
//!
//! What is attached is remembered here, and attached again to a switch that takes the place of one
//! that died: guests keep their addresses and carry on, connections that were open are lost.

use crate::durable;
use crate::error::{Attempt, Error, Result};
use crate::networks::state::NetworkRecord;
use crate::shim_process::OwnProcess;
use ireko_protocol::frame::{Frame, FrameDecoder};
use ireko_protocol::network::{
    Answer, Endpoint, Envelope, Mode, NetworkPlan, Publish, Published, Request, VERSION,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// Time for an answer, which takes no guest.
const QUICK: Duration = Duration::from_secs(10);
/// Time for a new switch to listen.
const LISTEN: Duration = Duration::from_secs(30);
/// Time for one that was told to end.
const END: Duration = Duration::from_secs(10);
/// A switch that dies again and again is not started more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// How a switch is started.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) executable: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) runtime: PathBuf,
    /// `<root>/networks/<id>`.
    pub(crate) folder: PathBuf,
}

/// The switch of one network.
#[derive(Debug)]
pub(crate) struct Switch {
    setting: Setting,
    record: Arc<NetworkRecord>,
    mode: Mode,
    now: tokio::sync::Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// Ends the watch over the process that runs; `None` where none does.
    running: Option<Arc<Notify>>,
    /// By container id, with the ports of the host that they got.
    attached: BTreeMap<String, Endpoint>,
}

impl Switch {
    pub(crate) fn new(setting: Setting, record: Arc<NetworkRecord>, mode: Mode) -> Arc<Self> {
        Arc::new(Self { setting, record, mode, now: tokio::sync::Mutex::default() })
    }

    /// Attaches a VM, starting the switch where there is none; where the host listens for it.
    pub(crate) async fn attach(self: &Arc<Self>, endpoint: Endpoint) -> Result<Vec<Published>> {
        let mut now = self.now.lock().await;
        self.ensure_running(&mut now).await?;
        let published = self.attach_one(&endpoint).await;
        match &published {
            Ok(published) => {
                let kept = with_ports(endpoint.clone(), published);
                now.attached.insert(kept.container.clone(), kept);
            }
            Err(_) => {
                now.attached.remove(&endpoint.container);
                self.end_if_idle(&mut now).await;
            }
        }
        published
    }

    /// Lets a VM go, and the switch end with its last; whether it was there.
    pub(crate) async fn detach(self: &Arc<Self>, container: &str) -> bool {
        let mut now = self.now.lock().await;
        if now.attached.remove(container).is_none() {
            return false;
        }
        let request = Request::Detach { container: container.to_owned() };
        if let Err(error) = self.ask(request).await {
            tracing::warn!(error = error.chain(), network = self.record.name, "not detached");
        }
        self.end_if_idle(&mut now).await;
        true
    }

    /// Whether a VM takes a connection to this TCP port, which the gateway tries once.
    pub(crate) async fn probe(&self, container: &str, port: u16) -> Result<bool> {
        match self.ask(Request::Probe { container: container.to_owned(), port }).await? {
            Answer::Probed { open } => Ok(open),
            Answer::Refused { message } => Err(Error::internal(message)),
            other => Err(unexpected(&other)),
        }
    }

    /// Has clients of a unix socket connected to a VM's TCP port.
    pub(crate) async fn open(&self, container: &str, port: u16, socket: &Path) -> Result<()> {
        let (container, socket) = (container.to_owned(), socket.to_owned());
        match self.ask(Request::Open { container, port, socket }).await? {
            Answer::Done => Ok(()),
            Answer::Refused { message } => Err(Error::internal(message)),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes over what a former daemon left: `endpoints` are those of containers that run.
    pub(crate) async fn take_over(self: &Arc<Self>, endpoints: Vec<Endpoint>) {
        let mut now = self.now.lock().await;
        for endpoint in endpoints {
            now.attached.entry(endpoint.container.clone()).or_insert(endpoint);
        }
        let result = match self.ask(Request::Status).await {
            Ok(Answer::Status { endpoints }) => {
                let there: Vec<_> = endpoints.into_iter().map(|one| one.container).collect();
                self.settle(&mut now, &there).await
            }
            // It is gone, or cannot be talked to.
            _ if now.attached.is_empty() => Ok(()),
            _ => self.ensure_running(&mut now).await,
        };
        if let Err(error) = result {
            tracing::error!(error = error.chain(), network = self.record.name, "no switch");
        }
    }

    /// Brings a living switch and what should be attached together.
    async fn settle(self: &Arc<Self>, now: &mut Now, there: &[String]) -> Result<()> {
        self.ensure_running(now).await?;
        for container in there.iter().filter(|id| !now.attached.contains_key(*id)) {
            self.ask(Request::Detach { container: container.clone() }).await?;
        }
        let missing: Vec<_> =
            now.attached.values().filter(|one| !there.contains(&one.container)).cloned().collect();
        for endpoint in missing {
            self.attach_one(&endpoint).await?;
        }
        self.end_if_idle(now).await;
        Ok(())
    }

    async fn attach_one(&self, endpoint: &Endpoint) -> Result<Vec<Published>> {
        match self.ask(Request::Attach(Box::new(endpoint.clone()))).await? {
            Answer::Attached { published } => Ok(published),
            Answer::Refused { message } => {
                let short = endpoint.names.first().map_or("", String::as_str);
                Err(Error::internal(format!(
                    "driver failed programming external connectivity on endpoint {short}: {message}"
                )))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn end_if_idle(&self, now: &mut Now) {
        if !now.attached.is_empty() {
            return;
        }
        let Some(watch) = now.running.take() else { return };
        watch.notify_one();
        // Where that fails it is ended by who watches over it.
        let _ = self.ask(Request::End).await;
    }

    /// Finds the switch that runs, or starts one and attaches what was attached.
    async fn ensure_running(self: &Arc<Self>, now: &mut Now) -> Result<()> {
        if now.running.is_some() {
            return Ok(());
        }
        if let Some(process) = self.find().await {
            now.running = Some(self.watch(process));
            return Ok(());
        }
        let process = self.spawn().await?;
        now.running = Some(self.watch(process));
        for endpoint in now.attached.values() {
            if let Err(error) = self.attach_one(endpoint).await {
                tracing::error!(error = error.chain(), id = endpoint.container, "not attached");
            }
        }
        Ok(())
    }

    /// The switch that a former daemon started; one that does not answer is killed.
    async fn find(&self) -> Option<OwnProcess> {
        let stream = UnixStream::connect(self.socket()).await.ok()?;
        let mut process = OwnProcess::of_peer(&stream).ok()??;
        match self.ask(Request::Status).await {
            Ok(Answer::Status { .. }) => Some(process),
            _ => {
                process.kill();
                process.ended().await;
                None
            }
        }
    }

    async fn spawn(&self) -> Result<OwnProcess> {
        let Setting { executable, root, folder, .. } = &self.setting;
        let (plan, log) = (folder.join("switch.json"), folder.join("switch.log"));
        durable::write_json_unsynced(&plan, &self.plan())?;
        durable::remove_file(&log)?;
        let mut process = OwnProcess::spawn(executable, "switch", root, &plan, &log)?;
        let deadline = Instant::now() + LISTEN;
        while UnixStream::connect(self.socket()).await.is_err() {
            tokio::select! {
                () = process.ended() => return Err(self.early_end(&log)),
                () = sleep(Duration::from_millis(2)) => {}
            }
            if Instant::now() > deadline {
                process.kill();
                return Err(self.early_end(&log));
            }
        }
        Ok(process)
    }

    fn plan(&self) -> NetworkPlan {
        let record = &self.record;
        NetworkPlan {
            version: VERSION,
            network: record.id.clone(),
            name: record.name.clone(),
            mode: self.mode,
            subnet: record.subnet.first(),
            prefix: record.subnet.prefix(),
            gateway: record.gateway,
            mtu: record.mtu,
            host_loopback: record.host_loopback,
            names: record.has_names(),
            socket: self.socket(),
        }
    }

    /// Where it takes requests.
    pub(crate) fn socket(&self) -> PathBuf {
        self.setting.runtime.join(format!("{}.switch", &self.record.id[..12]))
    }

    fn early_end(&self, log: &Path) -> Error {
        let said = fs::read(log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(2000)..]).into_owned();
        let name = &self.record.name;
        Error::internal(format!("the switch of network {name} does not come up: {}", said.trim()))
    }

    /// Replaces the process when it dies; what ends the watch.
    fn watch(self: &Arc<Self>, mut process: OwnProcess) -> Arc<Notify> {
        let is_done = Arc::new(Notify::new());
        let (switch, done) = (Arc::downgrade(self), Arc::clone(&is_done));
        tokio::spawn(async move {
            let began = Instant::now();
            tokio::select! {
                biased;
                () = done.notified() => return process.end_within(END).await,
                () = process.ended() => {}
            }
            tokio::time::sleep_until(began + PAUSE).await;
            let Some(switch) = switch.upgrade() else { return };
            let mut now = switch.now.lock().await;
            if !now.running.as_ref().is_some_and(|running| Arc::ptr_eq(running, &done)) {
                return;
            }
            tracing::warn!(network = switch.record.name, "the switch died; it is replaced");
            now.running = None;
            if let Err(error) = switch.replace(&mut now).await {
                tracing::error!(error = error.chain(), network = switch.record.name, "no switch");
            }
        });
        is_done
    }

    /// [`Switch::ensure_running`], boxed because it leads back to [`Switch::watch`].
    fn replace<'a>(
        self: &'a Arc<Self>,
        now: &'a mut Now,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(self.ensure_running(now))
    }

    async fn ask(&self, request: Request) -> Result<Answer> {
        let what = || format!("talk to the switch of network {}", self.record.name);
        timeout(QUICK, exchange(&self.socket(), request))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .attempt(what)
    }
}

async fn exchange(socket: &Path, request: Request) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    let envelope = Envelope { version: VERSION, request };
    let frame = Frame::message(&envelope).map_err(std::io::Error::other)?;
    stream.write_all(&frame.encode()).await?;
    let mut decoder = FrameDecoder::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(frame) = decoder.next_frame().map_err(std::io::Error::other)? {
            return frame.parse().map_err(std::io::Error::other);
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => decoder.feed(&buffer[..count]),
        }
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::internal(format!("a switch answered with {answer:?}"))
}

/// The same endpoint, asking for just the ports that it got.
fn with_ports(endpoint: Endpoint, published: &[Published]) -> Endpoint {
    Endpoint { publish: published.iter().map(Publish::from).collect(), ..endpoint }
}
