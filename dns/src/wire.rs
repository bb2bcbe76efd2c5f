//! DNS messages on the wire (RFC 1035 section 4): what a query asks, and how a response is put
//! together. Pure; nothing that arrives is trusted.

use std::net::IpAddr;

/// Longest name in wire form, its root included (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
pub(crate) const HEADER: usize = 12;
/// Root, type, size, flags, length: an OPT record without options.
const OPT: usize = 11;
const COMPRESSED: u8 = 0xc0;
/// Where the question's name begins, as a compressed name.
const TO_QUESTION: [u8; 2] = [COMPRESSED, HEADER as u8];

/// Our own EDNS option, of the range for local use (RFC 6891 section 9): by how many of us a query
/// was passed on.
pub(crate) const HOPS: u16 = 65_313;
/// Extended errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// Types of records (IANA, Resource Record TYPEs).
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// Classes (RFC 1035 section 3.2.4).
pub(crate) mod class {
    pub(crate) const IN: u16 = 1;
    pub(crate) const ANY: u16 = 255;
}

/// Response codes (IANA, DNS RCODEs).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORM_ERR: u16 = 1;
    pub(crate) const SERV_FAIL: u16 = 2;
    pub(crate) const NX_DOMAIN: u16 = 3;
    pub(crate) const NOT_IMP: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const BAD_VERS: u16 = 16;
}

/// A name in lower case, labels with their lengths, without the root: `\3web`.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl Name {
    const ROOT: Name = Name {
        bytes: [0; MAX_NAME],
        length: 0,
    };

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// This name with more labels behind it, if that is short enough.
    pub(crate) fn below(name: &[u8], suffix: &[u8]) -> Option<Name> {
        let mut whole = Name::ROOT;
        whole.push(name)?;
        whole.push(suffix)?;
        Some(whole)
    }

    fn push(&mut self, labels: &[u8]) -> Option<()> {
        let start = usize::from(self.length);
        // The root takes the last byte.
        let end = (start + labels.len() < MAX_NAME).then_some(start + labels.len())?;
        self.bytes[start..end].copy_from_slice(labels);
        self.length = end as u8;
        Some(())
    }
}

/// Whether a name in wire form, without the root's zero, is of one label.
pub(crate) fn is_single_label(name: &[u8]) -> bool {
    name.split_first()
        .is_some_and(|(length, label)| usize::from(*length) == label.len())
}

/// Labels with their lengths, as they are; `None` if it cannot be a name.
pub(crate) fn labels(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 1);
    for label in text.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=MAX_LABEL as u8).contains(length))?;
        wire.push(length);
        wire.extend(label.as_bytes());
    }
    (wire.len() < MAX_NAME).then_some(wire)
}

/// What is before a domain at the end of a name; nothing of the domain itself.
pub(crate) fn above<'a>(name: &'a [u8], domain: &[u8]) -> Option<&'a [u8]> {
    let mut rest = name;
    while rest.len() > domain.len() {
        (_, rest) = split(rest)?;
    }
    (rest == domain).then(|| &name[..name.len() - rest.len()])
}

/// The first label and what is behind it.
pub(crate) fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = name.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// Header flags of a query that belong to the cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flags {
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    pub dnssec_ok: bool,
}

/// EDNS options of a query (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub version: u8,
    pub size: u16,
    pub dnssec_ok: bool,
    /// How many of our resolvers have forwarded the query.
    pub hops: u8,
}

/// One question that is well-formed.
pub(crate) struct Query<'a> {
    pub id: u16,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    /// Name, type and class as they were sent.
    pub question: &'a [u8],
    pub name: Name,
    pub kind: u16,
    pub class: u16,
    pub edns: Option<Edns>,
}

/// Why a datagram is not a valid query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// No response allowed: too short, or itself a response.
    Unanswerable,
    /// Answered by its header alone.
    Code(u16),
}

