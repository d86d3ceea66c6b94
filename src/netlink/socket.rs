//! A blocking netlink socket that sends many requests in one datagram. Messages go in; nothing, or the first
//! refusal with errno and extended ack text, comes out. It never waits: the kernel answers within sendmsg(2).

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_xfrm::XfrmMessage;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator, Parseable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};

use super::request::Request;

/// Bytes sent at once: below the default send buffer, which is 208 KiB where `net.core.wmem_default` is untouched.
const CHUNK: usize = 128 << 10;
/// Length of `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
/// Dumps are numbered from here, other requests from 0 in each batch: what is left of the answer to one is not taken for
/// that to another.
const FIRST_DUMP: u32 = 1 << 31;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_CAPPED: the request is not echoed behind the error.
const CAPPED: u16 = 0x100;
/// NLM_F_ACK_TLVS: attributes follow, of which type 1 is text.
const TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which request of the batch, from 0.
    pub index: usize,
    pub errno: i32,
    /// Extended ack, in the kernel's words.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = Errno::from_raw(self.errno);
        write!(f, "{} ({errno:?})", errno.desc())
    }
}

impl std::error::Error for Refusal {}

/// Requests in the datagrams in which they are sent.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Each with the number of its requests.
    datagrams: Vec<(Vec<u8>, usize)>,
}

impl Encoded {
    #[must_use]
    pub fn new<M: NetlinkSerializable>(requests: impl IntoIterator<Item = Request<M>>) -> Self {
        let mut datagrams: Vec<(Vec<u8>, usize)> = Vec::new();
        for (index, request) in requests.into_iter().enumerate() {
            let length = HEADER + request.message.buffer_len();
            if datagrams.last().is_none_or(|(datagram, _)| datagram.len() + length > CHUNK) {
                datagrams.push((Vec::new(), 0));
            }
            if let Some((datagram, count)) = datagrams.last_mut() {
                encode(&request, number(index), datagram);
                *count += 1;
            }
        }
        datagrams.iter_mut().for_each(|(datagram, _)| ask_for_ack(datagram));
        Self { datagrams }
    }
}

/// A socket of one network namespace, that of the thread that opens it, for good, and for one kind of messages.
#[derive(Debug)]
pub struct Socket<M = RouteNetlinkMessage> {
    socket: rtnetlink::sys::Socket,
    /// The number of the next dump.
    dump: u32,
    messages: PhantomData<M>,
}

impl Socket {
    /// For routing.
    ///
    /// # Errors
    /// If the kernel refuses a netlink socket.
    pub fn open() -> io::Result<Self> {
        Self::of_protocol(NETLINK_ROUTE)
    }
}

impl Socket<XfrmMessage> {
    /// For security associations and policies.
    ///
    /// # Errors
    /// If the kernel refuses a netlink socket, as one without XFRM does.
    pub fn open_xfrm() -> io::Result<Self> {
        Self::of_protocol(NETLINK_XFRM)
    }
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Socket<M> {
    fn of_protocol(protocol: isize) -> io::Result<Self> {
        let mut socket = rtnetlink::sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, dump: FIRST_DUMP, messages: PhantomData })
    }

    /// Sends all of `requests`, in order, in as few datagrams as they fit in. Those before the one refused have
    /// been carried out, and of those after it some may have been.
    ///
    /// # Errors
    /// The first refusal.
    pub fn execute(&mut self, requests: impl IntoIterator<Item = Request<M>>) -> Result<(), Refusal> {
        self.send(&Encoded::new(requests))
    }

    /// The same for requests that have been encoded.
    ///
    /// # Errors
    /// The first refusal.
    pub fn send(&mut self, requests: &Encoded) -> Result<(), Refusal> {
        let mut done = 0;
        for (datagram, count) in &requests.datagrams {
            self.transact(datagram, done, *count)
                .map_err(|refusal| Refusal { index: done + refusal.index, ..refusal })?;
            done += count;
        }
        Ok(())
    }

    /// Sends a datagram of `count` requests that are numbered from `first`, the last of which asks for an acknowledgement:
    /// errors always come. Every answer to those sent before has been read.
    fn transact(&mut self, datagram: &[u8], first: usize, count: usize) -> Result<(), Refusal> {
        let first = number(first);
        self.socket.send(datagram, 0).map_err(|e| plain(count - 1, &e))?;
        let mut refusals = Vec::new();
        let acked = self.drain(first, count, &mut refusals)?;
        match refusals.into_iter().min_by_key(|r| r.index) {
            Some(refusal) => Err(refusal),
            None if acked => Ok(()),
            None => Err(Refusal { index: count - 1, errno: libc::EPROTO, text: Some("no answer".into()) }),
        }
    }

    /// Reads every answer there is; true when the last request has been acknowledged.
    fn drain(&self, first: u32, count: usize, refusals: &mut Vec<Refusal>) -> Result<bool, Refusal> {
        let mut acked = false;
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => acked |= read_answers(&buffer, first, count, refusals),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(acked),
                // Answers did not fit; those that did are still there to be read.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(e) => return Err(plain(count - 1, &e)),
            }
        }
    }

    /// Asks for a dump and gives every message of the answer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn dump(&mut self, request: &Request<M>) -> io::Result<Vec<M>> {
        let sequence = self.dump;
        self.dump = sequence.checked_add(1).unwrap_or(FIRST_DUMP);
        let mut bytes = Vec::new();
        encode(request, sequence, &mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut messages = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            if read_dump(&bytes, &mut messages)? {
                return Ok(messages);
            }
        }
    }
}

