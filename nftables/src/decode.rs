//! Decodes objects of a table from netlink messages. An object that this crate would not write is
//! decoded as foreign, never as ours.

use std::collections::BTreeMap;

use nix::libc;

use super::{
    Base, Comparison, Conntrack, Data, DataType, Expression, FibResult, Header, Hook, Ip, Key,
    Kind, Meta, Nat, Numbers, Object, Placed, Policy, Reject, Rule, Set, SetRef, SetType, Type,
    Verdict,
    attribute::{
        bitwise, chain, cmp, counter, ct, data, dynset, element, elements, expr, fib, fwd, hash,
        hook, immediate, limit, lookup, masq, meta, nat, numgen, object, objref, payload, reject,
        route, rule, set, timeout,
    },
    encode::mark,
    wire::Attributes,
};

/// A chain's table, name and hook.
pub(super) fn chain(message: &Attributes<'_>) -> Option<(String, String, Option<Base>)> {
    Some((
        message.text(chain::TABLE)?,
        message.text(chain::NAME)?,
        base(message),
    ))
}

fn base(message: &Attributes<'_>) -> Option<Base> {
    let hook = message.nested(chain::HOOK)?;
    let kind = message.text(chain::TYPE)?;
    Some(Base {
        kind: [Kind::Filter, Kind::Nat, Kind::Route]
            .into_iter()
            .find(|known| known.name() == kind)?,
        hook: Hook::of_code(hook.u32(hook::HOOKNUM)?)?,
        priority: hook.u32(hook::PRIORITY)? as i32,
        policy: Policy::of_code(message.u32(chain::POLICY)?)?,
        device: hook.text(hook::DEV),
    })
}

/// An object's table and name, and the object.
pub(super) fn object(message: &Attributes<'_>) -> Option<(String, String, Object)> {
    let kind = message.u32(object::TYPE)?;
    let known = message
        .nested(object::DATA)
        .filter(|_| kind == object::TIMEOUT)
        .and_then(|data| udp_timeouts(&data));
    Some((
        message.text(object::TABLE)?,
        message.text(object::NAME)?,
        known.unwrap_or(Object::Foreign(kind)),
    ))
}

fn udp_timeouts(data: &Attributes<'_>) -> Option<Object> {
    if data.bytes(timeout::L4PROTO) != Some(&[libc::IPPROTO_UDP as u8]) {
        return None;
    }
    let values = data.nested(timeout::DATA)?;
    Some(Object::UdpTimeouts {
        unreplied: values.u32(timeout::UDP_UNREPLIED)?,
        replied: values.u32(timeout::UDP_REPLIED)?,
    })
}

/// A set without its elements.
pub(super) struct Declared {
    pub name: String,
    pub anonymous: bool,
    pub of: SetType,
}

pub(super) fn set(message: &Attributes<'_>) -> Option<Declared> {
    let flags = message.u32(set::FLAGS).unwrap_or(0);
    let anonymous = flags & set::F_ANONYMOUS != 0;
    let own = if anonymous {
        set::F_ANONYMOUS | set::F_CONSTANT
    } else {
        0
    };
    let dynamic = flags & (set::F_TIMEOUT | set::F_EVAL) == set::F_TIMEOUT | set::F_EVAL;
    let timed = if dynamic {
        set::F_TIMEOUT | set::F_EVAL
    } else {
        0
    };
    let known = own | timed | set::F_INTERVAL | set::F_MAP | set::F_CONCAT;
    let counter = message
        .nested(set::EXPR)
        .map(|expression| expression.text(expr::NAME));
    let counted = counter == Some(Some("counter".to_owned()));
    let data = data_type(message, flags);
    let key = key_types(message.u32(set::KEY_TYPE)?);
    let foreign =
        flags & !known != 0 || data.is_none() || key.is_none() || counter.is_some() != counted;
    let interval = flags & set::F_INTERVAL != 0;
    let of = SetType {
        key: key.unwrap_or_default(),
        data: data.unwrap_or(DataType::None),
        interval,
        dynamic,
        counted,
        foreign,
    };
    Some(Declared {
        name: message.text(set::NAME)?,
        anonymous,
        of,
    })
}

