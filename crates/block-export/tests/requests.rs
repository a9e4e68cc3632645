//! Requests, their answers and what they do to the disk.

mod client;

use client::*;
use ireko_disk::{Disk, ErrorKind, Extent, ExtentKind, Geometry, Result};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

const SIZE: u64 = 8 * BLOCK;

#[test]
fn a_read_tells_holes_from_data_unless_it_must_be_one_piece() {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(2 * BLOCK, &vec![7; BLOCK as usize]).unwrap();
    let served = Served::new(export(disk));
    let mut client = served.client();
    let block = BLOCK as u32;
    assert_eq!(
        client.ask(READ, 0, BLOCK, 3 * block),
        Reply::Chunks(vec![
            Chunk::Hole(BLOCK, block),
            Chunk::Data(2 * BLOCK, vec![7; BLOCK as usize]),
            Chunk::Hole(3 * BLOCK, block),
        ])
    );
    let Reply::Chunks(chunks) = client.ask(READ, DF, BLOCK, 3 * block) else { panic!() };
    assert!(matches!(&chunks[..], [Chunk::Data(BLOCK, data)] if data.len() == 3 * block as usize));
    assert_eq!(client.ask(READ, 0, 5, 0), Reply::Chunks(vec![]));
}

#[test]
fn a_client_without_structured_replies_gets_plain_data() {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(3, b"abc").unwrap();
    let served = Served::new(export(disk));
    let mut client = served.simple_client();
    client.send(READ, 0, 2, 5);
    assert_eq!(client.reply(), (1, Reply::Done));
    assert_eq!(client.bytes(5), b"\0abc\0");
    assert_eq!(client.ask(READ, DF, 0, 512), Reply::Error(EINVAL));
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 512), Reply::Error(EINVAL));
}

#[test]
fn block_status_shows_the_disks_extents() {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(BLOCK, &vec![1; 2 * BLOCK as usize]).unwrap();
    disk.write_zeroes(3 * BLOCK, BLOCK).unwrap();
    let served = Served::new(export(disk));
    let mut client = served.client();
    let block = BLOCK as u32;
    // A zero extent and an absent one are the same to the client, so they are one.
    assert_eq!(
        client.ask(BLOCK_STATUS, 0, 512, SIZE as u32 - 512),
        Reply::Status(vec![(block - 512, 3), (2 * block, 0), (5 * block, 3)])
    );
    assert_eq!(
        client.ask(BLOCK_STATUS, REQ_ONE, BLOCK + 1, 4 * block),
        Reply::Status(vec![(2 * block - 1, 0)])
    );
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 0), Reply::Error(EINVAL));
}

#[test]
fn zeros_and_trims_give_space_back_unless_a_hole_is_refused() {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(0, &vec![1; SIZE as usize]).unwrap();
    let served = Served::new(export(disk.clone()));
    let mut client = served.client();
    let block = BLOCK as u32;
    assert_eq!(client.ask(WRITE_ZEROES, 0, 0, block), Reply::Done);
    assert_eq!(client.ask(WRITE_ZEROES, FAST_ZERO, BLOCK, block), Reply::Done);
    assert_eq!(client.ask(WRITE_ZEROES, NO_HOLE, 2 * BLOCK, block), Reply::Done);
    assert_eq!(
        client.ask(WRITE_ZEROES, NO_HOLE | FAST_ZERO, 3 * BLOCK, block),
        Reply::Error(ENOTSUP)
    );
    assert_eq!(client.ask(TRIM, 0, 4 * BLOCK, block), Reply::Done);
    use ExtentKind::{Data, Zero};
    assert_eq!(disk.kinds(), [Zero, Zero, Data, Data, Zero, Data, Data, Data]);
    let bytes = client.read(0, SIZE as u32);
    let firsts: Vec<u8> = bytes.chunks(BLOCK as usize).map(|block| block[0]).collect();
    assert_eq!(firsts, [0, 0, 0, 1, 0, 1, 1, 1]);
}

#[test]
fn a_forced_write_is_flushed_before_it_is_answered() {
    let disk = MemoryDisk::new(SIZE);
    let served = Served::new(export(disk.clone()));
    let mut client = served.client();
    let flushes = || disk.flushes.load(Ordering::SeqCst);
    assert_eq!((client.write(0, 0, b"x"), flushes()), (Reply::Done, 0));
    assert_eq!((client.write(FUA, 0, b"x"), flushes()), (Reply::Done, 1));
    assert_eq!((client.ask(TRIM, FUA, 0, 512), flushes()), (Reply::Done, 2));
    assert_eq!((client.ask(WRITE_ZEROES, FUA, 0, 512), flushes()), (Reply::Done, 3));
    assert_eq!((client.ask(FLUSH, 0, 0, 0), flushes()), (Reply::Done, 4));
    assert_eq!((client.ask(CACHE, 0, 0, 512), flushes()), (Reply::Done, 4));
}

