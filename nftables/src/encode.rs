//! Encodes steps of a change as netlink messages.

use std::collections::BTreeMap;

use nix::libc::{self, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::{
    Base, Change, Conntrack, Data, DataType, Expression, Family, Key, Kind, Lifetime, Object,
    Reject, Rule, Set, SetRef, SetType, Step, Verdict,
    attribute::{
        bitwise, chain, cmp, ct, data, dynset, element, elements, expr, fib, fwd, hash, hook,
        immediate, limit, list, lookup, meta, nat, numgen, object, objref, payload, reject, route,
        rule, set, table, timeout,
    },
    passage::COMMENT,
    wire::{BATCH_BEGIN, BATCH_END, Message, nftables},
};

/// A list attribute holds 64 KiB; an element takes at most some 440 bytes (two keys of 64, a chain
/// name of 256).
const ELEMENTS_PER_MESSAGE: usize = 128;
const COUNTER: &str = "counter";
const VERDICT_REGISTER: u32 = 0;
/// Elements of a map that rules fill.
const MEMORY: u32 = 1 << 20;

/// A batch as bytes, and which step each of its messages belongs to.
pub(super) struct Batch {
    pub bytes: Vec<u8>,
    /// Sequence number of the first message, which marks the start.
    pub first: u32,
    /// Sequence number of the last message of a step: the one that the kernel acknowledges.
    pub last: u32,
    /// By sequence number, counted from `first + 1`.
    pub steps: Vec<usize>,
}

/// Writes a change as one batch whose messages are numbered from `first`.
pub(super) fn batch(change: &Change, first: u32) -> Batch {
    let mut writer = Writer {
        change,
        first,
        messages: Vec::new(),
        steps: Vec::new(),
        step: 0,
        anonymous: 0,
    };
    for (index, step) in change.steps.iter().enumerate() {
        writer.step = index;
        writer.write(step);
    }
    writer.finish()
}

/// What marks a rule in somebody else's chain as ours: [`COMMENT`], written as `nft` writes and
/// shows comments (`NFTNL_UDATA_RULE_COMMENT` of libnftnl: kind, length, text).
pub(super) fn mark() -> Vec<u8> {
    const KIND: u8 = 0;
    let text = [COMMENT.as_bytes(), &[0]].concat();
    [&[KIND, text.len() as u8][..], &text].concat()
}

struct Writer<'a> {
    change: &'a Change,
    first: u32,
    messages: Vec<Message>,
    steps: Vec<usize>,
    step: usize,
    /// Number of the last anonymous set of this batch.
    anonymous: u32,
}

