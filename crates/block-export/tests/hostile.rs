//! Clients that mean harm, or have lost their way.

mod client;

use client::*;
use ireko_disk::Disk;
use std::io::Write;
use std::net::Shutdown;

const SIZE: u64 = 4 * BLOCK;

/// Everything a well-behaved client says in a session that uses every option and command.
fn valid_session() -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(3, b""));
    bytes.extend(option_bytes(8, b""));
    bytes.extend(option_bytes(9, &query_data("root", &["base:"])));
    bytes.extend(option_bytes(10, &query_data("root", &["base:allocation"])));
    bytes.extend(option_bytes(6, &go_data("root", &[1, 2, 3])));
    bytes.extend(option_bytes(7, &go_data("", &[3])));
    bytes.extend(request_bytes(WRITE, FUA, 1, 512, 16));
    bytes.extend(b"sixteen bytes .,");
    bytes.extend(request_bytes(READ, 0, 2, 0, 2 * BLOCK as u32));
    bytes.extend(request_bytes(BLOCK_STATUS, REQ_ONE, 3, 0, SIZE as u32));
    bytes.extend(request_bytes(WRITE_ZEROES, NO_HOLE, 4, BLOCK, 4096));
    bytes.extend(request_bytes(TRIM, 0, 5, 0, BLOCK as u32));
    bytes.extend(request_bytes(CACHE, 0, 6, 0, 512));
    bytes.extend(request_bytes(FLUSH, 0, 7, 0, 0));
    bytes.extend(request_bytes(READ, DF, 8, 0, 512));
    bytes
}

/// Says all of `session` and returns what came back; the server must hang up.
fn play(served: &Served, session: &[u8]) -> Vec<u8> {
    let mut client = served.connect();
    // A server that has already hung up is one that has seen enough.
    let _ = client.stream.write_all(session);
    let _ = client.stream.shutdown(Shutdown::Write);
    client.until_closed()
}

#[track_caller]
fn check_still_serves(served: &Served) {
    let mut client = served.client();
    assert_eq!(client.write(0, 0, b"alive"), Reply::Done);
    assert_eq!(client.read(0, 5), b"alive");
}

#[test]
fn no_change_of_a_valid_session_harms_the_server() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let valid = valid_session();
    let mut numbers = Numbers(7);
    for _ in 0..1500 {
        let mut session = valid.clone();
        for _ in 0..1 + numbers.below(3) {
            let at = numbers.below(session.len() as u64) as usize;
            match numbers.below(5) {
                0 => session[at] ^= 1 << numbers.below(8),
                1 => session[at] = [0, 0xff, 0x7f, 0x80][numbers.below(4) as usize],
                2 => drop(session.remove(at)),
                3 => session.insert(at, numbers.below(256) as u8),
                _ => session.truncate(at.max(1)),
            }
        }
        play(&served, &session);
    }
    check_still_serves(&served);
}

#[test]
fn every_single_byte_may_be_the_last() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let valid = valid_session();
    for length in 0..valid.len() {
        play(&served, &valid[..length]);
    }
    check_still_serves(&served);
}

#[test]
fn noise_is_hung_up_on() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut numbers = Numbers(11);
    for _ in 0..200 {
        let length = numbers.below(600) as usize;
        play(&served, &numbers.bytes(length));
    }
    check_still_serves(&served);
}

#[test]
fn options_without_end_are_hung_up_on() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut session = 3_u32.to_be_bytes().to_vec();
    for _ in 0..1000 {
        session.extend(option_bytes(999, b""));
    }
    play(&served, &session);
    check_still_serves(&served);
}

#[test]
fn a_client_that_does_not_listen_stops_only_itself() {
    let disk = MemoryDisk::new(64 * BLOCK);
    disk.write_at(0, &vec![1; 64 * BLOCK as usize]).unwrap();
    let served = Served::new(export(disk));
    let mut deaf = served.client();
    for _ in 0..32 {
        deaf.send(READ, 0, 0, 64 * BLOCK as u32);
    }
    check_still_serves(&served);
    served.server.shut_down();
}

#[test]
fn a_write_that_is_promised_and_not_sent_holds_up_only_its_own_connection() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut stalling: Vec<Client> = (0..4).map(|_| served.client()).collect();
    for client in &mut stalling {
        client.send(WRITE, 0, 0, 32 << 20);
    }
    check_still_serves(&served);
    served.server.shut_down();
}