#[test]
fn requests_past_the_end_or_malformed_are_refused_and_the_connection_lives() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut client = served.client();
    for (command, flags, offset, length, expected) in [
        (READ, 0, SIZE, 1, EINVAL),
        (READ, 0, u64::MAX, 1, EINVAL),
        (READ, 0, 0, (32 << 20) + 1, EINVAL),
        (READ, REQ_ONE, 0, 512, EINVAL),
        (TRIM, 0, SIZE - 1, 2, EINVAL),
        (WRITE_ZEROES, 0, SIZE, 1, ENOSPC),
        (WRITE_ZEROES, DF, 0, 1, EINVAL),
        (BLOCK_STATUS, 0, SIZE - 512, 513, EINVAL),
        (CACHE, 0, SIZE, 1, EINVAL),
        (FLUSH, DF, 0, 0, EINVAL),
        (8, 0, 0, 0, EINVAL),
        (u16::MAX, 0, 0, 0, EINVAL),
    ] {
        let reply = client.ask(command, flags, offset, length);
        assert_eq!(reply, Reply::Error(expected), "command {command} at {offset:#x}");
    }
    assert_eq!(client.write(0, SIZE - 1, b"xy"), Reply::Error(ENOSPC));
    assert_eq!(client.write(DF, 0, b"xy"), Reply::Error(EINVAL));
    assert_eq!(client.write(0, SIZE - 1, b"x"), Reply::Done);
    assert_eq!(client.write(0, SIZE, b""), Reply::Done);
}

#[test]
fn the_disks_errors_reach_the_client_as_its_own() {
    let disk = MemoryDisk::new(SIZE);
    let served = Served::new(export(disk.clone()));
    let mut client = served.client();
    for (kind, expected) in [
        (ErrorKind::Io, EIO),
        (ErrorKind::NoSpace, ENOSPC),
        (ErrorKind::Corrupt, EIO),
        (ErrorKind::Unsupported, ENOTSUP),
        (ErrorKind::OutOfRange, EINVAL),
        (ErrorKind::ReadOnly, EPERM),
        (ErrorKind::InUse, EIO),
    ] {
        *disk.failing.lock().unwrap() = Some(kind);
        assert_eq!(client.write(0, 0, b"x"), Reply::Error(expected), "{kind:?}");
        assert_eq!(client.ask(READ, 0, 0, 512), Reply::Error(expected), "{kind:?}");
        assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 512), Reply::Error(expected), "{kind:?}");
        assert_eq!(client.ask(FLUSH, 0, 0, 0), Reply::Error(expected), "{kind:?}");
    }
    *disk.failing.lock().unwrap() = None;
    assert_eq!(client.write(0, 0, b"x"), Reply::Done);
}

#[test]
fn a_write_that_is_too_long_or_no_request_at_all_ends_the_connection() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut client = served.client();
    client.send(WRITE, 0, 0, (32 << 20) + 1);
    assert_eq!(client.until_closed(), b"");
    let mut client = served.client();
    client.stream.write_all(&[b'x'; 28]).unwrap();
    assert_eq!(client.until_closed(), b"");
}

#[test]
fn what_was_asked_before_a_disconnect_is_answered() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut client = served.client();
    let cookies: Vec<u64> = (0..100).map(|_| client.send(FLUSH, 0, 0, 0)).collect();
    client.send(DISCONNECT, 0, 0, 0);
    let mut answered: Vec<u64> = cookies.iter().map(|_| client.reply().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, cookies);
    assert_eq!(client.until_closed(), b"");
}

/// A disk that does `on_read` instead of reading.
struct OnRead<F>(F);

