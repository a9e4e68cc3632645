//! Signals sent to this command while it stands in for a container's process.

use crate::client::Client;
use crate::target::Target;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Those passed on. Stop and continue keep their meaning for this command itself.
const PROXIED: [(SignalKind, &str); 7] = [
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::interrupt(), "SIGINT"),
    (SignalKind::quit(), "SIGQUIT"),
    (SignalKind::terminate(), "SIGTERM"),
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
    (SignalKind::alarm(), "SIGALRM"),
];

/// So many interrupts in a row mean the user wants out, whatever the container does.
const INSISTENT: u32 = 3;

/// Passes signals on to a container for as long as it lives.
pub struct Proxy {
    started: watch::Sender<bool>,
    insisted: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Begins to catch signals; they are held back until [`Proxy::started`].
    pub fn new(client: Client, container: String) -> Self {
        let (started, start) = watch::channel(false);
        let (insist, insisted) = watch::channel(false);
        let task = tokio::spawn(forward(client, container, start, insist));
        Self { started, insisted, task }
    }

    /// The container's process runs now.
    pub fn started(&self) {
        self.started.send_replace(true);
    }

    /// Ends when the user has asked for the end the third time.
    pub async fn insisted(&self) {
        let mut insisted = self.insisted.clone();
        if insisted.wait_for(|insisted| *insisted).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    client: Client,
    container: String,
    mut started: watch::Receiver<bool>,
    insist: watch::Sender<bool>,
) {
    let mut caught = catch(&PROXIED);
    let (queue, mut queued) = mpsc::unbounded_channel();
    let count = async {
        let mut interrupts = 0;
        while let Some(name) = caught.recv().await {
            interrupts += u32::from(matches!(name, "SIGINT" | "SIGTERM"));
            if interrupts == INSISTENT {
                insist.send_replace(true);
            }
            let _ = queue.send(name);
        }
    };
    let deliver = async {
        if started.wait_for(|started| *started).await.is_ok() {
            while let Some(name) = queued.recv().await {
                let target =
                    Target::docker(["containers", &container, "kill"]).with("signal", name);
                // It may have ended just now; then there is nobody to be told.
                let _ = client.tell(&target).await;
            }
        }
    };
    tokio::join!(count, deliver);
}

/// The number of the first signal that would have ended this process.
pub async fn fatal() -> i32 {
    let ends = [
        (SignalKind::hangup(), 1),
        (SignalKind::interrupt(), 2),
        (SignalKind::quit(), 3),
        (SignalKind::terminate(), 15),
    ];
    match catch(&ends).recv().await {
        Some(number) => number,
        None => std::future::pending().await,
    }
}

fn catch<T: Copy + Send + Sync + 'static>(kinds: &[(SignalKind, T)]) -> mpsc::UnboundedReceiver<T> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for &(kind, value) in kinds {
        // A signal that cannot be caught keeps its usual effect.
        let Ok(mut signals) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(value).is_ok() {}
        });
    }
    receiver
}
