//! Services of one word, in guests and on the host, and how they are asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// A guest that answers each connection to its port 80 with its host name, and stays.
pub fn serve(word: &str) -> String {
    format!("while :; do echo {word} | nc -l -p 80 >/dev/null; done")
}

/// What a TCP server says.
pub fn read_from(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// A guest's command that prints what a TCP server says: an empty line where nothing comes. Where
/// something should, it asks again, since a guest's server listens for one client after the other.
pub fn ask(to: &str, expected: bool) -> String {
    let tries = if expected { 60 } else { 1 };
    format!(
        "w=; for i in $(seq {tries}); do w=$(nc -w 3 {to} </dev/null 2>/dev/null); \
         [ -n \"$w\" ] && break; sleep 1; done; echo \"$w\""
    )
}

/// Asks until something is said: a guest's server is up a little after the guest.
pub fn read_soon(address: &str) -> String {
    for _ in 0..600 {
        match read_from(address) {
            Ok(said) if !said.is_empty() => return said,
            _ => thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    panic!("{address} says nothing");
}

/// A server on all of the host's addresses that says one word to everybody; its port.
pub fn host_server(word: &'static str) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that is gone is not ours to worry about.
            let _ = stream.write_all(word.as_bytes());
        }
    });
    port
}
/// A guest's command that prints what a name's address is.
pub fn resolve(name: &str) -> String {
    format!("nslookup {name} 2>/dev/null | sed -n '/^Name/,$s/^Address[^:]*: *//p' | head -1")
}