impl<F: Fn(u64, &mut [u8]) + Send + Sync> Disk for OnRead<F> {
    fn geometry(&self) -> Geometry {
        Geometry { virtual_size: 32 << 20, logical_sector: 512, physical_sector: 512 }
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        (self.0)(offset, buffer);
        Ok(())
    }
    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>> {
        Ok(Vec::new())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn requests_of_one_connection_are_done_side_by_side() {
    let all_are_here = Barrier::new(8);
    let disk = OnRead(move |_, _: &mut [u8]| {
        all_are_here.wait();
    });
    let served = Served::new(export(Arc::new(disk)));
    let mut client = served.client();
    for _ in 0..8 {
        client.send(READ, 0, 0, 512);
    }
    for _ in 0..8 {
        assert!(matches!(client.reply().1, Reply::Chunks(_)));
    }
}

#[test]
fn long_reads_hold_no_more_memory_than_a_connection_may() {
    let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (held.clone(), most.clone());
    let disk = OnRead(move |_, buffer: &mut [u8]| {
        peak.fetch_max(
            now.fetch_add(buffer.len(), Ordering::SeqCst) + buffer.len(),
            Ordering::SeqCst,
        );
        buffer.fill(5);
        now.fetch_sub(buffer.len(), Ordering::SeqCst);
    });
    let served = Served::new(export(Arc::new(disk)));
    let mut client = served.client();
    let cookies: Vec<u64> = (0..8).map(|_| client.send(READ, DF, 0, 32 << 20)).collect();
    let mut answered: Vec<u64> = cookies.iter().map(|_| client.reply().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, cookies);
    let most = most.load(Ordering::SeqCst);
    assert!((32 << 20..=64 << 20).contains(&most), "{most}");
}

#[test]
fn more_than_a_connection_may_hold_is_done_bit_by_bit() {
    let size = 32 << 20;
    let disk = MemoryDisk::new(size);
    let served = Served::new(export(disk.clone()));
    let mut client = served.client();
    let mut sending = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let data = vec![9; size as usize];
        for cookie in 0..4 {
            sending.write_all(&request_bytes(WRITE, 0, 4 * cookie, 0, size as u32)).unwrap();
            sending.write_all(&data).unwrap();
            for other in 1..4 {
                let read = request_bytes(READ, DF, 4 * cookie + other, 0, 2 << 20);
                sending.write_all(&read).unwrap();
            }
        }
    });
    let mut answered: Vec<u64> = (0..16).map(|_| client.reply().0).collect();
    sender.join().unwrap();
    answered.sort_unstable();
    assert_eq!(answered, (0..16).collect::<Vec<u64>>());
    assert!(disk.bytes().iter().all(|byte| *byte == 9));
}

#[test]
fn a_disk_that_panics_costs_the_connection_and_not_the_server() {
    let disk = OnRead(|offset, _: &mut [u8]| assert_eq!(offset, 0, "meant to panic"));
    let served = Served::new(export(Arc::new(disk)));
    let mut client = served.client();
    client.send(READ, 0, 512, 512);
    assert_eq!(client.until_closed(), b"");
    assert_eq!(served.client().read(0, 512), vec![0; 512]);
}

#[test]
fn a_map_that_contradicts_itself_is_an_error_of_the_disk() {
    let served = Served::new(export(Arc::new(OnRead(|_, _: &mut [u8]| ()))));
    let mut client = served.client();
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 512), Reply::Error(EIO));
    assert_eq!(client.ask(READ, 0, 0, BLOCK as u32), Reply::Error(EIO));
}

#[test]
fn shutting_down_disconnects_idle_clients_and_those_who_are_negotiating() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let (mut idle, mut negotiating) = (served.client(), served.connect());
    negotiating.greet(3);
    served.server.shut_down();
    assert_eq!(idle.until_closed(), b"");
    assert_eq!(negotiating.until_closed(), b"");
    assert!(std::os::unix::net::UnixStream::connect(&served.socket).is_err());
}

#[test]
fn one_client_too_many_is_turned_away_until_another_goes() {
    let served = Served::new(export(MemoryDisk::new(SIZE)));
    let mut clients: Vec<Client> = (0..8).map(|_| served.client()).collect();
    assert_eq!(served.connect().until_closed(), b"");
    let mut leaving = clients.pop().unwrap();
    leaving.send(DISCONNECT, 0, 0, 0);
    assert_eq!(leaving.until_closed(), b"");
    // Hanging up and leaving the list are one step to the client, two to the server.
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let mut next = served.connect();
        let mut first = [0];
        if matches!(std::io::Read::read(&mut next.stream, &mut first), Ok(1)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no place becomes free");
    }
}

#[test]
fn four_connections_at_once_read_back_what_each_wrote() {
    let disk = MemoryDisk::new(64 * BLOCK);
    let served = Served::new(export(disk.clone()));
    let share = 16 * BLOCK;
    std::thread::scope(|scope| {
        for number in 0..4 {
            let mut client = served.client();
            scope.spawn(move || {
                let mut numbers = Numbers(number + 1);
                let mut expected = vec![0; share as usize];
                let start = number * share;
                for _ in 0..200 {
                    let length = 1 + numbers.below(3 * BLOCK);
                    let offset = numbers.below(share - length);
                    let range = offset as usize..(offset + length) as usize;
                    match numbers.below(4) {
                        0 => {
                            assert_eq!(
                                client.ask(WRITE_ZEROES, 0, start + offset, length as u32),
                                Reply::Done
                            );
                            expected[range].fill(0);
                        }
                        1 | 2 => {
                            let data = numbers.bytes(length as usize);
                            assert_eq!(client.write(0, start + offset, &data), Reply::Done);
                            expected[range].copy_from_slice(&data);
                        }
                        _ => assert!(client.read(start + offset, length as u32) == expected[range]),
                    }
                }
                assert!(client.read(start, share as u32) == expected);
            });
        }
    });
}
