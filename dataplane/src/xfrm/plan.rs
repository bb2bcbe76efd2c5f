//! Desired and observed IPsec state, and the plan between them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use model::{DriverConfig, Epoch, EspKey, NodeConfig, NodeId, PeerKeys, Spi};
use nftables::Ip;

use super::record::Record;

/// What a host needs whose networks are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// UDP port of the tunnels: what crosses it is encrypted or dropped.
    pub port: u16,
    /// The host itself.
    pub node: NodeId,
    /// Where its tunnels end; `None`: the view does not say.
    pub vtep: Option<IpAddr>,
    /// The hosts that it shares an encrypted network with.
    pub peers: BTreeMap<NodeId, Peer>,
}

/// A host to speak with in secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its host name.
    pub hostname: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// The keys of this pair.
    pub keys: PeerKeys,
}

impl Wanted {
    /// What this configuration asks for; nothing while no network of this host is encrypted.
    pub fn of(config: &NodeConfig) -> Option<Self> {
        let port = config
            .networks
            .values()
            .find_map(|network| match network.driver {
                DriverConfig::Overlay {
                    port,
                    encrypted: true,
                } => Some(port),
                _ => None,
            })?;
        let peer = |(id, keys): (&NodeId, &PeerKeys)| {
            let peer = config.peers.get(id)?;
            Some((
                *id,
                Peer {
                    hostname: peer.hostname.clone(),
                    vtep: peer.vtep,
                    keys: keys.clone(),
                },
            ))
        };
        let vtep = config.peers.get(&config.node).map(|own| own.vtep);
        Some(Self {
            port,
            node: config.node,
            vtep,
            peers: config.keys.iter().filter_map(peer).collect(),
        })
    }

    /// The oldest change of keys that still counts; what was before it never comes back.
    pub fn oldest(&self) -> Option<Epoch> {
        let of = |peer: &'_ Peer| {
            peer.keys
                .send
                .iter()
                .chain(&peer.keys.accept)
                .map(|association| association.epoch)
                .min()
        };
        self.peers.values().filter_map(of).min()
    }
}

/// A security association: ESP in transport mode, AES-256-GCM with a check value of 128 bits,
/// 64-bit sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// Who sends.
    pub from: IpAddr,
    /// Who receives.
    pub to: IpAddr,
    /// Its number.
    pub spi: Spi,
    /// Its key.
    pub key: EspKey,
}

/// An association as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedAssociation {
    /// What of it differs between associations. A kernel that is locked down shows zeros for the
    /// key.
    pub association: Association,
    /// Whether all the rest is as we make it.
    pub regular: bool,
    /// What it has seen.
    pub usage: Usage,
}

/// What an association has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// When it was first used: seconds since the Unix epoch, 0 is never.
    pub first_used: u64,
    /// When it was last used, where the kernel tells: seconds since the Unix epoch, 0 is never.
    pub last_used: u64,
    /// Packets dropped for coming too late.
    pub late: u32,
    /// Packets dropped for having come before.
    pub replayed: u32,
    /// Packets dropped for having been changed on their way.
    pub forged: u32,
}

/// Whether packets come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// They come.
    In,
    /// They go.
    Out,
}

/// The packets that a policy is for: UDP to one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Whether they come or go.
    pub direction: Direction,
    /// Their IP version.
    pub version: Ip,
    /// The hosts.
    pub traffic: Traffic,
    /// The destination port.
    pub port: u16,
}

impl Way {
    /// From one host to another.
    pub fn between(direction: Direction, from: IpAddr, to: IpAddr, port: u16) -> Self {
        Self {
            direction,
            version: Ip::of(from),
            traffic: Traffic::Between { from, to },
            port,
        }
    }
}

/// The hosts that a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Traffic {
    /// Any that no other policy is for.
    Any,
    /// From one to another.
    Between { from: IpAddr, to: IpAddr },
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of the packets.
    pub verdict: Verdict,
}

/// The policy for everybody else.
pub(super) const BLOCK: Policy = Policy {
    verdict: Verdict::Block,
};

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verdict {
    /// They are dropped.
    Block,
    /// They are encrypted, or must have been; with the association of this number or with any of
    /// ours.
    Protect {
        from: IpAddr,
        to: IpAddr,
        spi: Option<Spi>,
    },
    /// Something that we never ask for.
    Other,
}