fn data_type(message: &Attributes<'_>, flags: u32) -> Option<DataType> {
    if flags & set::F_MAP == 0 {
        return Some(DataType::None);
    }
    match message.u32(set::DATA_TYPE)? {
        set::VERDICTS => Some(DataType::Verdict),
        code => Type::of_code(code).map(DataType::Value),
    }
}

/// Six bits for each part, the first part highest.
fn key_types(mut code: u32) -> Option<Vec<Type>> {
    let mut parts = Vec::new();
    while code != 0 {
        parts.insert(0, Type::of_code(code & 0x3f)?);
        code >>= 6;
    }
    Some(parts)
}

/// One element as the kernel keeps it.
pub(super) struct RawElement {
    first: Vec<u8>,
    last: Option<Vec<u8>>,
    end: bool,
    data: Data,
}

pub(super) fn raw_elements(message: &Attributes<'_>) -> Vec<RawElement> {
    message
        .members(elements::ELEMENTS)
        .map(|element| raw_element(&element))
        .collect()
}

fn raw_element(element: &Attributes<'_>) -> RawElement {
    let value = |kind| element.nested(kind)?.bytes(data::VALUE).map(<[u8]>::to_vec);
    RawElement {
        first: value(element::KEY).unwrap_or_default(),
        last: value(element::KEY_END),
        end: element.u32(element::FLAGS).unwrap_or(0) & element::F_INTERVAL_END != 0,
        data: element
            .nested(element::DATA)
            .map_or(Data::None, |data| read_data(&data)),
    }
}

/// How often each element was found, and what it leads to.
pub(super) fn counts(message: &Attributes<'_>) -> Vec<(Key, Data, u64)> {
    let count = |element: &Attributes<'_>| {
        let counter = element.nested(element::EXPR)?.nested(expr::DATA)?;
        counter
            .bytes(counter::PACKETS)?
            .try_into()
            .ok()
            .map(u64::from_be_bytes)
    };
    let elements = message
        .members(elements::ELEMENTS)
        .map(|element| (raw_element(&element), count(&element)));
    elements
        .filter_map(|(RawElement { first, data, .. }, count)| {
            Some((Key::single(first.as_slice().into()), data, count?))
        })
        .collect()
}

fn read_data(attributes: &Attributes<'_>) -> Data {
    match attributes.nested(data::VERDICT) {
        Some(verdict) => read_verdict(&verdict).map_or(Data::None, Data::Verdict),
        None => Data::Value(attributes.bytes(data::VALUE).unwrap_or_default().to_vec()),
    }
}

fn read_verdict(attributes: &Attributes<'_>) -> Option<Verdict> {
    let chain = || attributes.text(data::VERDICT_CHAIN);
    match attributes.u32(data::VERDICT_CODE)? as i32 {
        libc::NF_ACCEPT => Some(Verdict::Accept),
        libc::NF_DROP => Some(Verdict::Drop),
        libc::NFT_CONTINUE => Some(Verdict::Continue),
        libc::NFT_JUMP => chain().map(Verdict::Jump),
        libc::NFT_GOTO => chain().map(Verdict::Goto),
        libc::NFT_RETURN => Some(Verdict::Return),
        _ => None,
    }
}

/// Elements as keys and data. Ranges of a single value are put together from their starts and ends.
pub(super) fn elements(of: &SetType, raw: Vec<RawElement>) -> BTreeMap<Key, Data> {
    if of.interval && of.key.len() == 1 {
        return ranges(raw);
    }
    let key = |element: &RawElement| {
        let last = element.last.as_ref().unwrap_or(&element.first);
        Key {
            first: element.first.as_slice().into(),
            last: last.as_slice().into(),
        }
    };
    raw.into_iter()
        .map(|element| (key(&element), element.data))
        .collect()
}

