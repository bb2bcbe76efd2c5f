//! What holds after any sequence of requests.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipam::{Ledger, Owner};
use model::{AddressWish, EndpointId, NetworkId, ServiceId, Subnet, SubnetSpec};
use proptest::prelude::*;

const SUBNETS: &[(u64, &[&str])] = &[
    (1, &["10.0.9.0/28", "fd00:9::/64"]),
    (2, &["10.0.8.0/29", "10.0.10.0/30"]),
];

#[derive(Clone, Debug)]
enum Request {
    Allocate(Vec<NetworkId>, Vec<Owner>),
    Grant(NetworkId, Owner, [AddressWish; 2]),
    Release(NetworkId, Owner),
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        (0..3u64).prop_map(|service| Owner::Vip(ServiceId(service))),
        (0..3u64, 1..8u32).prop_map(|(service, slot)| Owner::Slot(ServiceId(service), slot)),
        (0..6u64).prop_map(|endpoint| Owner::Container(EndpointId(endpoint))),
        Just(Owner::Gateway),
    ]
}

/// Any address of a family, one of some, none, or one by name: of this network, another or none, or
/// what nobody can have.
fn wish(ipv6: bool) -> impl Strategy<Value = AddressWish> {
    let v4 = ((8..=10u8), 0..17u8).prop_map(|(net, last)| IpAddr::from([10, 0, net, last]));
    let v6 = (0..9u16).prop_map(|last| IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, last]));
    let exact = if ipv6 {
        v6.boxed()
    } else {
        prop_oneof![9 => v4, 1 => Just(IpAddr::from([0; 16]))].boxed()
    };
    let within: &[&str] = if ipv6 {
        &["fd00:9::/126"]
    } else {
        &["10.0.9.4/30", "10.0.8.0/30", "10.0.9.8/31"]
    };
    let within =
        prop::option::of(prop::sample::select(within).prop_map(|text| text.parse().unwrap()));
    (any::<bool>(), prop::option::of(exact), within).prop_map(|(wanted, exact, within)| {
        AddressWish {
            wanted,
            exact,
            within,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let network = || (1..=2u64).prop_map(NetworkId);
    prop_oneof![
        (
            prop::collection::vec(network(), 1..3),
            prop::collection::vec(owner(), 1..4)
        )
            .prop_map(|(networks, owners)| Request::Allocate(networks, owners)),
        (
            network(),
            (0..6u64).prop_map(|endpoint| Owner::Container(EndpointId(endpoint))),
            wish(false),
            wish(true)
        )
            .prop_map(|(network, owner, ipv4, ipv6)| Request::Grant(
                network,
                owner,
                [ipv4, ipv6]
            )),
        (network(), owner()).prop_map(|(network, owner)| Request::Release(network, owner)),
    ]
}

fn fresh() -> Ledger {
    let mut ledger = Ledger::new([7; 5]);
    for (id, subnets) in SUBNETS {
        let specs: Vec<SubnetSpec> = subnets
            .iter()
            .map(|text| SubnetSpec {
                subnet: text.parse().unwrap(),
                gateway: None,
                range: None,
            })
            .collect();
        ledger
            .add_network(NetworkId(*id), &format!("net{id}"), &specs)
            .unwrap();
    }
    ledger
}

fn drive(ledger: &mut Ledger, request: &Request) {
    match request {
        Request::Allocate(networks, owners) => {
            let before = ledger.clone();
            if ledger.allocate(networks, owners).is_err() {
                assert_eq!(*ledger, before, "a refused request changes nothing");
            }
        }
        Request::Grant(network, owner, wishes) => grant(ledger, *network, *owner, *wishes),
        Request::Release(network, owner) => {
            ledger.release(*network, *owner);
        }
    }
}

/// All or nothing; who names an address has that one, and who asks again has what it had.
fn grant(ledger: &mut Ledger, network: NetworkId, owner: Owner, wishes: [AddressWish; 2]) {
    let before = ledger.clone();
    let Ok(held) = ledger.grant(network, owner, wishes) else {
        return assert_eq!(*ledger, before, "a refused request changes nothing");
    };
    assert_eq!(ledger.addresses(network, owner), held);
    let families: BTreeSet<bool> = held.iter().map(IpAddr::is_ipv6).collect();
    assert_eq!(families.len(), held.len(), "one address per family");
    assert!(
        wishes
            .iter()
            .filter_map(|wish| wish.exact)
            .all(|exact| held.contains(&exact))
    );
    let kept = before.addresses(network, owner);
    assert!(kept.iter().all(|kept| held.contains(kept)));
    for address in held.iter().filter(|address| !kept.contains(address)) {
        let wish = wishes[usize::from(address.is_ipv6())];
        assert!(wish.exact.is_some() || wish.within.is_none_or(|range| range.contains(*address)));
    }
    let once = ledger.clone();
    assert_eq!(ledger.grant(network, owner, wishes), Ok(held));
    assert_eq!(*ledger, once, "asked twice, given once");
}

fn check(ledger: &Ledger) {
    let mut seen = BTreeSet::new();
    for lease in ledger.leases() {
        for address in lease.addresses {
            assert!(
                seen.insert((lease.network, *address)),
                "{address} is given twice"
            );
            assert!(
                is_host_address(lease.network, *address),
                "{address} is no host address of its network"
            );
        }
    }
    for (id, _) in SUBNETS {
        let used: u64 = ledger
            .usage(NetworkId(*id))
            .iter()
            .map(|usage| usage.used)
            .sum();
        assert_eq!(
            used as usize,
            seen.iter().filter(|(network, _)| network.0 == *id).count()
        );
    }
}

fn is_host_address(network: NetworkId, address: IpAddr) -> bool {
    let subnets = SUBNETS.iter().find(|(id, _)| *id == network.0).unwrap().1;
    subnets
        .iter()
        .map(|text| text.parse::<Subnet>().unwrap())
        .any(|subnet| {
            subnet.contains(address)
                && address != subnet.network()
                && (subnet.is_ipv6() || address != subnet.last())
        })
}

fn snapshot(ledger: &Ledger) -> String {
    serde_json::to_string(ledger).unwrap()
}

proptest! {
    #[test]
    fn no_address_is_given_twice_or_outside_its_subnet(
        requests in prop::collection::vec(request(), 0..80),
    ) {
        let mut ledger = fresh();
        for request in &requests {
            drive(&mut ledger, request);
            check(&ledger);
        }
    }

    #[test]
    fn an_owner_keeps_its_addresses_until_it_is_released(
        requests in prop::collection::vec(request(), 0..80),
    ) {
        let mut ledger = fresh();
        let mut held: BTreeMap<(NetworkId, Owner), Vec<IpAddr>> = BTreeMap::new();
        for request in &requests {
            drive(&mut ledger, request);
            if let Request::Release(network, owner) = request && *owner != Owner::Gateway {
                held.remove(&(*network, *owner));
            }
            for lease in ledger.leases() {
                let first = held
                    .entry((lease.network, lease.owner))
                    .or_insert_with(|| lease.addresses.to_vec());
                prop_assert!(first.iter().all(|address| lease.addresses.contains(address)));
                *first = lease.addresses.to_vec();
            }
        }
    }

    #[test]
    fn a_replica_and_a_restored_snapshot_go_the_same_way(
        requests in prop::collection::vec(request(), 0..60), cut in 0..60usize,
    ) {
        let (mut first, mut second) = (fresh(), fresh());
        for (position, request) in requests.iter().enumerate() {
            if position == cut {
                second = serde_json::from_str(&snapshot(&second)).unwrap();
            }
            drive(&mut first, request);
            drive(&mut second, request);
        }
        prop_assert_eq!(snapshot(&first), snapshot(&second));
    }

    #[test]
    fn everything_released_leaves_only_the_gateways(
        requests in prop::collection::vec(request(), 0..80),
    ) {
        let mut ledger = fresh();
        requests.iter().for_each(|request| drive(&mut ledger, request));
        let leases: Vec<_> = ledger.leases().map(|lease| (lease.network, lease.owner)).collect();
        leases.iter().for_each(|(network, owner)| {
            ledger.release(*network, *owner);
        });
        prop_assert_eq!(ledger.leases().count(), SUBNETS.len());
        let everyone: Vec<Owner> = (1..=13).map(|slot| Owner::Slot(ServiceId(1), slot)).collect();
        prop_assert!(ledger.allocate(&[NetworkId(1)], &everyone).is_ok(),
            "13 of 13 addresses are free again");
    }
}