/// What the kernel holds of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Policies, with the kernel's own number of each.
    pub policies: BTreeMap<Way, (Policy, u32)>,
    /// Associations by receiver and number.
    pub associations: BTreeMap<(IpAddr, Spi), ObservedAssociation>,
}

impl Observed {
    /// Whether nothing leaves or enters by this port in the clear, for anybody.
    pub fn is_closed(&self, port: u16) -> bool {
        barrier(port).all(|way| {
            self.policies
                .get(&way)
                .is_some_and(|(policy, _)| policy.verdict == Verdict::Block)
        })
    }

    fn has(&self, asked: &Association) -> bool {
        const UNREADABLE: [u8; 36] = [0; 36];
        self.associations
            .get(&(asked.to, asked.spi))
            .is_some_and(|found| {
                let key = &found.association.key;
                let same_key = *key == asked.key || *key == EspKey::new(UNREADABLE);
                found.regular && same_key && found.association.from == asked.from
            })
    }
}

/// One change, in the order in which a plan does them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Drops what no other policy is for.
    Close(Way),
    /// Writes down that these are in use, before they are.
    Record(BTreeMap<(NodeId, Spi), Epoch>),
    /// Adds an association with a peer.
    Add(NodeId, Association),
    /// Adds a policy, or changes it in place.
    Set(Way, Policy),
    /// Removes a policy.
    Unset(Way, u32),
    /// Removes an association.
    Delete(IpAddr, Spi),
    /// Removes the policy that drops everything else, once there is no tunnel any more.
    Open(Way, u32),
}

/// What to do, and what cannot be done here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to change.
    pub ops: Vec<Op>,
    /// Associations that the kernel has lost: others must take their place.
    pub lost: BTreeSet<(NodeId, Spi)>,
    /// Peers that nothing can be sent to.
    pub mute: BTreeSet<NodeId>,
}

/// What leads from `observed` to `wanted`, by all that `record` knows to have been in use.
pub fn plan(wanted: Option<&Wanted>, observed: &Observed, record: &Record) -> Plan {
    let mut draft = Draft {
        observed,
        record,
        plan: Plan::default(),
        used: BTreeMap::new(),
        kept: BTreeSet::new(),
    };
    let mut policies = BTreeMap::new();
    if let Some(wanted) = wanted {
        policies.extend(barrier(wanted.port).map(|way| (way, BLOCK)));
        for (id, peer) in &wanted.peers {
            policies.extend(draft.pair(wanted, *id, peer));
        }
    }
    draft.policies(&policies);
    draft.finish()
}

/// The policies for everybody else: both directions, both families.
fn barrier(port: u16) -> impl Iterator<Item = Way> {
    let directions = [Direction::Out, Direction::In].into_iter();
    directions.flat_map(move |direction| {
        Ip::BOTH.map(|version| Way {
            direction,
            version,
            traffic: Traffic::Any,
            port,
        })
    })
}

struct Draft<'a> {
    observed: &'a Observed,
    record: &'a Record,
    plan: Plan,
    used: BTreeMap<(NodeId, Spi), Epoch>,
    kept: BTreeSet<(IpAddr, Spi)>,
}

