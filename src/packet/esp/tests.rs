//! Published packets, and properties of all suites.

use proptest::prelude::*;

use super::cipher::{Cipher, cbc_decrypt, cbc_encrypt, hmac};
use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Key material that starts with these bytes.
fn key(start: &str) -> Key {
    let mut bytes = [0; Key::LEN];
    let start = hex(start);
    bytes[..start.len()].copy_from_slice(&start);
    Key::new(bytes)
}

struct GcmCase {
    suite: Suite,
    /// Key and salt.
    key: &'static str,
    iv: &'static str,
    /// SPI and sequence number.
    header: &'static str,
    /// With padding, pad length and next header.
    plain: &'static str,
    sealed: &'static str,
    icv: &'static str,
}

/// Of draft-mcgrew-gcm-test-01, section 4: the cases with 32-bit sequence numbers and keys of 128 and 256 bits.
const GCM: [GcmCase; 4] = [
    GcmCase {
        suite: Suite::Aes128Gcm,
        key: "feffe9928665731c6d6a8f9467308308 cafebabe",
        iv: "facedbaddecaf888",
        header: "0000a5f8 0000000a",
        plain: "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100
                0001000000000000037369700963796265726369747902646b00000100010001",
        sealed: "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c
                 3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1",
        icv: "83b70d3aa8bc6ee4c309e9d85a41ad4a",
    },
    GcmCase {
        suite: Suite::Aes256Gcm,
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
        iv: "0102030405060708",
        header: "4a2cbfe3 00000002",
        plain: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
                7002400020bf0000020405b40101040201020201",
        sealed: "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
                 748a637985771d347f0545659f14e99def842d8e",
        icv: "b335f4eecfdbf831824b4c4915956c96",
    },
    GcmCase {
        suite: Suite::Aes128Gcm,
        key: "00000000000000000000000000000000 00000000",
        iv: "0000000000000000",
        header: "00000000 00000001",
        plain: "4500003c99c500008001cb7a40679318010101010800075c0200440061626364
                65666768696a6b6c6d6e6f707172737475767761626364656667686901020201",
        sealed: "4688daf2f973a392732909c331d56d60f694abaa414b5e7ff5fdcdfff5e9a284
                 456476492719ffb64de7d9dca1e1d894bc3bd57873ed4d181d19d4d5c8c18af3",
        icv: "f821d496eeb096e98ad2b69e4799c71d",
    },
    GcmCase {
        suite: Suite::Aes128Gcm,
        key: "7d773d00c144c525ac619d18c84a3f47 d9664267",
        iv: "43457e9182443bc6",
        header: "335467ae ffffffff",
        plain: "01020201",
        sealed: "437f866b",
        icv: "cb3f699fe9b0822bac961c4504bef270",
    },
];

#[test]
fn gcm_packets_of_the_published_cases() {
    for case in &GCM {
        let (header, plain) = (hex(case.header), hex(case.plain));
        let view = EspView::new_checked(&header).unwrap();
        let [.., pad_len, next_header] = plain[..] else { panic!("a trailer") };
        let payload = &plain[..plain.len() - TRAILER_LEN - usize::from(pad_len)];
        let expected = [header.clone(), hex(case.iv), hex(case.sealed), hex(case.icv)].concat();

        let association = Association { spi: view.spi(), suite: case.suite, key: key(case.key) };
        let mut bytes = vec![0; case.suite.sealed_len(payload.len())];
        bytes[case.suite.header_len()..][..payload.len()].copy_from_slice(payload);
        let cipher = Cipher::new(case.suite, &association.key);
        let ids = (view.spi(), view.sequence());
        emit(&cipher, ids, &hex(case.iv), &mut bytes, (payload.len(), next_header));
        assert_eq!(bytes, expected);

        let opened = Opener::new(&association).open(&mut bytes).unwrap();
        assert_eq!((&bytes[opened.payload], opened.next_header), (payload, next_header));
    }
}