impl<'a> Query<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let header = bytes
            .first_chunk::<HEADER>()
            .filter(|header| header[2] & 0x80 == 0)
            .ok_or(Flaw::Unanswerable)?;
        if header[2] & 0x78 != 0 {
            return Err(Flaw::Code(code::NOT_IMP));
        }
        Self::body(bytes, header).ok_or(Flaw::Code(code::FORM_ERR))
    }

    fn body(bytes: &'a [u8], header: &[u8; HEADER]) -> Option<Self> {
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        // More than one question means nothing (RFC 9619).
        (count(4) == 1).then_some(())?;
        let mut at = HEADER;
        let name = question_name(bytes, &mut at)?;
        let (kind, class) = (short(bytes, at)?, short(bytes, at + 2)?);
        let question = bytes.get(HEADER..at + 4)?;
        at += 4;
        let mut edns = None;
        for _ in 0..u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10)) {
            let record = Record::read(bytes, at)?;
            if record.kind == kind::OPT {
                let second = edns.replace(record.edns(bytes)?);
                (second.is_none() && bytes[at] == 0).then_some(())?;
            }
            at = record.end;
        }
        Some(Self {
            id: count(0),
            recursion_desired: header[2] & 1 != 0,
            checking_disabled: header[3] & 0x10 != 0,
            question,
            name,
            kind,
            class,
            edns,
        })
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags {
            recursion_desired: self.recursion_desired,
            checking_disabled: self.checking_disabled,
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
        }
    }
}

/// A name without compression, which a first name cannot have.
fn question_name(bytes: &[u8], at: &mut usize) -> Option<Name> {
    let mut name = Name::ROOT;
    loop {
        let length = usize::from(*bytes.get(*at)?);
        *at += 1;
        if length == 0 {
            return Some(name);
        }
        (length <= MAX_LABEL).then_some(())?;
        let label = bytes.get(*at - 1..*at + length)?;
        let start = usize::from(name.length);
        name.push(label)?;
        name.bytes[start + 1..start + 1 + length].make_ascii_lowercase();
        *at += length;
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .map(|two| u16::from_be_bytes([two[0], two[1]]))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)
        .map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// Behind a name that may be compressed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if usize::from(length) <= MAX_LABEL => at += usize::from(length) + 1,
            length if length & COMPRESSED == COMPRESSED => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Where the parts of a record are.
struct Record {
    kind: u16,
    class: u16,
    /// Offset of its time to live.
    ttl: usize,
    data: usize,
    end: usize,
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let at = skip_name(bytes, at)?;
        let (kind, class) = (short(bytes, at)?, short(bytes, at + 2)?);
        let length = usize::from(short(bytes, at + 8)?);
        let data = at + 10;
        bytes.get(data..data + length)?;
        Some(Self {
            kind,
            class,
            ttl: at + 4,
            data,
            end: data + length,
        })
    }

    fn edns(&self, bytes: &[u8]) -> Option<Edns> {
        let (mut at, mut hops) = (self.data, 0);
        while at < self.end {
            let (option, length) = (short(bytes, at)?, usize::from(short(bytes, at + 2)?));
            let value = bytes
                .get(at + 4..at + 4 + length)
                .filter(|_| at + 4 + length <= self.end)?;
            if let (HOPS, [count]) = (option, value) {
                hops = *count;
            }
            at += 4 + length;
        }
        let ttl = long(bytes, self.ttl)?;
        Some(Edns {
            version: (ttl >> 16) as u8,
            size: self.class,
            dnssec_ok: ttl & 0x8000 != 0,
            hops,
        })
    }
}

/// The answer of another resolver, without its additional section; times to live and question can
/// be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    bytes: Vec<u8>,
    /// Offset of what follows the question.
    body: usize,
    ttls: Vec<usize>,
    /// Answers and authorities.
    counts: [u16; 2],
    pub code: u16,
    pub truncated: bool,
    authentic: bool,
    /// Seconds that it may be kept; `None` if it may not.
    pub ttl: Option<u32>,
}

