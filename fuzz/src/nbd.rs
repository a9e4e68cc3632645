//! What a client says to an NBD server.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ireko_block_export::{Export, serve};
use ireko_disk::vhdx::{self, CreateOptions};
use ireko_disk::{Access, Chain};
use ireko_testkit::Image;

use crate::sparse::Sparse;

const DISK: u64 = 128 << 10;
/// What a session of [`MAX_SESSION`] bytes can make a server say, and more.
const MAX_ANSWER: u64 = 64 << 20;
const MAX_SESSION: usize = 8 << 10;
/// Longer than the fuzzer waits for one run.
const DEADLINE: Duration = Duration::from_secs(30);

/// The bytes are a client's; the first bit of the first says whether it may write. The server must hang up.
pub fn run(data: &[u8]) {
    let (control, session) = data.split_first().unwrap_or((&0, &[]));
    let storage = Arc::new(Sparse::new(Image::default()));
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(DISK) };
    vhdx::format(&*storage, &options).expect("format a disk");
    let disk = Chain::over(vec![storage], Access::ReadWrite).expect("open a disk");
    let export = Export {
        name: "root".into(),
        disk: Arc::new(disk),
        read_only: control & 1 != 0,
        description: "a disk".into(),
    };
    let address = address();
    let listener = UnixListener::bind_addr(&address).expect("a socket");
    let server = serve(listener, export).expect("a server");
    let mut client = UnixStream::connect_addr(&address).expect("a connection");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");

    // All of it fits a socket's buffer: a server that reads no more cannot hold up the writing.
    let _ = client.write_all(&session[..session.len().min(MAX_SESSION)]);
    let _ = client.shutdown(Shutdown::Write);
    let mut answer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match client.read(&mut answer) {
            Ok(0) => break,
            Ok(count) => total += count as u64,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("the server does not hang up: {error}"),
        }
        assert!(total <= MAX_ANSWER, "the server does not stop talking");
    }
    server.shut_down();
}

/// A name of this process's own that is no file.
fn address() -> SocketAddr {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ireko-fuzz-{}-{number}", std::process::id());
    SocketAddr::from_abstract_name(name).expect("a short name")
}