impl Draft<'_> {
    /// The associations of a pair of hosts, and the policies that come of them.
    fn pair(&mut self, wanted: &Wanted, id: NodeId, peer: &Peer) -> Vec<(Way, Policy)> {
        let Some(own) = wanted.vtep else {
            return Vec::new();
        };
        let outwards = |a: &model::Association| Association {
            from: own,
            to: peer.vtep,
            spi: a.spi,
            key: a.key.clone(),
        };
        let inwards = |a: &model::Association| Association {
            from: peer.vtep,
            to: own,
            spi: a.spi,
            key: a.key.clone(),
        };
        let way = |direction, from, to| Way::between(direction, from, to, wanted.port);
        for accepted in &peer.keys.accept {
            self.hold(id, accepted, inwards(accepted));
        }
        let from_peer = Verdict::Protect {
            from: peer.vtep,
            to: own,
            spi: None,
        };
        let mut policies = vec![(
            way(Direction::In, peer.vtep, own),
            Policy { verdict: from_peer },
        )];
        let mut chosen = None;
        for association in &peer.keys.send {
            // What is not the one to send with stays for what is under way, but is not made.
            let there = self.observed.has(&outwards(association));
            if (chosen.is_none() || there || self.is_recorded(id, association))
                && self.hold(id, association, outwards(association))
            {
                chosen = chosen.or(Some(association.spi));
            }
        }
        match chosen {
            Some(spi) => {
                let verdict = Verdict::Protect {
                    from: own,
                    to: peer.vtep,
                    spi: Some(spi),
                };
                policies.push((way(Direction::Out, own, peer.vtep), Policy { verdict }));
            }
            None => drop(self.plan.mute.insert(id)),
        }
        policies
    }

    fn is_recorded(&self, peer: NodeId, association: &model::Association) -> bool {
        self.record.has(peer, association.spi)
    }

    /// Keeps an association, or makes it if it never was in use; whether it will be there.
    fn hold(&mut self, peer: NodeId, association: &model::Association, made: Association) -> bool {
        let key = (made.to, made.spi);
        let recorded = self.is_recorded(peer, association);
        if !recorded || self.record.is_doubtful() {
            self.used.insert((peer, association.spi), association.epoch);
        }
        if !self.observed.has(&made) {
            if recorded || self.observed.associations.contains_key(&key) {
                self.plan.lost.insert((peer, association.spi));
                return false;
            }
            self.plan.ops.push(Op::Add(peer, made));
        }
        self.kept.insert(key);
        true
    }

    fn policies(&mut self, wanted: &BTreeMap<Way, Policy>) {
        for (way, policy) in wanted {
            if self
                .observed
                .policies
                .get(way)
                .is_none_or(|(found, _)| found != policy)
            {
                self.plan.ops.push(match way.traffic {
                    Traffic::Any => Op::Close(way.clone()),
                    Traffic::Between { .. } => Op::Set(way.clone(), *policy),
                });
            }
        }
        for (way, (_, index)) in self
            .observed
            .policies
            .iter()
            .filter(|(way, _)| !wanted.contains_key(way))
        {
            self.plan.ops.push(match way.traffic {
                Traffic::Any => Op::Open(way.clone(), *index),
                Traffic::Between { .. } => Op::Unset(way.clone(), *index),
            });
        }
    }

    fn finish(mut self) -> Plan {
        let surplus = self
            .observed
            .associations
            .keys()
            .filter(|key| !self.kept.contains(key));
        self.plan
            .ops
            .extend(surplus.map(|(to, spi)| Op::Delete(*to, *spi)));
        if !self.used.is_empty() {
            self.plan.ops.push(Op::Record(self.used));
        }
        self.plan.ops.sort_by_key(Op::stage);
        self.plan
    }
}

impl Op {
    fn stage(&self) -> u8 {
        match self {
            Op::Close(_) => 0,
            Op::Record(_) => 1,
            Op::Add(..) => 2,
            Op::Set(..) => 3,
            Op::Unset(..) => 4,
            Op::Delete(..) => 5,
            Op::Open(..) => 6,
        }
    }

    /// Whether it waits until there are no tunnels any more.
    pub fn is_last(&self) -> bool {
        matches!(self, Op::Open(..))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.direction == Direction::In {
            "in"
        } else {
            "out"
        };
        let version = match self.version {
            Ip::V4 => "ipv4",
            Ip::V6 => "ipv6",
        };
        match self.traffic {
            Traffic::Any => write!(out, "{direction} for {version} udp port {}", self.port),
            Traffic::Between { from, to } => write!(
                out,
                "{direction} from {from} to {to} udp port {}",
                self.port
            ),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Close(way) => write!(out, "set blocking policy {way}"),
            Op::Record(used) => write!(out, "record {} associations as used", used.len()),
            Op::Add(_, new) => write!(
                out,
                "add association {} from {} to {}",
                new.spi, new.from, new.to
            ),
            Op::Set(
                way,
                Policy {
                    verdict: Verdict::Protect { spi: Some(spi), .. },
                },
            ) => {
                write!(out, "set policy {way} by association {spi}")
            }
            Op::Set(way, _) => write!(out, "set policy {way}"),
            Op::Unset(way, _) => write!(out, "delete policy {way}"),
            Op::Delete(to, spi) => write!(out, "delete association {spi} to {to}"),
            Op::Open(way, _) => write!(out, "delete blocking policy {way}"),
        }
    }
}
