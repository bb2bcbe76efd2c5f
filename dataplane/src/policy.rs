//! Policy rules: the routing table that packets of a mark are looked up in. Pure.
//!
//! On the host ours must come before the kernel's own rule for local addresses, which has the least
//! preference there is. Of equals the earlier one counts, so that rule is repeated behind ours,
//! then its first copy goes, whoever made it: at no time is it missing. Where others have taken
//! away all copies, it comes back, for without it a host is off its networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use nftables::Ip;

/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u8 = 255;
/// The preference of the kernel's rule for the main table.
const MAIN: u32 = 32_766;
/// Our tables on the host: these and a network's VNI.
pub const HOST_TABLES: u32 = 0x6e00_0000;
/// Our tables in a network's namespace: a peer's mark.
pub const PEER_TABLES: u32 = 0x8000_0000;
/// The highest bits of our tables' numbers.
const OURS: u32 = 0xff00_0000;

/// A rule of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// The version of its packets.
    pub version: Ip,
    /// Lower comes first.
    pub preference: u32,
    /// The packets that it is for.
    pub mark: u32,
    /// The bits of their marks that count.
    pub mask: u32,
    /// Where they are looked up; `None`: in the main table, at once.
    pub table: Option<u32>,
}

/// The rules of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Ours.
    pub rules: BTreeSet<Policy>,
    /// The versions of which the rule for local addresses comes before one of ours that should be
    /// the first.
    pub hidden: BTreeSet<Ip>,
    /// Those of which a copy of that rule is to go, and the protocol of its first one.
    pub repeated: BTreeMap<Ip, RouteProtocol>,
    /// Those without such a rule, at whatever preference.
    pub missing: BTreeSet<Ip>,
}

/// Tables of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Those on the host.
    Host,
    /// Those in a namespace of ours.
    Peers,
}

/// One change of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyChange {
    /// A rule of ours goes.
    Delete(Policy),
    /// A rule of ours comes.
    Add(Policy),
    /// The rule for local addresses is put behind ours once more.
    RepeatLocal(Ip),
    /// Its first copy of this protocol goes.
    DropLocal(Ip, RouteProtocol),
}

impl Policies {
    /// Whether there are none of ours.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.rules.extend(other.rules);
        self.hidden.extend(other.hidden);
        self.repeated.extend(other.repeated);
        self.missing.extend(other.missing);
    }

    /// What leads from `found` to these.
    pub fn changes(&self, found: &Self) -> Vec<PolicyChange> {
        let gone = found
            .rules
            .difference(&self.rules)
            .map(|rule| PolicyChange::Delete(*rule));
        let new = self
            .rules
            .difference(&found.rules)
            .map(|rule| PolicyChange::Add(*rule));
        let hidden = found.hidden.iter().copied();
        let hidden = hidden.filter(|version| !found.repeated.contains_key(version));
        let needed: BTreeSet<Ip> = self.rules.iter().map(|rule| rule.version).collect();
        let missing = found.missing.intersection(&needed).copied();
        let locals = hidden.chain(missing).map(PolicyChange::RepeatLocal);
        let repeated = found.repeated.iter();
        let repeated = repeated.map(|(version, by)| PolicyChange::DropLocal(*version, *by));
        gone.chain(new).chain(locals).chain(repeated).collect()
    }

    /// Adds what the kernel says of one family, in its order. `ours` are the tables that rules of
    /// ours lead to.
    pub fn read(&mut self, family: AddressFamily, ours: Tables, rules: &[RuleMessage]) {
        let version = match family {
            AddressFamily::Inet6 => Ip::V6,
            _ => Ip::V4,
        };
        let (mut locals, mut hidden, mut missing) = (Vec::new(), false, true);
        for rule in rules {
            if let Some(policy) = policy(version, ours, rule) {
                hidden |= policy.preference == 0 && !locals.is_empty();
                self.rules.insert(policy);
            } else if let Some(read) = leads_all_to_local(rule) {
                missing = false;
                if read.preference == 0 {
                    locals.push(read.protocol);
                }
            }
        }
        if !hidden {
            // Behind ours, a copy that others have made does no harm.
            locals.retain(|by| *by == RouteProtocol::Kernel);
        }
        if let [first, _, ..] = locals[..] {
            self.repeated.insert(version, first);
        }
        hidden.then(|| self.hidden.insert(version));
        missing.then(|| self.missing.insert(version));
    }
}

