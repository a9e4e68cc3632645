//! What a guest asks the name server.

use ireko_network::names::{Lookup, Names, failure};
use simple_dns::{Packet, PacketFlag, RCODE};
use std::net::Ipv4Addr;

/// Containers with the same alias: more than one answer has room for.
const CONTAINERS: u8 = 40;
/// A question of the longest name, and as many addresses as an answer may have.
const MAX_ANSWER: usize = 12 + 255 + 4 + 16 * (255 + 10 + 16);

/// All of it is the message.
pub fn run(data: &[u8]) {
    let mut names = Names::default();
    for number in 1..=CONTAINERS {
        let own = [format!("c{number}.net"), format!("c{number}"), "c".to_owned()];
        names.add(&own, Ipv4Addr::new(10, 9, 0, number));
    }
    if let Lookup::Answer(bytes) = names.answer(data) {
        check(data, &bytes, RCODE::NoError);
    }
    if let Some(bytes) = failure(data, RCODE::NameError) {
        check(data, &bytes, RCODE::NameError);
    }
}

fn check(question: &[u8], answer: &[u8], code: RCODE) {
    assert!(answer.len() <= MAX_ANSWER, "{} bytes", answer.len());
    assert_eq!(question[..2], answer[..2], "the number of another question");
    let answer = Packet::parse(answer).expect("an answer that can be read");
    assert!(answer.has_flags(PacketFlag::RESPONSE));
    assert_eq!((answer.rcode(), answer.questions.len()), (code, 1));
}
