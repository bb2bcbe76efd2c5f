//! Tests of the IPsec plane without a kernel: desired and observed state in, plans out.

use std::{collections::BTreeMap, net::IpAddr};

use model::{Association as Keyed, Epoch, EspKey, NodeId, PeerKeys, Spi};

use nftables::Ip;

use super::{
    plan::{Association, Direction, Peer, Policy, Traffic, Verdict, Way},
    *,
};

const OWN: &str = "192.0.2.1";
const PEER: NodeId = NodeId(2);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn keyed(spi: u32, epoch: u64) -> Keyed {
    Keyed {
        spi: Spi(spi),
        epoch: Epoch(epoch),
        key: EspKey::new([spi as u8; 36]),
    }
}

/// Two peers; associations 1x go out, 2x come in, 3x and 4x are those of the second peer.
fn wanted(send: &[u32], accept: &[u32]) -> Wanted {
    let keys = |send: &[u32], accept: &[u32]| PeerKeys {
        send: send.iter().map(|&spi| keyed(spi, 1)).collect(),
        accept: accept.iter().map(|&spi| keyed(spi, 1)).collect(),
    };
    let peer = |vtep: &str, keys| Peer {
        hostname: vtep.to_owned(),
        vtep: ip(vtep),
        keys,
    };
    let peers = BTreeMap::from([
        (PEER, peer("192.0.2.2", keys(send, accept))),
        (NodeId(3), peer("192.0.2.3", keys(&[30], &[40]))),
    ]);
    Wanted {
        port: 4790,
        node: NodeId(1),
        vtep: Some(ip(OWN)),
        peers,
    }
}

/// A host as the plan would have it done: what the kernel holds and what is written down.
#[derive(Clone)]
struct Host {
    observed: Observed,
    record: Record,
}

impl Host {
    fn new() -> Self {
        Self {
            observed: Observed::default(),
            record: Record::empty(),
        }
    }

    fn settled(wanted: &Wanted) -> Self {
        let mut host = Self::new();
        host.follow(Some(wanted));
        host
    }

    fn plan(&self, wanted: &Wanted) -> Plan {
        plan(Some(wanted), &self.observed, &self.record)
    }

    /// Does all that is planned.
    fn follow(&mut self, wanted: Option<&Wanted>) -> Plan {
        let next = plan(wanted, &self.observed, &self.record);
        for op in &next.ops {
            match op.clone() {
                Op::Close(way) => drop(self.observed.policies.insert(way, (plan::BLOCK, 1))),
                Op::Set(way, policy) => drop(self.observed.policies.insert(way, (policy, 1))),
                Op::Unset(way, _) | Op::Open(way, _) => drop(self.observed.policies.remove(&way)),
                Op::Delete(to, spi) => drop(self.observed.associations.remove(&(to, spi))),
                Op::Record(used) => {
                    self.record =
                        self.record
                            .with(NodeId(1), &used, wanted.and_then(Wanted::oldest));
                }
                Op::Add(peer, association) => {
                    assert!(
                        self.record.has(peer, association.spi),
                        "written down before it is in use"
                    );
                    let key = (association.to, association.spi);
                    let found = ObservedAssociation {
                        association,
                        regular: true,
                        usage: Usage::default(),
                    };
                    assert_eq!(self.observed.associations.insert(key, found), None, "{op}");
                }
            }
        }
        next
    }

    fn lose(&mut self, to: &str, spi: u32) {
        self.observed
            .associations
            .remove(&(ip(to), Spi(spi)))
            .unwrap();
    }

    /// With which association it sends to its first peer.
    fn sends(&self) -> Option<u32> {
        let (from, to) = (ip(OWN), ip("192.0.2.2"));
        let way = Way {
            direction: Direction::Out,
            version: Ip::V4,
            traffic: Traffic::Between { from, to },
            port: 4790,
        };
        match self.observed.policies.get(&way)?.0.verdict {
            Verdict::Protect { spi, .. } => spi.map(|spi| spi.0),
            _ => panic!("in the clear"),
        }
    }

    fn reboot(&mut self) {
        self.observed = Observed::default();
    }
}