impl Writer<'_> {
    fn write(&mut self, step: &Step) {
        match step {
            Step::AddTable(lifetime) => {
                let message = self.message(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, table::NAME);
                if *lifetime == Lifetime::Socket {
                    message.u32(table::FLAGS, table::F_OWNER);
                }
            }
            Step::DeleteTable => {
                self.message(libc::NFT_MSG_DELTABLE, 0, table::NAME);
            }
            Step::AddChain { chain, base } => self.chain(chain, base.as_ref()),
            Step::FlushChain(chain) => {
                self.named(libc::NFT_MSG_DELRULE, rule::TABLE, rule::CHAIN, chain);
            }
            Step::DeleteChain(chain) => {
                self.named(libc::NFT_MSG_DELCHAIN, chain::TABLE, chain::NAME, chain);
            }
            Step::DeleteSet(set) => {
                self.named(libc::NFT_MSG_DELSET, set::TABLE, set::NAME, set);
            }
            Step::AddRule { chain, rule } => {
                self.rule(chain, rule, NLM_F_APPEND);
            }
            Step::InsertRule { chain, rule } => {
                self.rule(chain, rule, 0).bytes(rule::USERDATA, &mark())
            }
            Step::DeleteRule { chain, handle } => self
                .named(libc::NFT_MSG_DELRULE, rule::TABLE, rule::CHAIN, chain)
                .bytes(rule::HANDLE, &handle.to_be_bytes()),
            Step::AddObject { name, object } => self.object(name, *object),
            Step::DeleteObject { name, object } => self
                .named(libc::NFT_MSG_DELOBJ, object::TABLE, object::NAME, name)
                .u32(object::TYPE, object_type(*object)),
            Step::AddSet { set, of } => self.set(set, of, None),
            Step::AddElements { set, of, elements } => self.elements(set, of, elements, None),
            Step::DeleteElements { set, of, elements } => self.delete_elements(set, of, elements),
        }
    }

    fn message(&mut self, kind: libc::c_int, flags: libc::c_int, table: u16) -> &mut Message {
        self.steps.push(self.step);
        let sequence = self.first.wrapping_add(self.steps.len() as u32);
        let flags = (NLM_F_REQUEST | flags) as u16;
        let mut message = Message::new(
            nftables(kind as u16),
            flags,
            sequence,
            Some(self.change.family),
        );
        message.text(table, &self.change.table);
        let index = self.messages.len();
        self.messages.push(message);
        &mut self.messages[index]
    }

    fn named(
        &mut self,
        kind: libc::c_int,
        table: u16,
        name_attribute: u16,
        name: &str,
    ) -> &mut Message {
        let message = self.message(kind, 0, table);
        message.text(name_attribute, name);
        message
    }

    fn chain(&mut self, chain: &str, base: Option<&Base>) {
        let message = self.message(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain::TABLE);
        message.text(chain::NAME, chain);
        if let Some(base) = base {
            write_base(message, base);
        }
    }

    fn object(&mut self, name: &str, object: Object) {
        let message = self.message(libc::NFT_MSG_NEWOBJ, NLM_F_CREATE, object::TABLE);
        message.text(object::NAME, name);
        message.u32(object::TYPE, object_type(object));
        message.nested(object::DATA, |message| {
            let Object::UdpTimeouts { unreplied, replied } = object else {
                return;
            };
            // The kernel looks at the protocol of the packet only, not at its version.
            message.bytes(timeout::L3PROTO, &(libc::NFPROTO_IPV4 as u16).to_be_bytes());
            message.bytes(timeout::L4PROTO, &[libc::IPPROTO_UDP as u8]);
            message.nested(timeout::DATA, |message| {
                message.u32(timeout::UDP_UNREPLIED, unreplied);
                message.u32(timeout::UDP_REPLIED, replied);
            });
        });
    }

    fn rule(&mut self, chain: &str, rule: &Rule, place: libc::c_int) -> &mut Message {
        let first_own = self.anonymous + 1;
        for own in rule.0.iter().filter_map(anonymous_set) {
            self.anonymous += 1;
            let (name, id) = (
                anonymous_name(own),
                Some((self.anonymous, own.elements.len())),
            );
            self.set(name, &own.of, id);
            self.elements(name, &own.of, &own.elements, Some(self.anonymous));
        }
        let message = self.message(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | place, rule::TABLE);
        message.text(rule::CHAIN, chain);
        message.nested(rule::EXPRESSIONS, |expressions| {
            let mut own = first_own;
            for expression in &rule.0 {
                expressions.nested(list::ELEM, |message| {
                    write_expression(message, expression, own)
                });
                own += u32::from(anonymous_set(expression).is_some());
            }
        });
        message
    }

    /// A set; an anonymous one has a number and a fixed size.
    fn set(&mut self, name: &str, of: &SetType, anonymous: Option<(u32, usize)>) {
        let message = self.message(libc::NFT_MSG_NEWSET, NLM_F_CREATE, set::TABLE);
        message.text(set::NAME, name);
        let own = if anonymous.is_some() {
            set::F_ANONYMOUS | set::F_CONSTANT
        } else {
            0
        };
        message.u32(set::FLAGS, own | set_flags(of));
        message.u32(
            set::KEY_TYPE,
            of.key
                .iter()
                .fold(0, |types, part| types << 6 | part.code()),
        );
        message.u32(set::KEY_LEN, key_len(of) as u32);
        match of.data {
            DataType::None => {}
            DataType::Value(value) => {
                message.u32(set::DATA_TYPE, value.code());
                message.u32(set::DATA_LEN, value.size() as u32);
            }
            DataType::Verdict => {
                message.u32(set::DATA_TYPE, set::VERDICTS);
                message.u32(set::DATA_LEN, 0);
            }
        }
        // Needed by the kernel even where nothing refers to it.
        message.u32(set::ID, anonymous.map_or(0, |(id, _)| id));
        message.nested(set::DESC, |description| {
            let memory = of.dynamic.then_some(MEMORY as usize);
            if let Some(size) = anonymous.map(|(_, size)| size).or(memory) {
                description.u32(set::DESC_SIZE, size as u32);
            }
            if of.key.len() > 1 {
                description.nested(set::DESC_CONCAT, |fields| {
                    for part in &of.key {
                        fields.nested(list::ELEM, |field| {
                            field.u32(set::FIELD_LEN, part.size() as u32)
                        });
                    }
                });
            }
        });
        if of.counted {
            message.nested(set::EXPR, |counter| counter.text(expr::NAME, COUNTER));
        }
    }

    fn elements(&mut self, name: &str, of: &SetType, all: &BTreeMap<Key, Data>, id: Option<u32>) {
        let all: Vec<_> = all.iter().collect();
        for part in all.chunks(ELEMENTS_PER_MESSAGE) {
            let message = self.message(libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE, elements::TABLE);
            message.text(elements::SET, name);
            if let Some(id) = id {
                message.u32(elements::SET_ID, id);
            }
            message.nested(elements::ELEMENTS, |list| {
                part.iter()
                    .for_each(|(key, data)| write_element(list, of, key, data))
            });
        }
    }

    fn delete_elements(&mut self, name: &str, of: &SetType, keys: &[Key]) {
        for part in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let message = self.named(
                libc::NFT_MSG_DELSETELEM,
                elements::TABLE,
                elements::SET,
                name,
            );
            message.nested(elements::ELEMENTS, |list| {
                part.iter()
                    .for_each(|key| write_element(list, of, key, &Data::None));
            });
        }
    }

    fn finish(mut self) -> Batch {
        let last = self.first.wrapping_add(self.steps.len() as u32);
        if let Some(message) = self.messages.last_mut() {
            message.add_flags(NLM_F_ACK as u16);
        }
        let flags = NLM_F_REQUEST as u16;
        let mut bytes = Message::new(BATCH_BEGIN, flags, self.first, None).finish();
        self.messages
            .into_iter()
            .for_each(|message| bytes.extend(message.finish()));
        bytes.extend(Message::new(BATCH_END, flags, last.wrapping_add(1), None).finish());
        Batch {
            bytes,
            first: self.first,
            last,
            steps: self.steps,
        }
    }
}