impl Foreign {
    /// Whether it has what was asked for, if only in part.
    pub(crate) fn has_answers(&self) -> bool {
        self.code == code::NO_ERROR && (self.counts[0] > 0 || self.truncated)
    }

    /// Where the parts are of an answer that hickory has read already; `None` if it is none to this
    /// question. The bytes stay what they were: they may be signed.
    pub(crate) fn parse(bytes: &[u8], question: &[u8]) -> Option<Self> {
        let count = |at: usize| short(bytes, at);
        let is_response = bytes.get(2)? & 0xf8 == 0x80;
        (is_response && count(4)? == 1).then_some(())?;
        let body = HEADER + question.len();
        bytes
            .get(HEADER..body)?
            .eq_ignore_ascii_case(question)
            .then_some(())?;
        let counts = [count(6)?, count(8)?];
        let (mut at, mut ttls, mut least, mut negative) = (body, Vec::new(), u32::MAX, None);
        for index in 0..u32::from(counts[0]) + u32::from(counts[1]) {
            let record = Record::read(bytes, at)?;
            let ttl = long(bytes, record.ttl)?;
            least = least.min(ttl);
            if record.kind == kind::SOA && index >= u32::from(counts[0]) {
                let minimum = record.end.checked_sub(4).filter(|at| *at >= record.data)?;
                negative = Some(ttl.min(long(bytes, minimum)?));
            }
            ttls.push(record.ttl);
            at = record.end;
        }
        let (code, truncated) = (u16::from(bytes[3] & 0x0f), bytes[2] & 2 != 0);
        let is_positive = code == code::NO_ERROR && counts[0] > 0;
        let ttl = if is_positive { Some(least) } else { negative };
        let is_kept = !truncated && matches!(code, code::NO_ERROR | code::NX_DOMAIN);
        let authentic = bytes[3] & 0x20 != 0;
        let bytes = bytes[..at].to_vec();
        Some(Self {
            bytes,
            body,
            ttls,
            counts,
            code,
            truncated,
            authentic,
            ttl: ttl.filter(|_| is_kept),
        })
    }

    /// Whether it says that there is nothing.
    pub(crate) fn is_negative(&self) -> bool {
        self.counts[0] == 0 || self.code == code::NX_DOMAIN
    }

    /// How much memory it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.ttls.len() * size_of::<usize>()
    }

    /// Writes the answer as a response to this query, `age` seconds later. Negative answers get TTL
    /// 0: a service may get the name the next moment.
    pub(crate) fn respond(&self, query: &Query<'_>, limit: usize, age: u32, out: &mut Vec<u8>) {
        let mut response = Response::new(query, limit, out);
        let body = self.bytes.get(self.body..).unwrap_or_default();
        let fits = response.out.len() + body.len() + response.reserved <= limit;
        response.set_code(self.code);
        if self.truncated || !fits {
            response.set_truncated();
        }
        if self.authentic {
            response.out[3] |= 0x20;
        }
        if fits {
            response.out.extend_from_slice(body);
            response.counts[..2].copy_from_slice(&self.counts);
            for &at in &self.ttls {
                let ttl = long(&self.bytes, at)
                    .unwrap_or_default()
                    .saturating_sub(age);
                let ttl = if self.code == code::NX_DOMAIN { 0 } else { ttl };
                response.out[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
            }
        }
        response.finish(None);
    }
}

/// Longest UDP response in bytes (dnsflagday.net/2020): one packet on every tunnel.
pub(crate) const MAX_UDP: u16 = 1232;

/// An OPT record (RFC 6891).
struct Opt<'a> {
    code: u16,
    dnssec_ok: bool,
    /// Number and value of each.
    options: &'a [(u16, &'a [u8])],
}