fn lost(pairs: &[(u64, u32)]) -> BTreeSet<(NodeId, Spi)> {
    pairs
        .iter()
        .map(|&(peer, spi)| (NodeId(peer), Spi(spi)))
        .collect()
}

#[test]
fn nothing_is_planned_once_all_is_there() {
    let wanted = wanted(&[10], &[20, 21]);
    let host = Host::settled(&wanted);
    assert_eq!(host.plan(&wanted), Plan::default());
    assert!(host.observed.is_closed(4790) && !host.observed.is_closed(4789));
    assert_eq!(
        (
            host.observed.associations.len(),
            host.observed.policies.len()
        ),
        (5, 4 + 4)
    );
    assert_eq!(host.sends(), Some(10));
}

#[test]
fn the_barrier_stands_before_all_else_and_falls_after_all_else() {
    let wanted = wanted(&[10], &[20]);
    let mut host = Host::new();
    let ops = host.follow(Some(&wanted)).ops;
    assert!(
        ops[..4].iter().all(|op| matches!(op, Op::Close(_))),
        "{ops:?}"
    );
    assert!(matches!(ops[4], Op::Record(_)), "{ops:?}");
    let ops = host.follow(None).ops;
    assert!(
        ops[ops.len() - 4..].iter().all(Op::is_last)
            && !ops[..ops.len() - 4].iter().any(Op::is_last),
        "{ops:?}"
    );
    assert_eq!(host.observed, Observed::default());
}

#[test]
fn every_attribute_changed_by_others_is_planned_for() {
    let wanted = wanted(&[10], &[20]);
    let settled = Host::settled(&wanted);
    let mut damaged = Vec::new();
    for key in settled.observed.associations.keys() {
        let mut damage = |change: fn(&mut ObservedAssociation)| {
            let mut host = settled.clone();
            change(host.observed.associations.get_mut(key).unwrap());
            damaged.push(host);
        };
        damage(|found| found.association.from = "192.0.2.99".parse().unwrap());
        damage(|found| found.association.key = EspKey::new([99; 36]));
        damage(|found| found.regular = false);
        let mut gone = settled.clone();
        gone.observed.associations.remove(key);
        damaged.push(gone);
    }
    for way in settled.observed.policies.keys() {
        let mut changed = settled.clone();
        changed.observed.policies.get_mut(way).unwrap().0 = Policy {
            verdict: Verdict::Other,
        };
        let mut gone = settled.clone();
        gone.observed.policies.remove(way);
        damaged.extend([changed, gone]);
    }
    assert_eq!(damaged.len(), 4 * 4 + 2 * 8);
    for host in damaged {
        assert_ne!(host.plan(&wanted), Plan::default(), "{:#?}", host.observed);
    }
}

#[test]
fn keys_hidden_by_a_locked_down_kernel_are_not_wrong() {
    let wanted = wanted(&[10], &[20]);
    let mut host = Host::settled(&wanted);
    host.observed
        .associations
        .values_mut()
        .for_each(|found| found.association.key = EspKey::new([0; 36]));
    assert_eq!(host.plan(&wanted), Plan::default());
}

#[test]
fn a_lost_association_is_reported_and_never_begins_again() {
    let before = wanted(&[10], &[20]);
    let mut host = Host::settled(&before);
    host.lose("192.0.2.2", 10);
    let next = host.follow(Some(&before));
    assert_eq!(
        (next.lost, next.mute),
        (lost(&[(2, 10)]), BTreeSet::from([PEER]))
    );
    assert_eq!(host.sends(), None, "blocked, not in the clear");
    assert!(
        next.ops.iter().all(|op| matches!(op, Op::Unset(..))),
        "{:?}",
        next.ops
    );
    host.follow(Some(&wanted(&[11], &[20])));
    assert_eq!(host.sends(), Some(11));
    // What comes in would be taken a second time.
    host.lose(OWN, 20);
    let next = host.follow(Some(&wanted(&[11], &[20])));
    assert_eq!((next.lost, next.ops.len()), (lost(&[(2, 20)]), 0));
}

