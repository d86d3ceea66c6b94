//! One answer. A zone and a message go in; the message that answers it comes out. RFC 1034 and 1035, with the
//! negative answers of RFC 2308 and the larger messages of RFC 6891.

use std::net::Ipv4Addr;
use std::str::FromStr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::{AuthorityBuilder, PushError};
use domain::base::{Message, MessageBuilder, Name, ParsedName, Question, Rtype, Serial, Ttl};
use domain::rdata::{A, Ptr, Soa};

use super::Zone;

/// Seconds that an answer may be kept: a lab can change.
const TTL: Ttl = Ttl::from_secs(5);
/// Bytes of the largest message over UDP that we say we take (RFC 6891).
const LARGEST: u16 = 1232;

type Asked<'a> = Question<ParsedName<&'a [u8]>>;

/// What a question finds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Address(Ipv4Addr),
    Name(String),
    /// The name is there, and has nothing of that type.
    Nothing,
    NoSuchName,
}

/// The answer to `message`, or none to what is no question.
#[must_use]
pub fn answer(zone: &Zone, message: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_slice(message).ok()?;
    if message.header().qr() {
        return None;
    }
    build(zone, message).ok()
}

fn build(zone: &Zone, message: &Message<[u8]>) -> Result<Vec<u8>, PushError> {
    let question = match (message.header().opcode(), message.sole_question()) {
        (Opcode::QUERY, Ok(question)) => question,
        (Opcode::QUERY, Err(_)) => return Ok(refuse(message, Rcode::FORMERR)),
        _ => return Ok(refuse(message, Rcode::NOTIMP)),
    };
    let found = find(zone, &question);
    let rcode = if found == Found::NoSuchName { Rcode::NXDOMAIN } else { Rcode::NOERROR };
    let mut answer = MessageBuilder::new_vec().start_answer(message, rcode)?;
    answer.header_mut().set_aa(true);
    // There is nothing beyond the lab: whatever recursion would find has been found.
    answer.header_mut().set_ra(true);
    match &found {
        Found::Address(address) => answer.push((question.qname(), TTL, A::new(*address)))?,
        Found::Name(name) => answer.push((question.qname(), TTL, Ptr::new(absolute(name))))?,
        Found::Nothing | Found::NoSuchName => {}
    }
    let mut authority = answer.authority();
    if matches!(found, Found::Nothing | Found::NoSuchName) {
        push_soa(&mut authority, zone, &question)?;
    }
    let mut additional = authority.additional();
    if message.opt().is_some() {
        additional.opt(|opt| {
            opt.set_udp_payload_size(LARGEST);
            Ok(())
        })?;
    }
    Ok(additional.finish())
}

fn refuse(message: &Message<[u8]>, rcode: Rcode) -> Vec<u8> {
    MessageBuilder::new_vec().start_error(message, rcode).finish()
}