impl Opt<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(0);
        out.extend_from_slice(&kind::OPT.to_be_bytes());
        out.extend_from_slice(&MAX_UDP.to_be_bytes());
        let flags = u8::from(self.dnssec_ok) << 7;
        out.extend_from_slice(&[(self.code >> 4) as u8, 0, flags, 0]);
        let length: usize = self.options.iter().map(|(_, value)| value.len() + 4).sum();
        out.extend_from_slice(&(length as u16).to_be_bytes());
        for (option, value) in self.options {
            out.extend_from_slice(&option.to_be_bytes());
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}

/// A section of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Whose record it is.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// The name that was asked for, in the case that it was asked in (0x20).
    Asked,
    /// The name without its first label, for an answer that the name does not exist.
    Parent,
    /// Another one: labels without root.
    Other(&'a [u8]),
}

/// A response while it is put together in a buffer.
pub(crate) struct Response<'a> {
    pub out: &'a mut Vec<u8>,
    edns: Option<Edns>,
    limit: usize,
    /// Kept for the OPT record.
    reserved: usize,
    code: u16,
    counts: [u16; 3],
}

impl<'a> Response<'a> {
    /// With the header and the question of the query.
    pub(crate) fn new(query: &Query<'_>, limit: usize, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&query.id.to_be_bytes());
        let recursion_available = 0x80;
        let bits = [
            0x80 | u8::from(query.recursion_desired),
            recursion_available | u8::from(query.checking_disabled) << 4,
        ];
        out.extend_from_slice(&[bits[0], bits[1], 0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(query.question);
        let reserved = if query.edns.is_some() { OPT } else { 0 };
        Self {
            out,
            edns: query.edns,
            limit,
            reserved,
            code: code::NO_ERROR,
            counts: [0; 3],
        }
    }

    /// Sets the code, of which the header has the low four bits and the OPT record the rest.
    pub(crate) fn set_code(&mut self, code: u16) {
        self.code = code;
        self.out[3] |= (code & 0x0f) as u8;
    }

    /// Says that the answer is of our own zone.
    pub(crate) fn set_authoritative(&mut self) {
        self.out[2] |= 1 << 2;
    }

    /// Says that records are missing for want of room.
    pub(crate) fn set_truncated(&mut self) {
        self.out[2] |= 1 << 1;
    }

    /// How many more bytes there is room for.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len() + self.reserved)
    }

    /// Adds a record whose data are these parts one behind the other, if there is room.
    pub(crate) fn record(
        &mut self,
        section: Section,
        whose: Whose<'_>,
        kind: u16,
        ttl: u32,
        data: &[&[u8]],
    ) -> bool {
        let length: usize = data.iter().map(|part| part.len()).sum();
        let name = match whose {
            Whose::Asked | Whose::Parent => TO_QUESTION.len(),
            Whose::Other(name) => name.len() + 1,
        };
        if name + 10 + length > self.room() || self.counts[section as usize] == u16::MAX {
            return false;
        }
        match whose {
            Whose::Asked => self.out.extend_from_slice(&TO_QUESTION),
            Whose::Parent => {
                let first = self
                    .out
                    .get(HEADER)
                    .map_or(0, |length| if *length == 0 { 0 } else { length + 1 });
                self.out
                    .extend_from_slice(&[COMPRESSED, HEADER as u8 + first]);
            }
            Whose::Other(name) => {
                self.out.extend_from_slice(name);
                self.out.push(0);
            }
        }
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&class::IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&(length as u16).to_be_bytes());
        data.iter()
            .for_each(|part| self.out.extend_from_slice(part));
        self.counts[section as usize] += 1;
        true
    }

    /// Adds an address.
    pub(crate) fn address(
        &mut self,
        section: Section,
        whose: Whose<'_>,
        ttl: u32,
        address: IpAddr,
    ) -> bool {
        match address {
            IpAddr::V4(v4) => self.record(section, whose, kind::A, ttl, &[&v4.octets()]),
            IpAddr::V6(v6) => self.record(section, whose, kind::AAAA, ttl, &[&v6.octets()]),
        }
    }

