//! A port of this machine's loopback address that leads to the daemon.
//!
//! ```text
//!   viewer ─► 127.0.0.1:PORT ─► here ─► POST …, Upgrade: tcp ─► daemon ─► the guest
//! ```
//!
//! It lasts as long as this process.

use crate::client::{Client, Content};
use crate::error::{Error, Result};
use crate::output::note;
use crate::target::Target;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A port that is listened on.
pub struct Tunnel {
    listener: TcpListener,
    /// Where it is.
    pub address: SocketAddr,
}

impl Tunnel {
    /// Listens on a port; 0 is any.
    pub async fn open(port: u16) -> Result<Self> {
        let listen = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            let address = listener.local_addr()?;
            Ok::<_, std::io::Error>(Self { listener, address })
        };
        listen.await.map_err(|error| {
            Error::local(format!("cannot listen on 127.0.0.1:{port}"))
                .because(error)
                .hint("--port names another one")
        })
    }

    /// Carries each client's bytes to and from a connection of its own; returns only where no client
    /// can be taken any more.
    pub async fn serve(self, client: &Client, target: &Target) -> Result<()> {
        loop {
            let (stream, _) = self
                .listener
                .accept()
                .await
                .map_err(|error| Error::local("take a connection").because(error))?;
            let (client, target) = (client.clone(), target.clone());
            tokio::spawn(async move {
                if let Err(error) = carry(stream, &client, &target).await {
                    note(error.report());
                }
            });
        }
    }
}

async fn carry(mut stream: TcpStream, client: &Client, target: &Target) -> Result<()> {
    let link = client.hijack(target, Content::none()).await?;
    let mut daemon = tokio::io::join(link.output, link.input);
    // Either may go at any moment; there is nobody to be told.
    if stream.write_all(&link.first).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut daemon).await;
    }
    Ok(())
}