fn write_base(message: &mut Message, base: &Base) {
    message.nested(chain::HOOK, |hook| {
        hook.u32(hook::HOOKNUM, base.hook.code());
        hook.u32(hook::PRIORITY, base.priority as u32);
        if let Some(device) = &base.device {
            hook.text(hook::DEV, device);
        }
    });
    message.u32(chain::POLICY, base.policy.code());
    message.text(chain::TYPE, base.kind.name());
}

impl Kind {
    /// The kernel's name of a chain type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
            Kind::Route => "route",
        }
    }
}

fn object_type(object: Object) -> u32 {
    match object {
        Object::UdpTimeouts { .. } => object::TIMEOUT,
        Object::Foreign(kind) => kind,
    }
}

fn anonymous_set(expression: &Expression) -> Option<&Set> {
    match expression {
        Expression::Match {
            set: SetRef::Anonymous(set),
            ..
        }
        | Expression::Map {
            set: SetRef::Anonymous(set),
            ..
        }
        | Expression::VerdictMap {
            set: SetRef::Anonymous(set),
            ..
        } => Some(set),
        _ => None,
    }
}

/// The kernel puts the first free number in place of `%d`.
fn anonymous_name(set: &Set) -> &'static str {
    if set.of.data == DataType::None {
        "__set%d"
    } else {
        "__map%d"
    }
}