impl PolicyChange {
    /// What is sent, and whether there must be no such rule yet.
    pub fn message(&self) -> Message {
        match self {
            Self::Delete(policy) => Message::DelRule(policy.message()),
            Self::Add(policy) => Message::NewRule(policy.message()),
            Self::RepeatLocal(version) => Message::NewRule(local(*version, RouteProtocol::Kernel)),
            Self::DropLocal(version, by) => Message::DelRule(local(*version, *by)),
        }
    }
}

impl Policy {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.version);
        message.attributes = vec![
            RuleAttribute::Priority(self.preference),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
        ];
        match self.table {
            Some(table) => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(table));
            }
            None => {
                message.header.action = RuleAction::Goto;
                message.attributes.push(RuleAttribute::Goto(MAIN));
            }
        }
        message
    }
}

/// The rule for local addresses, as the kernel makes it or as others do.
fn local(version: Ip, by: RouteProtocol) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(version);
    message.header.action = RuleAction::ToTable;
    message.header.table = LOCAL_TABLE;
    message.attributes = vec![
        RuleAttribute::Priority(0),
        RuleAttribute::Table(LOCAL_TABLE.into()),
        RuleAttribute::Protocol(by),
    ];
    message
}

/// A rule by which all packets are looked up among local addresses.
fn leads_all_to_local(rule: &RuleMessage) -> Option<Read> {
    let read = Read::of(rule);
    let everything =
        rule.header.src_len == 0 && rule.header.dst_len == 0 && read.mark == 0 && !read.narrowed;
    (everything && read.table == Some(LOCAL_TABLE.into())).then_some(read)
}

fn policy(version: Ip, ours: Tables, rule: &RuleMessage) -> Option<Policy> {
    let Read {
        preference,
        mark,
        mask,
        table,
        skips,
        ..
    } = Read::of(rule);
    let table = table.filter(|table| match ours {
        Tables::Host => table & OURS == HOST_TABLES,
        Tables::Peers => table & PEER_TABLES != 0,
    });
    let skips = skips && mask == PEER_TABLES && ours == Tables::Peers;
    (table.is_some() || skips).then_some(Policy {
        version,
        preference,
        mark,
        mask,
        table,
    })
}

/// The attributes that count.
#[derive(Default)]
struct Read {
    preference: u32,
    mark: u32,
    mask: u32,
    table: Option<u32>,
    skips: bool,
    narrowed: bool,
    protocol: RouteProtocol,
}

impl Read {
    fn of(rule: &RuleMessage) -> Self {
        let mut read = Self::default();
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Priority(preference) => read.preference = *preference,
                RuleAttribute::FwMark(mark) => read.mark = *mark,
                RuleAttribute::FwMask(mask) => read.mask = *mask,
                RuleAttribute::Table(table) if rule.header.action == RuleAction::ToTable => {
                    read.table = Some(*table)
                }
                RuleAttribute::Protocol(protocol) => read.protocol = *protocol,
                RuleAttribute::Goto(_) => read.skips = true,
                RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) => read.narrowed = true,
                _ => {}
            }
        }
        read
    }
}

fn family(version: Ip) -> AddressFamily {
    match version {
        Ip::V4 => AddressFamily::Inet,
        Ip::V6 => AddressFamily::Inet6,
    }
}

/// As people write it.
fn written(version: Ip) -> &'static str {
    match version {
        Ip::V4 => "IPv4",
        Ip::V6 => "IPv6",
    }
}

