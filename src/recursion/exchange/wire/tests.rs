use proptest::prelude::*;

use super::*;

const SRC: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const DST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

fn seal() -> Seal {
    Seal::new(&Key::default())
}

fn header() -> Header {
    Header {
        router: Ipv4Addr::new(9, 9, 9, 9),
        port: Port(1),
        hold_ms: 1000,
        number: 7,
        epoch: 0x0102_0304_0506_0708,
        heard: 0x1112_1314_1516_1718,
        ack: 3,
    }
}

fn example() -> Vec<Change> {
    let address = Ipv4Addr::new(192, 168, 1, 1);
    vec![
        Change::Bind(Bind::new("p1", SRC, [address].into(), 1420).unwrap()),
        Change::Reach("10.1.0.0/16".parse().unwrap(), 20),
        Change::Unreach("10.2.0.0/15".parse().unwrap()),
    ]
}

fn update(changes: &[Change]) -> Vec<u8> {
    emit(&header(), &Body::Update { from: 4, to: 9, changes }, &seal(), SRC, DST)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Appendix A of docs/exit-resolution.md; its authenticators come from Python's hmac module.
#[test]
fn the_examples_of_the_specification() {
    let hello = emit(&header(), &Body::Hello { last: 9, digest: 0xabcd }, &seal(), SRC, DST);
    let start = "01010048090909090001 03e800000007 01020304050607081112131415161718 0000000000000003";
    let expected =
        format!("{start}0000000000000009000000000000abcdc8fa1d9946130b39821217093d0181d3").replace(' ', "");
    assert_eq!(hex(&hello), expected);

    let start = "0102006e090909090001 03e800000007 01020304050607081112131415161718 0000000000000003";
    let bind = "0112058c0a090001 02010000 c0a80101 7031";
    let rest = "020c1000 0a010000 00000014 03080f00 0a020000";
    let expected =
        format!("{start}00000000000000040000000000000009{bind}{rest}4bed55274a24f8ce04f75832183ff8d0")
            .replace(' ', "");
    assert_eq!(hex(&update(&example())), expected);
}

/// RFC 4231, section 4.3: a key shorter than a block ends in zeros, and here the data begins with the addresses.
#[test]
fn the_authenticator_is_hmac_sha_256_128() {
    let mut key = [0; 32];
    key[..4].copy_from_slice(b"Jefe");
    let [src, dst] = [*b"what", *b" do "].map(Ipv4Addr::from);
    let mut message = b"ya want for nothing?".to_vec();
    let seal = Seal::new(&Key(key));
    seal.close(src, dst, &mut message);
    assert_eq!(hex(&message[20..]), "5bdcc146bf60754e6a042426089575c7");
    assert!(seal.holds(src, dst, &message));
    assert!(!seal.holds(dst, src, &message));
    assert!(!super::Seal::new(&Key::default()).holds(src, dst, &message));
    assert!(!seal.holds(src, dst, b"short"));
}

type Checked = Result<(), Malformed>;

/// The example with `bytes` at `at`, read again.
fn with(at: usize, bytes: &[u8]) -> Checked {
    let mut message = update(&example());
    message[at..at + bytes.len()].copy_from_slice(bytes);
    Message::new_checked(&message).map(drop)
}

#[test]
fn each_field_has_only_the_values_it_can_have() {
    const RECORDS: usize = HEADER_LEN + BODY_LEN;
    const REACH_AT: usize = RECORDS + BIND_LEN + 4 + 2;
    const UNREACH_AT: usize = REACH_AT + REACH_LEN;
    let cases: [(&str, usize, &[u8], Checked); 27] = [
        ("nothing changed", 0, &[1], Ok(())),
        ("version", 0, &[2], Err(Malformed::Version)),
        ("type 0", 1, &[0], Err(Malformed::Type)),
        ("type 3", 1, &[3], Err(Malformed::Type)),
        ("a HELLO with records", 1, &[1], Err(Malformed::Length)),
        ("too long", 2, &[0, 0x6f], Err(Malformed::Length)),
        ("too short", 2, &[0, 0x6d], Err(Malformed::Length)),
        ("no hold time", 10, &[0, 0], Err(Malformed::Value)),
        ("no epoch", 16, &[0; 8], Err(Malformed::Value)),
        ("nothing heard", 24, &[0; 8], Ok(())),
        ("from after to", 40, &[0, 0, 0, 0, 0, 0, 0, 10], Err(Malformed::Value)),
        ("from is to", 40, &[0, 0, 0, 0, 0, 0, 0, 9], Err(Malformed::Value)),
        ("three records, two changes", 40, &[0, 0, 0, 0, 0, 0, 0, 7], Err(Malformed::Value)),
        ("type of a record", RECORDS, &[9], Err(Malformed::Type)),
        ("length of a record, 0", RECORDS + 1, &[0], Err(Malformed::Truncated)),
        ("length of a record, beyond", RECORDS + 1, &[200], Err(Malformed::Truncated)),
        ("length of a record, another", RECORDS + 1, &[19], Err(Malformed::Length)),
        ("MTU of 67", RECORDS + 2, &[0, 67], Err(Malformed::Value)),
        ("multicast", RECORDS + 4, &[224], Err(Malformed::Value)),
        ("no name", RECORDS + 8, &[0], Err(Malformed::Length)),
        ("more addresses", RECORDS + 9, &[2], Err(Malformed::Length)),
        ("reserved of BIND", RECORDS + 10, &[0, 1], Err(Malformed::Reserved)),
        ("a space in the name", RECORDS + BIND_LEN + 4, b" ", Err(Malformed::Value)),
        ("a prefix of 33 bits", REACH_AT + 2, &[33], Err(Malformed::Value)),
        ("bits behind the prefix", REACH_AT + 2, &[15], Err(Malformed::Value)),
        ("reserved of REACH", REACH_AT + 3, &[1], Err(Malformed::Reserved)),
        ("REACH in the place of UNREACH", UNREACH_AT, &[2], Err(Malformed::Length)),
    ];
    for (what, at, bytes, expected) in cases {
        assert_eq!(with(at, bytes), expected, "{what}");
    }
}

#[test]
fn addresses_of_a_port_are_in_order() {
    let addresses = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    let bind = Bind::new("p", SRC, addresses.into(), 1400).unwrap();
    let mut message = update(&[Change::Bind(bind)]);
    assert!(Message::new_checked(&message).is_ok());
    let last = HEADER_LEN + BODY_LEN + BIND_LEN + 7;
    for byte in [1, 0] {
        message[last] = byte; // the same twice, then in descending order
        assert_eq!(Message::new_checked(&message).map(drop), Err(Malformed::Value));
    }
}

/// Section 4.1 of docs/exit-resolution.md; the value comes from Python's hashlib.
#[test]
fn the_digest_is_over_the_binding_then_prefixes_in_order() {
    let [Change::Bind(bind), ..] = &example()[..] else { panic!("the example begins with a binding") };
    let reach = [("10.1.0.0/16", 3), ("10.0.0.0/16", 2), ("10.0.0.0/8", 1)];
    let reach = reach.map(|(prefix, metric)| (prefix.parse().unwrap(), metric));
    let records = Records { bind: Some(bind.clone()), reach: reach.into() };
    assert_eq!(format!("{:016x}", digest(&records)), "99fc782854773c95");
}

fn any_prefix() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| Ipv4Net::new(bits.into(), len).unwrap().trunc())
}

