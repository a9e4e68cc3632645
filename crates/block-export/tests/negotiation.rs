//! What is agreed on before the first request.

mod client;

use client::*;

const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_TOO_BIG: u32 = 0x8000_0009;

fn greeted(served: &Served) -> Client {
    let mut client = served.connect();
    client.greet(3);
    client
}

#[track_caller]
fn check_answer(option: u32, data: &[u8], expected: u32) {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    assert_eq!(client.option(option, data).last().unwrap().0, expected);
    // Whatever was wrong, the negotiation goes on.
    assert_eq!(client.option(7, &go_data("root", &[])).last().unwrap().0, ACK);
}

#[test]
fn what_is_not_understood_is_refused_and_the_negotiation_goes_on() {
    check_answer(5, b"", ERR_UNSUP); // STARTTLS
    check_answer(11, b"", ERR_UNSUP); // EXTENDED_HEADERS
    check_answer(999, b"some data", ERR_UNSUP);
    check_answer(3, b"data", ERR_INVALID);
    check_answer(8, b"data", ERR_INVALID);
    check_answer(7, b"", ERR_INVALID);
    check_answer(7, &go_data("other", &[]), ERR_UNKNOWN);
    check_answer(7, &[&go_data("root", &[])[..], b"x"].concat(), ERR_INVALID);
    check_answer(10, &query_data("root", &["base:allocation"]), ERR_INVALID); // not structured
}

#[test]
fn the_oldest_way_to_begin_gives_size_and_flags_with_and_without_zeros() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    for (flags, zeros) in [(0, 124), (1, 124), (3, 0)] {
        let mut client = served.connect();
        client.greet(flags);
        std::io::Write::write_all(&mut client.stream, &option_bytes(1, b"root")).unwrap();
        assert_eq!(client.u64(), BLOCK);
        client.bytes(2 + zeros);
        assert_eq!(client.ask(FLUSH, 0, 0, 0), Reply::Done);
    }
}

#[test]
fn the_oldest_way_to_begin_hangs_up_on_another_name() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    std::io::Write::write_all(&mut client.stream, &option_bytes(1, b"other")).unwrap();
    assert_eq!(client.until_closed(), b"");
}

#[test]
fn go_tells_size_flags_name_description_and_block_sizes() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    let answers = client.option(6, &go_data("", &[1, 2, 3, 77]));
    let infos: Vec<&[u8]> = answers.iter().map(|(_, data)| &data[..]).collect();
    assert_eq!(infos.len(), 5);
    assert_eq!(infos[0][..10], [&[0, 0][..], &BLOCK.to_be_bytes()].concat());
    assert_eq!(u16::from_be_bytes(infos[0][10..].try_into().unwrap()), 0b1101_0110_1101);
    assert_eq!(infos[1], b"\0\x01root");
    assert_eq!(infos[2], b"\0\x02a test's disk");
    assert_eq!(infos[3], [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
}

#[test]
fn contexts_are_listed_and_only_the_known_one_is_selected() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    client.option(8, b"");
    let listed = (4, b"\0\0\0\0base:allocation".to_vec());
    let selected = (4, b"\0\0\0\x01base:allocation".to_vec());
    let ack = || (ACK, vec![]);
    for queries in [&[][..], &["base:"], &["qemu:x", "base:allocation"]] {
        let data = query_data("root", queries);
        assert_eq!(client.option(9, &data), [listed.clone(), ack()]);
    }
    assert_eq!(client.option(9, &query_data("root", &["qemu:"])), [ack()]);
    assert_eq!(client.option(10, &query_data("root", &["base:"])), [ack()]);
    assert_eq!(client.option(10, &query_data("root", &["base:allocation"])), [selected, ack()]);
    assert_eq!(
        client.option(10, &query_data("other", &[])),
        [(ERR_UNKNOWN, b"no such export".to_vec())]
    );
    // The failed selection forgot the one before it.
    client.option(7, &go_data("root", &[]));
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 512), Reply::Error(22));
}

#[test]
fn an_option_too_long_is_told_so_and_ends_the_connection() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    let mut header = option_bytes(7, b"");
    header[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    std::io::Write::write_all(&mut client.stream, &header).unwrap();
    let said = client.until_closed();
    assert_eq!(said[12..16], ERR_TOO_BIG.to_be_bytes());
}

#[test]
fn abort_is_acknowledged() {
    let served = Served::new(export(MemoryDisk::new(BLOCK)));
    let mut client = greeted(&served);
    assert_eq!(client.option(2, b""), [(ACK, vec![])]);
    assert_eq!(client.until_closed(), b"");
}

#[test]
fn a_read_only_export_offers_no_changes() {
    let read_only =
        ireko_block_export::Export { read_only: true, ..export(MemoryDisk::new(BLOCK)) };
    let served = Served::new(read_only);
    let mut client = greeted(&served);
    let answers = client.option(7, &go_data("root", &[]));
    assert_eq!(u16::from_be_bytes(answers[0].1[10..].try_into().unwrap()), 0b101_0000_0111);
    assert_eq!(client.write(0, 0, b"x"), Reply::Error(1));
    assert_eq!(client.ask(TRIM, 0, 0, 512), Reply::Error(1));
    assert_eq!(client.ask(WRITE_ZEROES, 0, 0, 512), Reply::Error(1));
    assert_eq!(client.ask(FLUSH, 0, 0, 0), Reply::Done);
}