fn set_flags(of: &SetType) -> u32 {
    let interval = if of.interval { set::F_INTERVAL } else { 0 };
    let map = if of.data == DataType::None {
        0
    } else {
        set::F_MAP
    };
    let concat = if of.key.len() > 1 { set::F_CONCAT } else { 0 };
    let dynamic = if of.dynamic {
        set::F_TIMEOUT | set::F_EVAL
    } else {
        0
    };
    interval | map | concat | dynamic
}

fn key_len(of: &SetType) -> usize {
    match of.key.as_slice() {
        [single] => single.size(),
        parts => parts
            .iter()
            .map(|part| part.size().next_multiple_of(4))
            .sum(),
    }
}

/// Ranges of a single value are two elements: the start, and an end flag on the first value behind
/// the range. Ranges of concatenations are one element with two keys.
fn write_element(list: &mut Message, of: &SetType, key: &Key, data: &Data) {
    let concatenated = of.key.len() > 1;
    list.nested(list::ELEM, |message| {
        if key.first.is_empty() {
            message.u32(element::FLAGS, element::F_CATCHALL);
        } else {
            message.nested(element::KEY, |value| value.bytes(data::VALUE, &key.first));
        }
        if of.interval && concatenated {
            message.nested(element::KEY_END, |value| {
                value.bytes(data::VALUE, &key.last)
            });
        }
        if *data != Data::None {
            message.nested(element::DATA, |message| write_data(message, data));
        }
    });
    let Some(end) = successor(&key.last).filter(|_| of.interval && !concatenated) else {
        return;
    };
    list.nested(list::ELEM, |message| {
        message.nested(element::KEY, |value| value.bytes(data::VALUE, &end));
        message.u32(element::FLAGS, element::F_INTERVAL_END);
    });
}