fn ranges(mut raw: Vec<RawElement>) -> BTreeMap<Key, Data> {
    // Where one range ends as the next starts, the end comes first.
    raw.sort_by(|a, b| a.first.cmp(&b.first).then(b.end.cmp(&a.end)));
    let mut found = BTreeMap::new();
    let mut open: Option<RawElement> = None;
    for element in raw {
        if let Some(start) = open.take() {
            found.insert(
                Key {
                    first: start.first.as_slice().into(),
                    last: predecessor(&element.first).as_slice().into(),
                },
                start.data,
            );
        }
        open = Some(element).filter(|element| !element.end);
    }
    if let Some(start) = open {
        let last = vec![u8::MAX; start.first.len()];
        found.insert(
            Key {
                first: start.first.as_slice().into(),
                last: last.as_slice().into(),
            },
            start.data,
        );
    }
    found
}

/// The value before this one.
fn predecessor(value: &[u8]) -> Vec<u8> {
    let mut previous = value.to_vec();
    for byte in previous.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            break;
        }
    }
    previous
}

/// A rule and its chain. `own` are the table's anonymous sets by the names that the kernel gave
/// them.
pub(super) fn rule(
    message: &Attributes<'_>,
    own: &BTreeMap<String, Set>,
) -> Option<(String, Rule)> {
    let expressions = message.members(rule::EXPRESSIONS).map(|member| {
        let name = member.text(expr::NAME).unwrap_or_default();
        let data = member
            .nested(expr::DATA)
            .unwrap_or_else(|| Attributes::parse(&[]));
        read_expression(&name, &data, own).unwrap_or(Expression::Unknown(name))
    });
    Some((message.text(rule::CHAIN)?, Rule(expressions.collect())))
}

/// A rule in somebody else's chain; what it says is read only if it is ours.
pub(super) fn placed(message: &Attributes<'_>) -> Option<Placed> {
    let handle = u64::from_be_bytes(message.bytes(rule::HANDLE)?.try_into().ok()?);
    let ours = message.bytes(rule::USERDATA) == Some(&mark());
    let rule = ours
        .then(|| self::rule(message, &BTreeMap::new()))
        .flatten()
        .map(|(_, rule)| rule);
    Some(Placed { handle, ours: rule })
}

fn read_expression(
    name: &str,
    data: &Attributes<'_>,
    own: &BTreeMap<String, Set>,
) -> Option<Expression> {
    match name {
        "meta" => read_meta(data),
        "ct" => read_conntrack(data),
        "payload" => read_payload(data),
        "fwd" => read_forward(data),
        "cmp" => read_compare(data),
        "bitwise" => read_bitwise(data),
        "lookup" => read_lookup(data, own),
        "immediate" => read_immediate(data),
        "nat" => read_nat(data),
        "masq" => {
            let plain = data.u32(masq::FLAGS).unwrap_or(0) == 0
                && data.bytes(masq::REG_PROTO_MIN).is_none();
            plain.then_some(Expression::Masquerade)
        }
        "numgen" => read_number(data),
        "hash" => read_hash(data),
        "dynset" => read_remember(data),
        "fib" => read_fib(data),
        "rt" => {
            let ipsec = data.u32(route::KEY)? == route::IPSEC;
            register(data, route::DREG)
                .filter(|_| ipsec)
                .map(|into| Expression::RouteIpsec { into })
        }
        "counter" => Some(Expression::Counter),
        "notrack" => Some(Expression::Notrack),
        "limit" => read_limit(data),
        "objref" => {
            let timeouts = data.u32(objref::TYPE)? == object::TIMEOUT;
            data.text(objref::NAME)
                .filter(|_| timeouts)
                .map(Expression::Timeouts)
        }
        "reject" => read_reject(data).map(Expression::Reject),
        _ => None,
    }
}

/// Registers come as 1-4 where they start a group of four (`NFT_REG_1`), else from 8 in units of
/// four bytes.
fn register(attributes: &Attributes<'_>, kind: u16) -> Option<u8> {
    match attributes.u32(kind)? {
        group @ 1..=4 => Some((group as u8 - 1) * 4),
        unit @ 8..=23 => Some(unit as u8 - 8),
        _ => None,
    }
}