#[test]
fn after_a_reboot_nothing_that_was_in_use_begins_again() {
    let all = wanted(&[10], &[20]);
    let mut host = Host::settled(&all);
    host.reboot();
    let next = host.follow(Some(&all));
    assert_eq!(next.lost, lost(&[(2, 10), (2, 20), (3, 30), (3, 40)]));
    assert!(host.observed.associations.is_empty() && host.observed.is_closed(4790));
    // Neither if the peers were away for a while.
    let nobody = Wanted {
        peers: BTreeMap::new(),
        ..all.clone()
    };
    host.follow(Some(&nobody));
    assert_eq!(
        host.follow(Some(&all)).lost,
        lost(&[(2, 10), (2, 20), (3, 30), (3, 40)])
    );
}

#[test]
fn a_peer_that_comes_back_finds_other_associations() {
    let all = wanted(&[10], &[20]);
    let mut host = Host::settled(&all);
    host.follow(None);
    assert_eq!(
        host.follow(Some(&all)).lost,
        lost(&[(2, 10), (2, 20), (3, 30), (3, 40)])
    );
}

#[test]
fn a_change_of_keys_switches_policies_in_place() {
    let mut host = Host::settled(&wanted(&[10], &[20]));
    let accepting = host.follow(Some(&wanted(&[10], &[20, 21]))).ops;
    assert!(
        matches!(accepting[..], [Op::Record(_), Op::Add(..)]),
        "{accepting:?}"
    );
    let sending = host.follow(Some(&wanted(&[11, 10], &[20, 21]))).ops;
    assert!(
        matches!(sending[..], [Op::Record(_), Op::Add(..), Op::Set(..)]),
        "{sending:?}"
    );
    assert_eq!(host.sends(), Some(11));
    let over = host.follow(Some(&wanted(&[11], &[21]))).ops;
    assert!(
        matches!(over[..], [Op::Delete(..), Op::Delete(..)]),
        "{over:?}"
    );
}

#[test]
fn a_host_without_the_new_association_keeps_the_old_one() {
    let during = wanted(&[11, 10], &[20, 21]);
    let mut host = Host::settled(&wanted(&[10], &[20, 21]));
    host.follow(Some(&during));
    host.lose("192.0.2.2", 11);
    assert_eq!(host.follow(Some(&during)).lost, lost(&[(2, 11)]));
    assert_eq!(host.sends(), Some(10));
}

#[test]
fn a_host_whose_tunnels_end_elsewhere_begins_anew() {
    let before = wanted(&[10], &[20]);
    let mut host = Host::settled(&before);
    let mut moved = before.clone();
    moved.peers.get_mut(&PEER).unwrap().vtep = ip("192.0.2.22");
    let next = host.follow(Some(&moved));
    assert_eq!(next.lost, lost(&[(2, 10), (2, 20)]));
    assert_eq!(
        host.observed.associations.len(),
        2,
        "those of the other peer"
    );
    assert_eq!(
        host.follow(Some(&Wanted {
            vtep: Some(ip("192.0.2.11")),
            ..before
        }))
        .lost
        .len(),
        4
    );
}

#[test]
fn a_damaged_record_keeps_only_what_the_kernel_has() {
    let all = wanted(&[10], &[20]);
    let mut host = Host::settled(&all);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    std::fs::write(&path, "?").unwrap();
    host.record = Record::open(&path);
    host.lose("192.0.2.2", 10);
    assert_eq!(host.follow(Some(&all)).lost, lost(&[(2, 10)]));
    assert!(
        !host.record.is_doubtful()
            && host.record.has(PEER, Spi(10))
            && host.record.has(PEER, Spi(20))
    );
    assert_eq!(host.follow(Some(&all)).lost, lost(&[(2, 10)]));
}

#[test]
fn unwanted_associations_go_and_foreign_ones_never_enter() {
    let all = wanted(&[10], &[20]);
    let mut host = Host::settled(&all);
    let stray = Association {
        from: ip(OWN),
        to: ip("192.0.2.9"),
        spi: Spi(99),
        key: EspKey::new([9; 36]),
    };
    let found = ObservedAssociation {
        association: stray,
        regular: true,
        usage: Usage::default(),
    };
    host.observed
        .associations
        .insert((ip("192.0.2.9"), Spi(99)), found);
    assert_eq!(host.plan(&all).ops, [Op::Delete(ip("192.0.2.9"), Spi(99))]);
}