/// RFC 3602, section 4, case 5: a transport-mode ESP packet, encrypted with a 128-bit key and without an ICV.
#[test]
fn cbc_packet_of_rfc_3602() {
    use aes::cipher::KeyInit as _;
    let aes = aes::Aes128::new_from_slice(&hex("90d382b4 10eeba7a d938c46c ec1a82bf")).unwrap();
    let iv = hex("e96e8c08 ab465763 fd098d45 dd3ff893");
    let plain = hex("08000ebd a70a0000 8e9c083d b95b0700 08090a0b 0c0d0e0f 10111213 14151617
         18191a1b 1c1d1e1f 20212223 24252627 28292a2b 2c2d2e2f 30313233 34353637
         01020304 05060708 090a0b0c 0d0e0e01");
    let sealed = hex("f663c25d 325c18c6 a9453e19 4e120849 a4870b66 cc6b9965 330013b4 898dc856
         a4699e52 3a55db08 0b59ec3a 8e4b7e52 775b07d1 db34ed9c 538ab50c 551b874a
         a269add0 47ad2d59 13ac19b7 cfbad4a6");
    let mut bytes = plain.clone();
    cbc_encrypt(&aes, &iv, &mut bytes);
    assert_eq!(bytes, sealed);
    cbc_decrypt(&aes, &iv, &mut bytes);
    assert_eq!(bytes, plain);
}

/// The padding, pad length and next header that RFC 3602's case 5 puts behind its 64 bytes.
#[test]
fn cbc_padding_of_rfc_3602() {
    let association = Association { spi: 0x4321, suite: Suite::Aes256CbcSha256, key: key("07") };
    let mut bytes = vec![0; association.suite.sealed_len(64)];
    assert_eq!(bytes.len(), 8 + 16 + 80 + 16);
    let mut sealer = Sealer::new(&association);
    sealer.seal(&mut bytes, 64, 1).unwrap();
    assert_eq!(bytes[..8], hex("00004321 00000001"));
    Opener::new(&association).open(&mut bytes).unwrap();
    assert_eq!(bytes[24 + 64..][..16], hex("01020304 05060708 090a0b0c 0d0e0e01"));
}

/// AES-256-CBC: NIST SP 800-38A, appendix F.2.5.
#[test]
fn cbc_with_a_long_key() {
    use aes::cipher::KeyInit as _;
    let key = hex("603deb1015ca71be2b73aef0857d7781 1f352c073b6108d72d9810a30914dff4");
    let aes = aes::Aes256::new_from_slice(&key).unwrap();
    let mut bytes = hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51");
    cbc_encrypt(&aes, &hex("000102030405060708090a0b0c0d0e0f"), &mut bytes);
    assert_eq!(bytes, hex("f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d"));
}

/// RFC 4868, section 2.7.2, case AUTH256-1: HMAC-SHA-256-128.
#[test]
fn hmac_of_rfc_4868() {
    use hmac::Mac as _;
    let mac = hmac(&[0x0b; 32]).chain_update(b"Hi There").finalize().into_bytes();
    assert_eq!(mac[..ICV_LEN], hex("198a607eb44bfbc69903a0f1cf2bbdc5"));
}

/// Linux on Debian's kernel: a virtual link of 1460 bytes under AES-GCM carries 1426.
#[test]
fn the_largest_payload_is_the_kernels() {
    let room = 1480 - 20;
    assert_eq!(Suite::Aes128Gcm.largest_payload(room), 1426);
    assert_eq!(Suite::Aes256Gcm.largest_payload(room), 1426);
    assert_eq!(Suite::Aes256CbcSha256.largest_payload(room), 1406);
}

#[test]
fn sequence_numbers_end() {
    let association = Association { spi: 300, suite: Suite::Aes128Gcm, key: key("01") };
    let mut sealer = Sealer { sequence: u32::MAX - 1, ..Sealer::new(&association) };
    let mut bytes = vec![0; association.suite.sealed_len(4)];
    assert_eq!(sealer.seal(&mut bytes, 4, 4), Ok(()));
    let before = bytes.clone();
    assert_eq!(sealer.seal(&mut bytes, 4, 4), Err(Exhausted));
    assert_eq!(bytes, before);
}

#[test]
fn keys_are_written_and_read_and_never_shown() {
    let key = key("00112233445566778899aabbccddeeff");
    let text = serde_json::to_string(&key).unwrap();
    assert!(text.starts_with("\"00112233"));
    assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key);
    assert!(serde_json::from_str::<Key>("\"0011\"").is_err());
    assert!(serde_json::from_str::<Key>(&text.replace("00", "0é")).is_err());
    assert_eq!(format!("{key:?}"), "Key { .. }");
}

fn association() -> impl Strategy<Value = Association> {
    (0usize..3, FIRST_SPI.., prop::collection::vec(any::<u8>(), Key::LEN)).prop_map(|(suite, spi, bytes)| {
        Association { spi, suite: Suite::ALL[suite], key: Key::new(bytes.try_into().unwrap()) }
    })
}

fn sealed(sealer: &mut Sealer, payload: &[u8], next_header: u8) -> Vec<u8> {
    let suite = sealer.suite();
    let mut bytes = vec![0; suite.sealed_len(payload.len())];
    bytes[suite.header_len()..][..payload.len()].copy_from_slice(payload);
    sealer.seal(&mut bytes, payload.len(), next_header).unwrap();
    bytes
}

proptest! {
    #[test]
    fn what_is_sealed_opens(a in association(), payload in prop::collection::vec(any::<u8>(), 0..600), next: u8) {
        let mut bytes = sealed(&mut Sealer::new(&a), &payload, next);
        if payload.len() >= 8 {
            prop_assert!(!bytes.windows(payload.len()).any(|w| w == payload), "it is encrypted");
        }
        let opened = Opener::new(&a).open(&mut bytes).unwrap();
        prop_assert_eq!((&bytes[opened.payload], opened.next_header), (&payload[..], next));
    }

    #[test]
    fn lengths_agree(suite in 0usize..3, payload in 0usize..3000) {
        let suite = Suite::ALL[suite];
        let room = suite.sealed_len(payload);
        prop_assert!(suite.largest_payload(room) >= payload);
        prop_assert!(suite.sealed_len(suite.largest_payload(room)) <= room);
        prop_assert!(suite.sealed_len(suite.largest_payload(room) + 1) > room);
        prop_assert!(suite.largest_payload(room - 1) < suite.largest_payload(room).max(1));
    }

    #[test]
    fn a_flipped_bit_is_refused(
        a in association(),
        payload in prop::collection::vec(any::<u8>(), 0..80),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut bytes = sealed(&mut Sealer::new(&a), &payload, 4);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let refusal = Opener::new(&a).open(&mut bytes).unwrap_err();
        match at {
            0..4 => prop_assert_eq!(refusal, Refusal::Spi),
            4..8 => prop_assert!(matches!(refusal, Refusal::Integrity | Refusal::Replay)),
            _ => prop_assert_eq!(refusal, Refusal::Integrity),
        }
    }

    #[test]
    fn another_key_is_refused(a in association(), byte in 0usize..16, payload in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut text = String::from(a.key.clone()).into_bytes();
        text[2 * byte] = if text[2 * byte] == b'0' { b'1' } else { b'0' };
        let key = Key::try_from(String::from_utf8(text).unwrap()).unwrap();
        let mut bytes = sealed(&mut Sealer::new(&Association { key, ..a.clone() }), &payload, 4);
        let opened = Opener::new(&a).open(&mut bytes);
        // The key of the HMAC is another part: there the ICV is right, and what is decrypted is not the payload.
        if a.suite == Suite::Aes256CbcSha256 {
            prop_assert!(opened.is_err() || bytes[opened.unwrap().payload] != payload || payload.is_empty());
        } else {
            prop_assert_eq!(opened, Err(Refusal::Integrity));
        }
    }

    #[test]
    fn a_truncated_packet_is_refused(a in association(), payload in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = sealed(&mut Sealer::new(&a), &payload, 4);
        for len in 0..bytes.len() {
            let refusal = Opener::new(&a).open(&mut bytes[..len].to_vec()).unwrap_err();
            let whole = len >= a.suite.header_len() + ICV_LEN;
            prop_assert_eq!(refusal, if whole { Refusal::Integrity } else { Refusal::Malformed });
        }
    }

    #[test]
    fn reordered_packets_open_once(a in association(), order in Just((0..200usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut sealer = Sealer::new(&a);
        let packets: Vec<_> = (0..order.len()).map(|n| sealed(&mut sealer, &n.to_be_bytes(), 4)).collect();
        let mut opener = Opener::new(&a);
        for n in &order {
            let mut bytes = packets[*n].clone();
            let opened = opener.open(&mut bytes).unwrap();
            prop_assert_eq!(&bytes[opened.payload], &n.to_be_bytes());
        }
        for packet in &packets {
            prop_assert_eq!(opener.open(&mut packet.clone()), Err(Refusal::Replay));
        }
    }

    #[test]
    fn a_forged_sequence_number_moves_no_window(a in association(), forged in 2u32..) {
        let mut sealer = Sealer::new(&a);
        let mut first = sealed(&mut sealer, b"first", 4);
        let mut bytes = sealed(&mut sealer, b"second", 4);
        bytes[4..8].copy_from_slice(&forged.to_be_bytes());
        let mut opener = Opener::new(&a);
        if forged != 2 {
            prop_assert_eq!(opener.open(&mut bytes), Err(Refusal::Integrity));
        }
        prop_assert!(opener.open(&mut first).is_ok());
    }

    #[test]
    fn nothing_panics(a in association(), mut bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
        if ours && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&a.spi.to_be_bytes());
        }
        prop_assert!(Opener::new(&a).open(&mut bytes).is_err());
    }
}