fn value(attributes: &Attributes<'_>, kind: u16) -> Option<Vec<u8>> {
    attributes
        .nested(kind)?
        .bytes(data::VALUE)
        .map(<[u8]>::to_vec)
}

fn read_meta(data: &Attributes<'_>) -> Option<Expression> {
    let key = Meta::of_code(data.u32(meta::KEY)?)?;
    match register(data, meta::DREG) {
        Some(into) => Some(Expression::Meta { key, into }),
        None => Some(Expression::SetMeta {
            key,
            from: register(data, meta::SREG)?,
        }),
    }
}

fn read_conntrack(data: &Attributes<'_>) -> Option<Expression> {
    let key = Conntrack::of_code(data.u32(ct::KEY)?)?;
    // A tuple of the other direction than the original one is none of ours.
    if key == Conntrack::CalledPort && data.bytes(ct::DIRECTION) != Some(&[0]) {
        return None;
    }
    match register(data, ct::DREG) {
        Some(into) => Some(Expression::Conntrack { key, into }),
        None => Some(Expression::SetConntrack {
            key,
            from: register(data, ct::SREG)?,
        }),
    }
}

fn read_payload(data: &Attributes<'_>) -> Option<Expression> {
    if let Some(from) = register(data, payload::SREG) {
        let checksum = match data.u32(payload::CSUM_TYPE).unwrap_or(0) {
            0 => None,
            payload::CSUM_INET if data.u32(payload::CSUM_FLAGS).unwrap_or(0) == 0 => {
                Some(data.u32(payload::CSUM_OFFSET)?)
            }
            _ => return None,
        };
        return Some(Expression::SetPayload {
            base: Header::of_code(data.u32(payload::BASE)?)?,
            offset: data.u32(payload::OFFSET)?,
            len: data.u32(payload::LEN)?,
            from,
            checksum,
        });
    }
    Some(Expression::Payload {
        base: Header::of_code(data.u32(payload::BASE)?)?,
        offset: data.u32(payload::OFFSET)?,
        len: data.u32(payload::LEN)?,
        into: register(data, payload::DREG)?,
    })
}

fn read_forward(data: &Attributes<'_>) -> Option<Expression> {
    let to_neighbour = data.bytes(fwd::SREG_ADDR).is_some();
    (!to_neighbour).then_some(Expression::Forward {
        device: register(data, fwd::SREG_DEV)?,
    })
}

fn read_compare(data: &Attributes<'_>) -> Option<Expression> {
    Some(Expression::Compare {
        from: register(data, cmp::SREG)?,
        how: Comparison::of_code(data.u32(cmp::OP)?)?,
        value: value(data, cmp::DATA)?,
    })
}

fn read_bitwise(data: &Attributes<'_>) -> Option<Expression> {
    let (from, into) = (
        register(data, bitwise::SREG)?,
        register(data, bitwise::DREG)?,
    );
    if data.u32(bitwise::OP).unwrap_or(0) != 0 {
        return None;
    }
    Some(Expression::Bitwise {
        from,
        into,
        mask: value(data, bitwise::MASK)?,
        xor: value(data, bitwise::XOR)?,
    })
}

fn read_lookup(data: &Attributes<'_>, own: &BTreeMap<String, Set>) -> Option<Expression> {
    let name = data.text(lookup::SET)?;
    let set = own
        .get(&name)
        .map_or(SetRef::Named(name), |set| SetRef::Anonymous(set.clone()));
    let from = register(data, lookup::SREG)?;
    match data.u32(lookup::DREG) {
        None => Some(Expression::Match {
            set,
            from,
            invert: data.u32(lookup::FLAGS).unwrap_or(0) != 0,
        }),
        Some(0) => Some(Expression::VerdictMap { set, from }),
        Some(_) => Some(Expression::Map {
            set,
            from,
            into: register(data, lookup::DREG)?,
        }),
    }
}