    /// Adds the client's OPT record, with an extended error if there is one, and the counts.
    pub(crate) fn finish(mut self, explained: Option<(u16, &str)>) {
        if let Some(edns) = self.edns {
            let text =
                explained.map(|(error, text)| [&error.to_be_bytes(), text.as_bytes()].concat());
            let text = text.filter(|text| self.limit >= self.out.len() + OPT + 4 + text.len());
            let options: Vec<(u16, &[u8])> = text
                .iter()
                .map(|text| (EXTENDED_ERROR, text.as_slice()))
                .collect();
            let opt = Opt {
                code: self.code,
                dnssec_ok: edns.dnssec_ok,
                options: &options,
            };
            opt.write(self.out);
            self.counts[Section::Additional as usize] += 1;
        }
        for (index, count) in self.counts.iter().enumerate() {
            let at = 6 + 2 * index;
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// The error response to a malformed message: its own header, or nothing.
pub(crate) fn refuse(bytes: &[u8], flaw: Flaw, out: &mut Vec<u8>) -> bool {
    let (Flaw::Code(code), Some(header)) = (flaw, bytes.first_chunk::<HEADER>()) else {
        return false;
    };
    out.clear();
    out.extend_from_slice(&header[..2]);
    out.extend_from_slice(&[0x80 | header[2] & 0x79, 0x80 | code as u8]);
    out.extend_from_slice(&[0; 8]);
    true
}

/// A query without EDNS.
#[cfg(test)]
pub(crate) fn question(id: u16, question: &[u8]) -> Vec<u8> {
    let header = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&id.to_be_bytes(), &header[..], question].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> Vec<u8> {
        [labels("example.org").unwrap(), vec![0, 0, 1, 0, 1]].concat()
    }

    /// An answer of another resolver: its counts, and what follows the question.
    fn answer(counts: [u8; 2], rest: &[u8]) -> Vec<u8> {
        [
            &[0, 7, 0x81, 0x80, 0, 1, 0, counts[0], 0, counts[1], 0, 0],
            &asked()[..],
            rest,
        ]
        .concat()
    }

    /// Records, each whole or cut.
    fn records() -> impl Strategy<Value = Vec<u8>> {
        let owner = prop_oneof![
            Just(vec![0xc0, 12]),
            Just(vec![0xc0]),
            Just(vec![1, b'x', 0]),
            Just(vec![0x80])
        ];
        let kind = prop_oneof![Just(1_u16), Just(6), Just(41), any::<u16>()];
        let record = (
            owner,
            kind,
            any::<[u8; 4]>(),
            prop::collection::vec(any::<u8>(), 0..40),
            any::<bool>(),
        );
        let record = record.prop_map(|(owner, kind, ttl, data, lies)| {
            let length = (data.len() as u16).wrapping_add(u16::from(lies));
            [
                &owner[..],
                &kind.to_be_bytes(),
                &[0, 1],
                &ttl,
                &length.to_be_bytes(),
                &data,
            ]
            .concat()
        });
        prop::collection::vec(record, 0..6).prop_map(|records| records.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]
        #[test]
        fn no_answer_of_others_does_harm(counts in [0_u8..6, 0_u8..6], rest in records(),
            limit in 512_usize..1_300) {
            let query = question(9, &asked());
            let query = Query::parse(&query).ok().unwrap();
            if let Some(found) = Foreign::parse(&answer(counts, &rest), &asked()) {
                let mut out = Vec::new();
                found.respond(&query, limit, 5, &mut out);
                prop_assert!(out.len() <= limit && out[..2] == [0, 9]);
            }
        }
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let whole = answer([0, 0], &[]);
        assert!(Foreign::parse(&whole, &asked()).is_some());
        let other = [labels("example.net").unwrap(), vec![0, 0, 1, 0, 1]].concat();
        assert!(Foreign::parse(&whole, &other).is_none());
        assert!((0..whole.len()).all(|end| Foreign::parse(&whole[..end], &asked()).is_none()));
    }
}