/// The next value; `None` behind the last.
fn successor(value: &[u8]) -> Option<Vec<u8>> {
    let mut next = value.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

fn write_data(message: &mut Message, data: &Data) {
    match data {
        Data::None => {}
        Data::Value(value) => message.bytes(data::VALUE, value),
        Data::Verdict(verdict) => message.nested(data::VERDICT, |message| {
            let (code, chain) = match verdict {
                Verdict::Accept => (libc::NF_ACCEPT, None),
                Verdict::Drop => (libc::NF_DROP, None),
                Verdict::Continue => (libc::NFT_CONTINUE, None),
                Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
                Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
                Verdict::Return => (libc::NFT_RETURN, None),
            };
            message.u32(data::VERDICT_CODE, code as u32);
            if let Some(chain) = chain {
                message.text(data::VERDICT_CHAIN, chain);
            }
        }),
    }
}

/// Registers count from 8 in units of four bytes (`NFT_REG32_00`).
fn register(register: u8) -> u32 {
    8 + u32::from(register)
}

fn write_value(message: &mut Message, attribute: u16, value: &[u8]) {
    message.nested(attribute, |message| message.bytes(data::VALUE, value));
}

/// Writes an expression; if it has a set of its own, that is number `own` of the batch.
fn write_expression(message: &mut Message, expression: &Expression, own: u32) {
    message.text(expr::NAME, name(expression));
    if matches!(expression, Expression::Notrack | Expression::Unknown(_)) {
        return;
    }
    message.nested(expr::DATA, |message| match expression {
        Expression::Match { set, from, invert } => {
            write_lookup(message, set, *from, None, own);
            message.u32(lookup::FLAGS, u32::from(*invert));
        }
        Expression::Map { set, from, into } => {
            write_lookup(message, set, *from, Some(register(*into)), own)
        }
        Expression::VerdictMap { set, from } => {
            write_lookup(message, set, *from, Some(VERDICT_REGISTER), own)
        }
        Expression::Forget { map, key, data } => {
            write_dynset(message, map, dynset::DELETE, (*key, *data))
        }
        Expression::Remember {
            map,
            key,
            data,
            milliseconds,
        } => {
            write_dynset(message, map, dynset::UPDATE, (*key, *data));
            message.bytes(dynset::TIMEOUT, &milliseconds.to_be_bytes());
        }
        Expression::Reject(how) => write_reject(message, *how),
        Expression::Timeouts(name) => {
            message.u32(objref::TYPE, object::TIMEOUT);
            message.text(objref::NAME, name);
        }
        Expression::Over { rate, burst } => {
            message.bytes(limit::RATE, &rate.to_be_bytes());
            message.bytes(limit::UNIT, &1u64.to_be_bytes());
            message.u32(limit::BURST, *burst);
            message.u32(limit::TYPE, limit::PACKETS);
            message.u32(limit::FLAGS, limit::F_INVERT);
        }
        Expression::Masquerade
        | Expression::Counter
        | Expression::Notrack
        | Expression::Unknown(_) => {}
        Expression::Verdict(verdict) => {
            message.u32(immediate::DREG, VERDICT_REGISTER);
            message.nested(immediate::DATA, |message| {
                write_data(message, &Data::Verdict(verdict.clone()))
            });
        }
        _ => write_registers(message, expression),
    });
}

fn name(expression: &Expression) -> &str {
    match expression {
        Expression::Meta { .. } | Expression::SetMeta { .. } => "meta",
        Expression::Conntrack { .. } | Expression::SetConntrack { .. } => "ct",
        Expression::Payload { .. } | Expression::SetPayload { .. } => "payload",
        Expression::Forward { .. } => "fwd",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Match { .. } | Expression::Map { .. } | Expression::VerdictMap { .. } => {
            "lookup"
        }
        Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
        Expression::Nat { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::Number { .. } => "numgen",
        Expression::Hash { .. } => "hash",
        Expression::Fib { .. } => "fib",
        Expression::RouteIpsec { .. } => "rt",
        Expression::Counter => COUNTER,
        Expression::Remember { .. } | Expression::Forget { .. } => "dynset",
        Expression::Over { .. } => "limit",
        Expression::Timeouts(_) => "objref",
        Expression::Notrack => "notrack",
        Expression::Reject(_) => "reject",
        Expression::Unknown(name) => name,
    }
}

fn write_lookup(message: &mut Message, set: &SetRef, from: u8, into: Option<u32>, own: u32) {
    match set {
        SetRef::Named(name) => message.text(lookup::SET, name),
        SetRef::Anonymous(set) => {
            message.text(lookup::SET, anonymous_name(set));
            message.u32(lookup::SET_ID, own);
        }
    }
    message.u32(lookup::SREG, register(from));
    if let Some(into) = into {
        message.u32(lookup::DREG, into);
    }
}

fn write_dynset(message: &mut Message, map: &str, op: u32, (key, data): (u8, u8)) {
    message.text(dynset::SET, map);
    message.u32(dynset::OP, op);
    message.u32(dynset::SREG_KEY, register(key));
    message.u32(dynset::SREG_DATA, register(data));
}

fn write_reject(message: &mut Message, how: Reject) {
    let (kind, code) = match how {
        Reject::Icmp(code) => (0, code),
        Reject::TcpReset => (1, 0),
        Reject::Icmpx(code) => (2, code),
    };
    message.u32(reject::TYPE, kind);
    message.bytes(reject::ICMP_CODE, &[code]);
}

/// The expressions that only move values between the packet and registers.
fn write_registers(message: &mut Message, expression: &Expression) {
    if let Expression::Conntrack {
        key: Conntrack::CalledPort,
        ..
    } = expression
    {
        message.bytes(ct::DIRECTION, &[0]);
    }
    let mut put = |attributes: &[(u16, u32)]| {
        attributes
            .iter()
            .for_each(|&(kind, value)| message.u32(kind, value))
    };
    match expression {
        Expression::Meta { key, into } => {
            put(&[(meta::KEY, key.code()), (meta::DREG, register(*into))])
        }
        Expression::SetMeta { key, from } => {
            put(&[(meta::KEY, key.code()), (meta::SREG, register(*from))])
        }
        Expression::Conntrack { key, into } => {
            put(&[(ct::KEY, key.code()), (ct::DREG, register(*into))])
        }
        Expression::SetConntrack { key, from } => {
            put(&[(ct::KEY, key.code()), (ct::SREG, register(*from))])
        }
        Expression::Payload {
            base,
            offset,
            len,
            into,
        } => {
            put(&[
                (payload::DREG, register(*into)),
                (payload::BASE, base.code()),
            ]);
            put(&[(payload::OFFSET, *offset), (payload::LEN, *len)]);
        }
        Expression::SetPayload {
            base,
            offset,
            len,
            from,
            checksum,
        } => {
            put(&[
                (payload::SREG, register(*from)),
                (payload::BASE, base.code()),
            ]);
            put(&[(payload::OFFSET, *offset), (payload::LEN, *len)]);
            if let Some(checksum) = checksum {
                put(&[
                    (payload::CSUM_TYPE, payload::CSUM_INET),
                    (payload::CSUM_OFFSET, *checksum),
                ]);
            }
        }
        Expression::Compare { from, how, value } => {
            put(&[(cmp::SREG, register(*from)), (cmp::OP, how.code())]);
            write_value(message, cmp::DATA, value);
        }
        Expression::Bitwise {
            from,
            into,
            mask,
            xor,
        } => {
            put(&[
                (bitwise::SREG, register(*from)),
                (bitwise::DREG, register(*into)),
            ]);
            put(&[(bitwise::LEN, mask.len() as u32)]);
            write_value(message, bitwise::MASK, mask);
            write_value(message, bitwise::XOR, xor);
        }
        Expression::Immediate { into, value } => {
            put(&[(immediate::DREG, register(*into))]);
            write_value(message, immediate::DATA, value);
        }
        Expression::Forward { device } => put(&[(fwd::SREG_DEV, register(*device))]),
        Expression::Nat {
            kind,
            version,
            address,
            ports,
        } => {
            put(&[
                (nat::TYPE, kind.code()),
                (nat::FAMILY, version.code()),
                (nat::REG_ADDR_MIN, register(*address)),
            ]);
            if let Some((first, last)) = ports {
                put(&[
                    (nat::REG_PROTO_MIN, register(*first)),
                    (nat::REG_PROTO_MAX, register(*last)),
                ]);
            }
        }
        Expression::Number {
            kind,
            modulus,
            offset,
            into,
        } => {
            put(&[(numgen::DREG, register(*into)), (numgen::MODULUS, *modulus)]);
            put(&[(numgen::TYPE, kind.code()), (numgen::OFFSET, *offset)]);
        }
        Expression::Hash {
            from,
            len,
            modulus,
            seed,
            offset,
            into,
        } => {
            put(&[
                (hash::SREG, register(*from)),
                (hash::DREG, register(*into)),
                (hash::LEN, *len),
            ]);
            put(&[
                (hash::MODULUS, *modulus),
                (hash::SEED, *seed),
                (hash::OFFSET, *offset),
                (hash::TYPE, 0),
            ]);
        }
        Expression::Fib {
            result,
            flags,
            into,
        } => {
            put(&[
                (fib::DREG, register(*into)),
                (fib::RESULT, result.code()),
                (fib::FLAGS, *flags),
            ]);
        }
        Expression::RouteIpsec { into } => {
            put(&[(route::KEY, route::IPSEC), (route::DREG, register(*into))])
        }
        _ => {}
    }
}

/// Asks for an object of a table, or with the dump flag for all of them.
pub(super) fn question(
    sequence: u32,
    kind: libc::c_int,
    flags: libc::c_int,
    family: Family,
    names: &[(u16, &str)],
) -> Vec<u8> {
    let flags = (NLM_F_REQUEST | flags) as u16;
    let mut message = Message::new(nftables(kind as u16), flags, sequence, Some(family));
    names
        .iter()
        .for_each(|(attribute, name)| message.text(*attribute, name));
    message.finish()
}