impl fmt::Display for PolicyChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete(policy) => write!(out, "delete {policy}"),
            Self::Add(policy) => write!(out, "add {policy}"),
            Self::RepeatLocal(version) => write!(
                out,
                "put {}'s rule for local addresses behind ours",
                written(*version)
            ),
            Self::DropLocal(version, _) => write!(
                out,
                "delete the first of {}'s rules for local addresses",
                written(*version)
            ),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = written(self.version);
        write!(
            out,
            "{version} rule for mark {:#x}/{:#x}",
            self.mark, self.mask
        )?;
        match self.table {
            Some(table) => write!(out, " to table {table}"),
            None => write!(out, " to the main table"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Policy = Policy {
        version: Ip::V4,
        preference: 0,
        mark: 1 << 31,
        mask: 1 << 31,
        table: Some(HOST_TABLES | 7),
    };

    fn found(rules: &[RuleMessage]) -> Policies {
        let mut found = Policies::default();
        found.read(AddressFamily::Inet, Tables::Host, rules);
        found
    }

    #[test]
    fn the_rule_for_local_addresses_moves_and_is_never_missing() {
        let desired = Policies {
            rules: [OWN].into(),
            ..Policies::default()
        };
        let (ours, local) = (OWN.message(), local(Ip::V4, RouteProtocol::Kernel));
        assert_eq!(
            desired.changes(&found(std::slice::from_ref(&local))),
            [PolicyChange::Add(OWN)]
        );
        let hidden = [local.clone(), ours.clone()];
        assert_eq!(
            desired.changes(&found(&hidden)),
            [PolicyChange::RepeatLocal(Ip::V4)]
        );
        let twice = [local.clone(), ours.clone(), local.clone()];
        assert_eq!(
            desired.changes(&found(&twice)),
            [PolicyChange::DropLocal(Ip::V4, RouteProtocol::Kernel)]
        );
        let right = [ours, local];
        assert_eq!(desired.changes(&found(&right)), []);
        assert_eq!(
            Policies::default().changes(&found(&right)),
            [PolicyChange::Delete(OWN)]
        );
    }

    #[test]
    fn a_local_rule_of_others_before_ours_makes_way() {
        let desired = Policies {
            rules: [OWN].into(),
            ..Policies::default()
        };
        let (ours, kernels) = (OWN.message(), local(Ip::V4, RouteProtocol::Kernel));
        let others = local(Ip::V4, RouteProtocol::Static);
        let changes = |rules: &[&RuleMessage]| {
            let rules: Vec<RuleMessage> = rules.iter().map(|&rule| rule.clone()).collect();
            desired.changes(&found(&rules))
        };
        let repeat = || PolicyChange::RepeatLocal(Ip::V4);
        let drop_others = PolicyChange::DropLocal(Ip::V4, RouteProtocol::Static);
        assert_eq!(changes(&[&others, &ours]), [repeat()]);
        assert_eq!(changes(&[&others, &ours, &kernels]), [drop_others]);
        assert_eq!(changes(&[&ours, &kernels, &others]), []);
        assert_eq!(changes(&[&ours, &others]), []);
        assert_eq!(changes(&[&ours]), [repeat()]);
        assert_eq!(changes(&[]), [PolicyChange::Add(OWN), repeat()]);
        let mut late = kernels.clone();
        late.attributes[0] = RuleAttribute::Priority(32_765);
        assert_eq!(changes(&[&ours, &late]), []);
    }

    #[test]
    fn rules_of_others_are_left_alone() {
        let mut other = OWN.message();
        other
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::Table(_)));
        other.attributes.push(RuleAttribute::Table(100));
        let kernels = local(Ip::V4, RouteProtocol::Kernel);
        let mut narrow = kernels.clone();
        narrow
            .attributes
            .push(RuleAttribute::Iifname("eth0".into()));
        assert_eq!(found(&[kernels, other, narrow]), Policies::default());
    }
}