/// Says for how long a name may be taken not to be: RFC 2308. Only for names that are the zone's.
fn push_soa(
    authority: &mut AuthorityBuilder<Vec<u8>>,
    zone: &Zone,
    question: &Asked<'_>,
) -> Result<(), PushError> {
    let asked = text(question);
    let below = asked.strip_suffix(&zone.name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !below {
        return Ok(());
    }
    let name = absolute(&zone.name);
    authority.push((&name, TTL, Soa::new(&name, &name, Serial(1), TTL, TTL, TTL, TTL)))
}

fn find(zone: &Zone, question: &Asked<'_>) -> Found {
    let asked = text(question);
    let any = question.qtype() == Rtype::ANY;
    if question.qclass() != Class::IN && question.qclass() != Class::ANY {
        return Found::NoSuchName;
    }
    if let Some(address) = zone.addresses.get(&asked) {
        return if any || question.qtype() == Rtype::A { Found::Address(*address) } else { Found::Nothing };
    }
    if let Some(name) = reversed(&asked).and_then(|address| zone.names.get(&address)) {
        return if any || question.qtype() == Rtype::PTR {
            Found::Name(name.clone())
        } else {
            Found::Nothing
        };
    }
    if asked == zone.name { Found::Nothing } else { Found::NoSuchName }
}

/// Lower case, without the dot at the end.
fn text(question: &Asked<'_>) -> String {
    question.qname().to_string().to_lowercase()
}

/// The address whose name is asked for: `1.0.128.10.in-addr.arpa` is 10.128.0.1.
fn reversed(asked: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = asked.strip_suffix(".in-addr.arpa")?.split('.').rev().collect();
    parts.join(".").parse().ok()
}

/// Names of nodes and networks are at most 180 and 31 bytes of what names may hold, 63 between dots.
fn absolute(name: &str) -> Name<Vec<u8>> {
    Name::from_str(name).unwrap_or_else(|_| Name::root_vec())
}

#[cfg(test)]
mod tests {
    use domain::base::Name;
    use domain::base::iana::Opcode;
    use domain::base::message_builder::OptBuilder;
    use domain::rdata::AllRecordData;

    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone { name: "blue".to_owned(), ..Zone::default() };
        let [host, first, second] =
            [[10, 128, 0, 1], [10, 128, 128, 0], [10, 128, 128, 2]].map(Ipv4Addr::from);
        zone.add("a", Some(host), [host, first, second].into());
        zone.add("T.up", Some([10, 128, 0, 2].into()), [[10, 128, 0, 2].into()].into());
        zone
    }

    fn question(name: &str, rtype: Rtype) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(4711);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((Name::<Vec<u8>>::from_str(name).unwrap(), rtype)).unwrap();
        message.finish()
    }

    /// The code of the answer, its records as text, and how many records say that there is nothing.
    fn ask(name: &str, rtype: Rtype) -> (Rcode, Vec<String>, usize) {
        let bytes = answer(&zone(), &question(name, rtype)).unwrap();
        let message = Message::from_octets(bytes).unwrap();
        let header = message.header();
        assert!(header.qr() && header.aa() && header.rd() && header.id() == 4711);
        let (_, answers, authority, _) = message.sections().unwrap();
        let records =
            answers.limit_to::<AllRecordData<_, _>>().map(|r| r.unwrap().data().to_string()).collect();
        (header.rcode(), records, authority.count())
    }

    #[test]
    fn names_with_and_without_their_network() {
        for name in ["a", "a.blue", "A.Blue."] {
            assert_eq!(ask(name, Rtype::A), (Rcode::NOERROR, vec!["10.128.0.1".into()], 0), "{name}");
        }
        assert_eq!(ask("t.up.blue", Rtype::ANY).1, ["10.128.0.2"]);
    }

    #[test]
    fn addresses_of_hosts_and_interfaces() {
        for name in ["1.0.128.10.in-addr.arpa", "2.128.128.10.in-addr.arpa"] {
            assert_eq!(ask(name, Rtype::PTR), (Rcode::NOERROR, vec!["a.blue.".into()], 0), "{name}");
        }
        assert_eq!(ask("9.9.9.9.in-addr.arpa", Rtype::PTR).0, Rcode::NXDOMAIN);
    }

    #[test]
    fn what_is_not_there() {
        assert_eq!(ask("b.blue", Rtype::A), (Rcode::NXDOMAIN, vec![], 1));
        assert_eq!(ask("a.red", Rtype::A), (Rcode::NXDOMAIN, vec![], 0));
        assert_eq!(ask("example.org", Rtype::A), (Rcode::NXDOMAIN, vec![], 0));
        assert_eq!(ask("a.blue", Rtype::AAAA), (Rcode::NOERROR, vec![], 1));
        assert_eq!(ask("blue", Rtype::A), (Rcode::NOERROR, vec![], 1));
        assert_eq!(ask("notblue", Rtype::A), (Rcode::NXDOMAIN, vec![], 0));
    }

    #[test]
    fn what_is_no_question_is_told_or_dropped() {
        assert_eq!(answer(&zone(), b"short"), None);
        let mut reply = question("a", Rtype::A);
        reply[2] |= 0x80;
        assert_eq!(answer(&zone(), &reply), None);
        let rcode =
            |bytes: &[u8]| Message::from_octets(answer(&zone(), bytes).unwrap()).unwrap().header().rcode();
        let mut update = MessageBuilder::new_vec();
        update.header_mut().set_opcode(Opcode::UPDATE);
        assert_eq!(rcode(&update.finish()), Rcode::NOTIMP);
        assert_eq!(rcode(&MessageBuilder::new_vec().finish()), Rcode::FORMERR);
        let mut cut = question("a.blue", Rtype::A);
        cut.truncate(cut.len() - 3);
        assert_eq!(rcode(&cut), Rcode::FORMERR);
    }

    #[test]
    fn the_extension_is_answered_where_it_is_asked_for() {
        let mut message = MessageBuilder::new_vec().question();
        message.push((Name::<Vec<u8>>::from_str("a").unwrap(), Rtype::A)).unwrap();
        let mut message = message.additional();
        let larger = |opt: &mut OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(4096);
            Ok(())
        };
        message.opt(larger).unwrap();
        let message = Message::from_octets(answer(&zone(), &message.finish()).unwrap()).unwrap();
        assert_eq!(message.opt().unwrap().udp_payload_size(), LARGEST);
    }

    #[test]
    fn the_longest_names_fit() {
        let long = vec!["x".repeat(44); 4].join(".");
        let mut zone = Zone { name: "y".repeat(31), ..Zone::default() };
        zone.add(&long, Some(Ipv4Addr::LOCALHOST), [Ipv4Addr::LOCALHOST].into());
        let bytes = answer(&zone, &question("1.0.0.127.in-addr.arpa", Rtype::PTR)).unwrap();
        assert!(bytes.len() <= 512, "{} bytes, and RFC 1035 allows no more over UDP", bytes.len());
    }
}