fn read_immediate(data: &Attributes<'_>) -> Option<Expression> {
    match read_data(&data.nested(immediate::DATA)?) {
        Data::Verdict(verdict) => Some(Expression::Verdict(verdict)),
        Data::Value(value) => Some(Expression::Immediate {
            into: register(data, immediate::DREG)?,
            value,
        }),
        Data::None => None,
    }
}

fn read_nat(data: &Attributes<'_>) -> Option<Expression> {
    let address = register(data, nat::REG_ADDR_MIN)?;
    let first = register(data, nat::REG_PROTO_MIN);
    let ports = first.map(|first| (first, register(data, nat::REG_PROTO_MAX).unwrap_or(first)));
    let plain = data.u32(nat::FLAGS).unwrap_or(0) & !(nat::F_MAP_IPS | nat::F_PROTO_SPECIFIED) == 0
        && register(data, nat::REG_ADDR_MAX).is_none_or(|last| last == address);
    let (kind, version) = (
        Nat::of_code(data.u32(nat::TYPE)?)?,
        Ip::of_code(data.u32(nat::FAMILY)?)?,
    );
    plain.then_some(Expression::Nat {
        kind,
        version,
        address,
        ports,
    })
}

fn read_number(data: &Attributes<'_>) -> Option<Expression> {
    Some(Expression::Number {
        kind: Numbers::of_code(data.u32(numgen::TYPE)?)?,
        modulus: data.u32(numgen::MODULUS)?,
        offset: data.u32(numgen::OFFSET).unwrap_or(0),
        into: register(data, numgen::DREG)?,
    })
}

fn read_hash(data: &Attributes<'_>) -> Option<Expression> {
    if data.u32(hash::TYPE)? != 0 {
        return None;
    }
    Some(Expression::Hash {
        from: register(data, hash::SREG)?,
        len: data.u32(hash::LEN)?,
        modulus: data.u32(hash::MODULUS)?,
        seed: data.u32(hash::SEED)?,
        offset: data.u32(hash::OFFSET).unwrap_or(0),
        into: register(data, hash::DREG)?,
    })
}

fn read_remember(data: &Attributes<'_>) -> Option<Expression> {
    let (map, op) = (data.text(dynset::SET)?, data.u32(dynset::OP)?);
    let (key, value) = (
        register(data, dynset::SREG_KEY)?,
        register(data, dynset::SREG_DATA)?,
    );
    let timeout = data
        .bytes(dynset::TIMEOUT)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes);
    match (op, timeout.filter(|milliseconds| *milliseconds > 0)) {
        (dynset::UPDATE, Some(milliseconds)) => Some(Expression::Remember {
            map,
            key,
            data: value,
            milliseconds,
        }),
        (dynset::DELETE, None) => Some(Expression::Forget {
            map,
            key,
            data: value,
        }),
        _ => None,
    }
}

fn read_limit(data: &Attributes<'_>) -> Option<Expression> {
    let long = |kind| data.bytes(kind)?.try_into().ok().map(u64::from_be_bytes);
    let over = data.u32(limit::FLAGS)? == limit::F_INVERT
        && data.u32(limit::TYPE)? == limit::PACKETS
        && long(limit::UNIT)? == 1;
    over.then_some(Expression::Over {
        rate: long(limit::RATE)?,
        burst: data.u32(limit::BURST)?,
    })
}

fn read_fib(data: &Attributes<'_>) -> Option<Expression> {
    Some(Expression::Fib {
        result: FibResult::of_code(data.u32(fib::RESULT)?)?,
        flags: data.u32(fib::FLAGS)?,
        into: register(data, fib::DREG)?,
    })
}

fn read_reject(data: &Attributes<'_>) -> Option<Reject> {
    let code = data
        .bytes(reject::ICMP_CODE)
        .and_then(|code| code.first())
        .copied();
    match data.u32(reject::TYPE)? {
        0 => code.map(Reject::Icmp),
        1 => Some(Reject::TcpReset),
        2 => code.map(Reject::Icmpx),
        _ => None,
    }
}
