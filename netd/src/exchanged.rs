//! What a pair of hosts has exchanged, from what the kernel shows of its associations.

use std::net::IpAddr;

use api::Encryption;
use dataplane::xfrm::{Direction, Observed, Peer, Usage, Verdict, Wanted, Way};
use model::Spi;

/// What this host has exchanged with one of its peers.
pub(crate) fn exchanged_with(wanted: &Wanted, peer: &Peer, observed: &Observed) -> Encryption {
    let Some(own) = wanted.vtep else {
        return Encryption::default();
    };
    let sends_with = sends_with(wanted.port, own, peer.vtep, observed);
    let of = |to: IpAddr, numbers: Vec<Spi>| -> Vec<(Spi, Usage)> {
        let found = numbers
            .into_iter()
            .filter_map(|spi| Some((spi, observed.associations.get(&(to, spi))?.usage)));
        found.collect()
    };
    let sent = of(
        peer.vtep,
        peer.keys
            .send
            .iter()
            .map(|association| association.spi)
            .collect(),
    );
    let received = of(
        own,
        peer.keys
            .accept
            .iter()
            .map(|association| association.spi)
            .collect(),
    );
    let sum = |of: fn(&Usage) -> u64, usages: &[(Spi, Usage)]| {
        usages.iter().map(|(_, usage)| of(usage)).sum()
    };
    let last_seen = received
        .iter()
        .map(|(_, usage)| usage.last_used.max(usage.first_used))
        .max();
    Encryption {
        epoch: peer
            .keys
            .send
            .iter()
            .find(|association| Some(association.spi) == sends_with)
            .map(|found| found.epoch),
        sends_with,
        accepts: received.iter().map(|(spi, _)| *spi).collect(),
        sent_packets: sum(|usage| usage.packets, &sent),
        sent_bytes: sum(|usage| usage.bytes, &sent),
        received_packets: sum(|usage| usage.packets, &received),
        received_bytes: sum(|usage| usage.bytes, &received),
        replayed: sum(|usage| usage.replayed.into(), &received),
        late: sum(|usage| usage.late.into(), &received),
        forged: sum(|usage| usage.forged.into(), &received),
        unknown: 0,
        last_seen: last_seen
            .filter(|seconds| *seconds > 0)
            .map(|seconds| seconds * 1000),
    }
}

fn sends_with(port: u16, from: IpAddr, to: IpAddr, observed: &Observed) -> Option<Spi> {
    let way = Way::between(Direction::Out, from, to, port);
    match observed.policies.get(&way)?.0.verdict {
        Verdict::Protect { spi, .. } => {
            spi.filter(|spi| observed.associations.contains_key(&(to, *spi)))
        }
        _ => None,
    }
}