fn any_machine() -> impl Strategy<Value = Ipv4Addr> {
    (1u32..0xe000_0000).prop_map(Ipv4Addr::from)
}

fn any_change() -> impl Strategy<Value = Change> {
    let addresses = proptest::collection::btree_set(any_machine(), 0..=super::super::MAX_ADDRESSES);
    let bind = ("[!-~]{1,63}", any_machine(), addresses, super::super::MIN_MTU..)
        .prop_map(|(name, u, addresses, mtu)| Change::Bind(Bind::new(name, u, addresses, mtu).unwrap()));
    prop_oneof![
        bind,
        (any_prefix(), any::<u32>()).prop_map(|(prefix, metric)| Change::Reach(prefix, metric)),
        any_prefix().prop_map(Change::Unreach),
        Just(Change::Unbind),
    ]
}

fn any_body() -> impl Strategy<Value = Body<Vec<Change>>> {
    let hello = any::<(u64, u64)>().prop_map(|(last, digest)| Body::Hello { last, digest });
    let span = (0..u64::MAX / 2, 40..u64::MAX / 2);
    let update =
        (span, proptest::collection::vec(any_change(), 0..40)).prop_map(|((from, span), changes)| {
            let mut room = ROOM;
            let fits = |change: &Change| match room.checked_sub(encoded_len(change)) {
                Some(left) => {
                    room = left;
                    true
                }
                None => false,
            };
            let changes = changes.into_iter().filter(fits).collect();
            Body::Update { from, to: from + span, changes }
        });
    prop_oneof![hello, update]
}

prop_compose! {
    fn any_header()(
        router in any::<u32>(), port: u16, hold_ms in 1..=u16::MAX, number: u32, epoch in 1..=u64::MAX, heard: u64, ack: u64,
    ) -> Header {
        Header { router: router.into(), port: Port(port), hold_ms, number, epoch, heard, ack }
    }
}

fn emitted(header: &Header, body: &Body<Vec<Change>>) -> Vec<u8> {
    let body = match body {
        Body::Hello { last, digest } => Body::Hello { last: *last, digest: *digest },
        Body::Update { from, to, changes } => Body::Update { from: *from, to: *to, changes: &changes[..] },
    };
    emit(header, &body, &seal(), SRC, DST)
}

fn owned(body: Body<Changes<'_>>) -> Body<Vec<Change>> {
    match body {
        Body::Hello { last, digest } => Body::Hello { last, digest },
        Body::Update { from, to, changes } => Body::Update { from, to, changes: changes.collect() },
    }
}

/// What is accepted is exactly what would be sent: there is one way to write a message.
fn accepted_is_canonical(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = Message::new_checked(bytes) {
        let again = emitted(&message.header, &owned(message.body));
        prop_assert_eq!(&again[..again.len() - TAG_LEN], &bytes[..bytes.len() - TAG_LEN]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn parse_of_emit(header in any_header(), body in any_body()) {
        let bytes = emitted(&header, &body);
        prop_assert!(bytes.len() <= MAX_LEN);
        prop_assert!(seal().holds(SRC, DST, &bytes));
        let message = Message::new_checked(&bytes).unwrap();
        prop_assert_eq!(message.header, header);
        prop_assert_eq!(owned(message.body), body);
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        accepted_is_canonical(&bytes)?;
    }

    #[test]
    fn any_records_are_refused_or_canonical(kind in 1u8..3, rest in proptest::collection::vec(0u8..40, 72..200)) {
        let mut bytes = rest;
        let len = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[..4].copy_from_slice(&[VERSION, kind, len[0], len[1]]);
        accepted_is_canonical(&bytes)?;
    }

    #[test]
    fn messages_with_wrong_bytes_are_refused_or_canonical(
        header in any_header(),
        body in any_body(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = emitted(&header, &body);
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        accepted_is_canonical(&bytes)?;
    }

    /// Any one bit that is wrong is noticed.
    #[test]
    fn damage_is_noticed(body in any_body(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = emitted(&header(), &body);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(!seal().holds(SRC, DST, &bytes));
    }
}
