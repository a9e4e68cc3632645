//! Names of a network's containers, and DNS messages about them.
//!
//! What is known here is answered here; everything else is for the resolver to ask outside, where
//! the network has an outside.

use simple_dns::rdata::{A, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Seconds: a container's address may change as soon as it is started again.
const LIFETIME: u32 = 5;
/// Answers to one question; more would not fit a datagram.
const MAX_ANSWERS: usize = 16;

/// Who is called what.
#[derive(Debug, Default)]
pub struct Names {
    /// Lower-case; several containers may share an alias.
    addresses: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    full: BTreeMap<Ipv4Addr, String>,
}

/// What is to be done with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The answer is known.
    Answer(Vec<u8>),
    /// Somebody else may know.
    Forward,
    /// It is no question.
    Ignore,
}

impl Names {
    /// Adds a container's names, the first of which is its full one.
    pub fn add(&mut self, names: &[String], address: Ipv4Addr) {
        for name in names {
            self.addresses.entry(name.to_ascii_lowercase()).or_default().insert(address);
        }
        if let Some(full) = names.first() {
            self.full.insert(address, full.clone());
        }
    }

    /// Takes all names of a container away.
    pub fn remove(&mut self, address: Ipv4Addr) {
        self.addresses.retain(|_, addresses| {
            addresses.remove(&address);
            !addresses.is_empty()
        });
        self.full.remove(&address);
    }

    /// Looks a question up.
    pub fn answer(&self, query: &[u8]) -> Lookup {
        let Some(query) = question(query) else { return Lookup::Ignore };
        let question = &query.questions[0];
        if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN)) {
            return Lookup::Forward;
        }
        let name = question.qname.to_string().to_ascii_lowercase();
        let records = match (self.addresses.get(&name), self.reverse(&name)) {
            (Some(addresses), _) => match question.qtype {
                QTYPE::TYPE(TYPE::A) | QTYPE::ANY => addresses
                    .iter()
                    .take(MAX_ANSWERS)
                    .map(|address| RData::A(A { address: u32::from(*address) }))
                    .collect(),
                // The name is ours and has no such record: resolvers must not look further.
                _ => Vec::new(),
            },
            (None, Some(full)) => match (question.qtype, Name::new(full)) {
                (QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY, Ok(full)) => vec![RData::PTR(PTR(full))],
                _ => Vec::new(),
            },
            (None, None) => return Lookup::Forward,
        };
        reply(&query, RCODE::NoError, records).map_or(Lookup::Ignore, Lookup::Answer)
    }

    fn reverse(&self, name: &str) -> Option<&str> {
        let mut bytes = [0; 4];
        let mut parts = name.strip_suffix(".in-addr.arpa")?.split('.');
        for byte in bytes.iter_mut().rev() {
            *byte = parts.next()?.parse().ok()?;
        }
        let full = self.full.get(&Ipv4Addr::from(bytes))?;
        parts.next().is_none().then_some(full)
    }
}

/// The answer that a question cannot be answered: `NameError` where nobody knows the name,
/// `ServerFailure` where nobody could be asked. `None` where it is no question.
pub fn failure(query: &[u8], code: RCODE) -> Option<Vec<u8>> {
    reply(&question(query)?, code, Vec::new())
}

/// Reads a message with exactly one question.
fn question(query: &[u8]) -> Option<Packet<'_>> {
    let query = Packet::parse(query).ok()?;
    let is_question = !query.has_flags(PacketFlag::RESPONSE)
        && query.opcode() == OPCODE::StandardQuery
        && query.questions.len() == 1;
    is_question.then_some(query)
}

fn reply<'a>(query: &'a Packet<'a>, code: RCODE, records: Vec<RData<'a>>) -> Option<Vec<u8>> {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *reply.rcode_mut() = code;
    let question = &query.questions[0];
    for record in records {
        let name = question.qname.clone();
        reply.answers.push(ResourceRecord::new(name, CLASS::IN, LIFETIME, record));
    }
    reply.questions.push(question.clone());
    reply.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::Question;

    fn names() -> Names {
        let mut names = Names::default();
        names.add(&["web.net".into(), "web".into(), "shared".into()], Ipv4Addr::new(10, 0, 0, 2));
        names.add(&["db.net".into(), "DB".into(), "shared".into()], Ipv4Addr::new(10, 0, 0, 3));
        names
    }

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(9);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked(name);
        let question = Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
        packet.questions.push(question);
        packet.build_bytes_vec().unwrap()
    }

    #[track_caller]
    fn check(names: &Names, name: &str, kind: TYPE, expected: &[RData]) {
        let Lookup::Answer(bytes) = names.answer(&query(name, kind)) else {
            panic!("{name} is not answered")
        };
        let reply = Packet::parse(&bytes).unwrap();
        assert_eq!((reply.id(), reply.rcode(), reply.questions.len()), (9, RCODE::NoError, 1));
        let found: Vec<_> = reply.answers.iter().map(|record| record.rdata.clone()).collect();
        assert_eq!(found, expected);
    }

    fn a(last: u8) -> RData<'static> {
        RData::A(A { address: u32::from(Ipv4Addr::new(10, 0, 0, last)) })
    }

    #[test]
    fn a_container_answers_to_each_of_its_names_in_any_case() {
        let names = names();
        check(&names, "web", TYPE::A, &[a(2)]);
        check(&names, "WEB.NET", TYPE::A, &[a(2)]);
        check(&names, "db", TYPE::A, &[a(3)]);
        check(&names, "shared", TYPE::A, &[a(2), a(3)]);
        check(&names, "web", TYPE::AAAA, &[]);
        let ptr = RData::PTR(PTR(Name::new("web.net").unwrap()));
        check(&names, "2.0.0.10.in-addr.arpa", TYPE::PTR, &[ptr]);
    }

    #[test]
    fn a_container_that_left_has_no_names() {
        let mut names = names();
        names.remove(Ipv4Addr::new(10, 0, 0, 2));
        check(&names, "shared", TYPE::A, &[a(3)]);
        assert_eq!(names.answer(&query("web", TYPE::A)), Lookup::Forward);
        assert_eq!(names.answer(&query("2.0.0.10.in-addr.arpa", TYPE::PTR)), Lookup::Forward);
    }

    #[test]
    fn what_is_no_question_is_ignored() {
        let names = names();
        assert_eq!(names.answer(&[]), Lookup::Ignore);
        assert_eq!(names.answer(&[0; 12]), Lookup::Ignore);
        let Lookup::Answer(reply) = names.answer(&query("web", TYPE::A)) else { panic!() };
        assert_eq!(names.answer(&reply), Lookup::Ignore, "a reply is no question");
    }

    #[test]
    fn a_failure_repeats_the_question() {
        let bytes = failure(&query("nobody", TYPE::A), RCODE::NameError).unwrap();
        let reply = Packet::parse(&bytes).unwrap();
        assert_eq!((reply.rcode(), reply.questions.len()), (RCODE::NameError, 1));
    }
}