impl<M> AsFd for Socket<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn plain(index: usize, e: &io::Error) -> Refusal {
    Refusal { index, errno: e.raw_os_error().unwrap_or(libc::EIO), text: None }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Appends a request to a datagram.
fn encode<M: NetlinkSerializable>(request: &Request<M>, sequence: u32, datagram: &mut Vec<u8>) {
    let length = HEADER + request.message.buffer_len();
    let begin = datagram.len();
    datagram.resize(begin + length.next_multiple_of(4), 0);
    let bytes = &mut datagram[begin..];
    let mut header = NetlinkHeader::default();
    header.length = number(length);
    header.message_type = request.message.message_type();
    header.flags = NLM_F_REQUEST | request.flags;
    header.sequence_number = sequence;
    header.emit(bytes);
    request.message.serialize(&mut bytes[HEADER..length]);
}

/// Sets NLM_F_ACK on the last request of `chunk`.
fn ask_for_ack(chunk: &mut [u8]) {
    let mut at = 0;
    while let Some(length) = message_length(&chunk[at..]) {
        let next = at + length.next_multiple_of(4);
        if next >= chunk.len() {
            let flags = u16::from_ne_bytes([chunk[at + 6], chunk[at + 7]]) | NLM_F_ACK;
            chunk[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            return;
        }
        at = next;
    }
}

/// Length of the message at the start of `bytes`, with its header; `None` at the end or where it is cut short.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
    (length >= HEADER && length <= bytes.len()).then_some(length)
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = message_length(bytes)?;
        let message = &bytes[..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

fn read_answers(bytes: &[u8], first: u32, count: usize, refusals: &mut Vec<Refusal>) -> bool {
    let mut acked = false;
    for message in messages(bytes) {
        let header = NetlinkBuffer::new(message);
        let index = header.sequence_number().wrapping_sub(first) as usize;
        if header.message_type() != NLMSG_ERROR || index >= count {
            continue;
        }
        match error_code(message) {
            0 => acked |= index == count - 1,
            code => refusals.push(Refusal { index, errno: -code, text: extended_ack(message) }),
        }
    }
    acked
}

/// `struct nlmsgerr`: i32 minus errno, the header of the request, and, unless capped, the rest of the request.
fn error_code(message: &[u8]) -> i32 {
    message.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes)
}

fn extended_ack(message: &[u8]) -> Option<String> {
    let flags = NetlinkBuffer::new(message).flags();
    if flags & TLVS == 0 {
        return None;
    }
    let echoed = message.get(HEADER + 4..)?;
    let request = if flags & CAPPED != 0 { HEADER } else { message_length(echoed)?.next_multiple_of(4) };
    let text = NlasIterator::new(echoed.get(request..)?)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)?;
    let text = text.value();
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}

/// True at the end of the dump.
fn read_dump<M: NetlinkDeserializable>(bytes: &[u8], found: &mut Vec<M>) -> io::Result<bool> {
    for message in messages(bytes) {
        let header = NetlinkHeader::parse(&NetlinkBuffer::new(message)).map_err(io::Error::other)?;
        match header.message_type {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(io::Error::from_raw_os_error(-error_code(message))),
            _ => found.push(M::deserialize(&header, &message[HEADER..]).map_err(io::Error::other)?),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error answer as the kernel writes it with cap_ack and ext_ack on: header, code, the request's header,
    /// one attribute of type 1.
    fn answer(sequence: u32, errno: i32, text: &str) -> Vec<u8> {
        let nla_len = 4 + text.len() + 1;
        let length = HEADER + 4 + HEADER + nla_len;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&number(length).to_ne_bytes());
        bytes.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&(CAPPED | TLVS).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(-errno).to_ne_bytes());
        bytes.extend_from_slice(&[0; HEADER]);
        bytes.extend_from_slice(&u16::try_from(nla_len).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_first_refusal_and_its_text_are_found() {
        let mut bytes = answer(7, libc::ENETUNREACH, "Nexthop has invalid gateway");
        bytes.extend(answer(9, libc::EEXIST, ""));
        let mut refusals = Vec::new();
        assert!(!read_answers(&bytes, 5, 10, &mut refusals));
        assert_eq!(refusals[0].index, 2);
        assert_eq!(refusals[0].text.as_deref(), Some("Nexthop has invalid gateway"));
        assert_eq!(refusals[0].to_string(), "Network is unreachable (ENETUNREACH)");
        assert_eq!(refusals[1].index, 4);
    }

    #[test]
    fn answers_to_older_requests_are_not_ours() {
        let mut refusals = Vec::new();
        assert!(!read_answers(&answer(3, libc::EEXIST, ""), 5, 10, &mut refusals));
        assert!(refusals.is_empty());
    }

    #[test]
    fn cut_answers_are_ignored() {
        let whole = answer(5, libc::EEXIST, "x");
        for length in 0..whole.len() {
            let mut refusals = Vec::new();
            read_answers(&whole[..length], 5, 1, &mut refusals);
        }
    }

    #[test]
    fn only_the_last_request_asks_for_an_answer() {
        let mut chunk = Vec::new();
        encode(&Request::up(1), 0, &mut chunk);
        let second = chunk.len();
        encode(&Request::up(2), 1, &mut chunk);
        ask_for_ack(&mut chunk);
        assert_eq!(NetlinkBuffer::new(&chunk[..second]).flags() & NLM_F_ACK, 0);
        assert_eq!(NetlinkBuffer::new(&chunk[second..]).flags() & NLM_F_ACK, NLM_F_ACK);
    }
}
