//! Policy rules: the routing table that packets of a mark are looked up in. Pure.
//!
//! On the host ours must come before the kernel's own rule for local addresses, which has the least
//! preference there is. Of equals the earlier one counts, so that rule is repeated behind ours,
//! then its first copy goes: at no time is it missing.

use std::{collections::BTreeSet, fmt};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

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
    /// Its family.
    pub ipv6: bool,
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
    /// The families (IPv6?) in which the rule for local addresses comes before one of ours that
    /// should be the first.
    pub hidden: BTreeSet<bool>,
    /// The families in which that rule is there more than once.
    pub repeated: BTreeSet<bool>,
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
    RepeatLocal(bool),
    /// Its first copy goes.
    DropLocal(bool),
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
        let hidden = found
            .hidden
            .difference(&found.repeated)
            .map(|family| PolicyChange::RepeatLocal(*family));
        let repeated = found
            .repeated
            .iter()
            .map(|family| PolicyChange::DropLocal(*family));
        gone.chain(new).chain(hidden).chain(repeated).collect()
    }

    /// Adds what the kernel says of one family, in its order. `ours` are the tables that rules of
    /// ours lead to.
    pub fn read(&mut self, family: AddressFamily, ours: Tables, rules: &[RuleMessage]) {
        let ipv6 = family == AddressFamily::Inet6;
        let (mut locals, mut hidden) = (0, false);
        for rule in rules {
            if let Some(policy) = policy(ipv6, ours, rule) {
                hidden |= policy.preference == 0 && locals > 0;
                self.rules.insert(policy);
            } else if is_local(rule) {
                locals += 1;
            }
        }
        hidden.then(|| self.hidden.insert(ipv6));
        (locals > 1).then(|| self.repeated.insert(ipv6));
    }
}

impl PolicyChange {
    /// What is sent, and whether there must be no such rule yet.
    pub fn message(&self) -> Message {
        match self {
            Self::Delete(policy) => Message::DelRule(policy.message()),
            Self::Add(policy) => Message::NewRule(policy.message()),
            Self::RepeatLocal(ipv6) => Message::NewRule(local(*ipv6)),
            Self::DropLocal(ipv6) => Message::DelRule(local(*ipv6)),
        }
    }
}

impl Policy {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.ipv6);
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

/// As the kernel makes it.
fn local(ipv6: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(ipv6);
    message.header.action = RuleAction::ToTable;
    message.header.table = LOCAL_TABLE;
    message.attributes = vec![
        RuleAttribute::Priority(0),
        RuleAttribute::Table(LOCAL_TABLE.into()),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    message
}

fn is_local(rule: &RuleMessage) -> bool {
    let read = Read::of(rule);
    let everything =
        rule.header.src_len == 0 && rule.header.dst_len == 0 && read.mark == 0 && !read.narrowed;
    everything && read.preference == 0 && read.table == Some(LOCAL_TABLE.into())
}

fn policy(ipv6: bool, ours: Tables, rule: &RuleMessage) -> Option<Policy> {
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
        ipv6,
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
                RuleAttribute::Goto(_) => read.skips = true,
                RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) => read.narrowed = true,
                _ => {}
            }
        }
        read
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

impl fmt::Display for PolicyChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |ipv6: &bool| if *ipv6 { "IPv6" } else { "IPv4" };
        match self {
            Self::Delete(policy) => write!(out, "delete {policy}"),
            Self::Add(policy) => write!(out, "add {policy}"),
            Self::RepeatLocal(ipv6) => write!(
                out,
                "put {}'s rule for local addresses behind ours",
                version(ipv6)
            ),
            Self::DropLocal(ipv6) => write!(
                out,
                "delete the first of {}'s rules for local addresses",
                version(ipv6)
            ),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.ipv6 { "IPv6" } else { "IPv4" };
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
        ipv6: false,
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
        let (ours, local) = (OWN.message(), local(false));
        assert_eq!(
            desired.changes(&found(std::slice::from_ref(&local))),
            [PolicyChange::Add(OWN)]
        );
        let hidden = [local.clone(), ours.clone()];
        assert_eq!(
            desired.changes(&found(&hidden)),
            [PolicyChange::RepeatLocal(false)]
        );
        let twice = [local.clone(), ours.clone(), local.clone()];
        assert_eq!(
            desired.changes(&found(&twice)),
            [PolicyChange::DropLocal(false)]
        );
        let right = [ours, local];
        assert_eq!(desired.changes(&found(&right)), []);
        assert_eq!(
            Policies::default().changes(&found(&right)),
            [PolicyChange::Delete(OWN)]
        );
    }

    #[test]
    fn rules_of_others_are_left_alone() {
        let mut other = OWN.message();
        other
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::Table(_)));
        other.attributes.push(RuleAttribute::Table(100));
        let mut narrow = local(false);
        narrow
            .attributes
            .push(RuleAttribute::Iifname("eth0".into()));
        assert_eq!(found(&[local(false), other, narrow]), Policies::default());
    }
}
