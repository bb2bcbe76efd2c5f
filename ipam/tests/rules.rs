//! The ledger's rules, one test each.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipam::{IpamError, Ledger, Owner};
use model::{AddressWish, EndpointId, Kind, NetworkId, Refusal, ServiceId, Subnet, SubnetSpec};

const NET: NetworkId = NetworkId(1);
const WEB: ServiceId = ServiceId(9);

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn specs(texts: &[&str]) -> Vec<SubnetSpec> {
    texts
        .iter()
        .map(|text| SubnetSpec {
            subnet: subnet(text),
            gateway: None,
            range: None,
        })
        .collect()
}

fn ledger(subnets: &[&str]) -> Ledger {
    let mut ledger = Ledger::new([1, 2, 3, 4, 5]);
    ledger.add_network(NET, "net", &specs(subnets)).unwrap();
    ledger
}

fn give(ledger: &mut Ledger, owner: Owner) -> Vec<IpAddr> {
    ledger.allocate(&[NET], &[owner]).unwrap();
    ledger.addresses(NET, owner).to_vec()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn an_owner_gets_one_address_per_family_and_keeps_it() {
    let mut ledger = ledger(&["10.0.9.0/24", "fd00:9::/64"]);
    assert_eq!(
        ledger.addresses(NET, Owner::Gateway),
        addresses(&["10.0.9.1", "fd00:9::1"])
    );
    let first = give(&mut ledger, Owner::Vip(WEB));
    assert_eq!(first, addresses(&["10.0.9.2", "fd00:9::2"]));
    let before = ledger.clone();
    assert_eq!(give(&mut ledger, Owner::Vip(WEB)), first);
    assert_eq!(ledger, before);
}

#[test]
fn a_released_address_rests_before_it_is_given_again() {
    let mut ledger = ledger(&["10.0.9.0/29"]);
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 1)),
        addresses(&["10.0.9.2"])
    );
    assert!(ledger.release(NET, Owner::Slot(WEB, 1)));
    assert!(!ledger.release(NET, Owner::Slot(WEB, 1)));
    for (slot, expected) in [
        (2, "10.0.9.3"),
        (3, "10.0.9.4"),
        (4, "10.0.9.5"),
        (5, "10.0.9.6"),
        (6, "10.0.9.2"),
    ] {
        assert_eq!(
            give(&mut ledger, Owner::Slot(WEB, slot)),
            addresses(&[expected])
        );
    }
}

#[test]
fn the_second_subnet_of_a_family_is_used_when_the_first_is_full() {
    let mut ledger = ledger(&["10.0.9.0/30", "10.0.10.0/30"]);
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 1)),
        addresses(&["10.0.9.2"])
    );
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 2)),
        addresses(&["10.0.10.2"])
    );
}

#[test]
fn a_request_that_does_not_fit_takes_nothing() {
    let mut ledger = ledger(&["10.0.9.0/29", "fd00:9::/64"]);
    let other = NetworkId(2);
    ledger
        .add_network(other, "other", &specs(&["10.0.10.0/24"]))
        .unwrap();
    let before = ledger.clone();
    let owners: Vec<Owner> = (1..=6).map(|slot| Owner::Slot(WEB, slot)).collect();
    let refusal = Refusal::from(ledger.allocate(&[other, NET], &owners).unwrap_err());
    assert_eq!(ledger, before);
    assert_eq!(refusal.kind, Kind::Exhausted);
    assert_eq!(
        refusal.cause,
        "network \"net\" has no room in 10.0.9.0/29: 1 of 6 addresses are given, 6 more asked"
    );
    assert!(refusal.next.contains("swarmctl network inspect net"));
}

#[test]
fn an_owner_named_twice_counts_once() {
    let mut ledger = ledger(&["10.0.9.0/30"]);
    ledger
        .allocate(&[NET, NET], &[Owner::Slot(WEB, 1), Owner::Slot(WEB, 1)])
        .unwrap();
    assert_eq!(ledger.usage(NET)[0].used, 2);
}

#[test]
fn overlapping_subnets_are_refused_naming_the_network() {
    let mut ledger = ledger(&["10.0.9.0/24"]);
    let error = ledger
        .add_network(NetworkId(2), "b", &specs(&["10.0.8.0/22"]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "subnet 10.0.8.0/22 overlaps 10.0.9.0/24 of network \"net\""
    );
    let error = ledger
        .add_network(NetworkId(2), "b", &specs(&["fd00::/64", "fd00::/64"]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "subnet fd00::/64 overlaps fd00::/64 of network \"b\""
    );
    assert_eq!(ledger.usage(NetworkId(2)), []);
}

#[test]
fn ranges_that_no_endpoint_can_use_are_refused() {
    let texts = [
        "0.0.0.0/0",
        "0.1.0.0/16",
        "127.0.0.0/24",
        "169.254.3.0/24",
        "224.0.9.0/24",
        "250.0.0.0/24",
        "::/64",
        "::ffff:a00:0/112",
        "fe80:1::/64",
        "ff02::/64",
        "::/0",
    ];
    for text in texts {
        let error = Ledger::default()
            .add_network(NET, "net", &specs(&[text]))
            .unwrap_err();
        assert!(
            matches!(error, IpamError::Reserved { .. }),
            "{text}: {error}"
        );
    }
}

#[test]
fn prefixes_without_room_for_gateway_and_endpoint_are_refused() {
    for text in ["10.0.9.0/31", "10.0.9.0/32", "fd00::/127", "fd00::/128"] {
        let error = Ledger::default()
            .add_network(NET, "net", &specs(&[text]))
            .unwrap_err();
        assert!(matches!(error, IpamError::TooSmall { .. }), "{text}");
    }
    for text in ["10.0.9.0/30", "fd00::/126"] {
        assert_eq!(
            give(&mut ledger(&[text]), Owner::Slot(WEB, 1)).len(),
            1,
            "{text}"
        );
    }
}

#[test]
fn a_gateway_is_a_host_address_of_its_subnet() {
    for (text, gateway) in [
        ("10.0.9.0/24", "10.0.9.0"),
        ("10.0.9.0/24", "10.0.9.255"),
        ("10.0.9.0/24", "10.0.8.1"),
        ("10.0.9.0/24", "fd00::1"),
        ("fd00::/64", "fd00::"),
    ] {
        let spec = SubnetSpec {
            subnet: subnet(text),
            gateway: Some(gateway.parse().unwrap()),
            range: None,
        };
        let error = Ledger::default()
            .add_network(NET, "net", &[spec])
            .unwrap_err();
        assert!(
            matches!(error, IpamError::Gateway { .. }),
            "{text} {gateway}"
        );
    }
    let spec = SubnetSpec {
        subnet: subnet("10.0.9.0/24"),
        gateway: Some("10.0.9.2".parse().unwrap()),
        range: None,
    };
    let mut ledger = Ledger::default();
    ledger.add_network(NET, "net", &[spec]).unwrap();
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 1)),
        addresses(&["10.0.9.1"])
    );
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 2)),
        addresses(&["10.0.9.3"])
    );
}

#[test]
fn default_subnets_are_the_lowest_free_ones() {
    let mut ledger = ledger(&["10.0.0.0/24", "10.0.1.128/25", "10.0.3.0/24"]);
    let defaults = |ledger: &Ledger, avoid: &[&str]| {
        ledger
            .default_subnets(&avoid.iter().map(|text| subnet(text)).collect::<Vec<_>>())
            .unwrap()
    };
    assert_eq!(
        defaults(&ledger, &[]),
        [subnet("10.0.2.0/24"), subnet("fd01:203:405::/64")]
    );
    let avoided = defaults(
        &ledger,
        &["10.0.2.17/32", "192.168.0.0/16", "fd01:203:405::8/128"],
    );
    assert_eq!(
        avoided,
        [subnet("10.0.4.0/24"), subnet("fd01:203:405:1::/64")]
    );
    ledger.remove_network(NET).unwrap();
    assert_eq!(defaults(&ledger, &[])[0], subnet("10.0.0.0/24"));
    ledger
        .add_network(NET, "net", &specs(&["10.0.0.0/8"]))
        .unwrap();
    assert_eq!(
        ledger.default_subnets(&[]).unwrap_err(),
        IpamError::PoolsExhausted("10.0.0.0/8".to_owned())
    );
}

#[test]
fn a_requested_address_may_lie_outside_the_range() {
    let (mut ledger, network) = (Ledger::new([7; 5]), NetworkId(1));
    let range = Some("10.0.9.16/28".parse().unwrap());
    ledger
        .add_network(
            network,
            "net",
            &[SubnetSpec {
                subnet: "10.0.9.0/24".parse().unwrap(),
                gateway: None,
                range,
            }],
        )
        .unwrap();
    let container = |number| Owner::Container(EndpointId(number));
    let wish = |last| {
        [
            AddressWish {
                wanted: true,
                exact: last,
                within: None,
            },
            AddressWish::default(),
        ]
    };
    let exactly = |last: u8| wish(Some(IpAddr::from([10, 0, 9, last])));
    for (number, last) in [(1, 200), (2, 16)] {
        assert_eq!(
            ledger.grant(network, container(number), exactly(last)),
            Ok(vec![[10, 0, 9, last].into()])
        );
        assert!(matches!(
            ledger.grant(network, container(3), exactly(last)),
            Err(IpamError::Held { .. })
        ));
    }
    assert!(matches!(
        ledger.grant(network, container(3), exactly(1)),
        Err(IpamError::Held {
            holder: Owner::Gateway,
            ..
        })
    ));
    for last in [0, 255] {
        assert!(matches!(
            ledger.grant(network, container(3), exactly(last)),
            Err(IpamError::Outside { .. })
        ));
    }
    assert!(ledger.release(network, container(1)) && ledger.release(network, container(2)));
    assert_eq!(
        ledger.grant(network, container(3), wish(None)),
        Ok(vec![[10, 0, 9, 17].into()])
    );
}

#[test]
fn a_request_for_one_of_several_addresses_gets_one_or_none() {
    let range = Some("10.0.9.0/28".parse().unwrap());
    let mut ledger = Ledger::default();
    let spec = SubnetSpec {
        subnet: subnet("10.0.9.0/24"),
        gateway: None,
        range,
    };
    ledger.add_network(NET, "net", &[spec]).unwrap();
    let container = |number| Owner::Container(EndpointId(number));
    let wish = |range: &str| {
        [
            AddressWish {
                wanted: true,
                within: Some(subnet(range)),
                exact: None,
            },
            AddressWish::default(),
        ]
    };
    let mut take = |number, range| ledger.grant(NET, container(number), wish(range));
    assert_eq!(take(1, "10.0.9.4/30"), Ok(addresses(&["10.0.9.4"])));
    assert_eq!(take(2, "10.0.9.8/30"), Ok(addresses(&["10.0.9.8"])));
    assert_eq!(take(3, "10.0.9.4/30"), Ok(addresses(&["10.0.9.5"])));
    assert_eq!(
        take(3, "10.0.9.8/30"),
        Ok(addresses(&["10.0.9.5"])),
        "what it has it keeps"
    );
    assert_eq!(take(4, "10.0.9.12/30"), Ok(addresses(&["10.0.9.12"])));
    // What somebody else has chosen in between is left out, and what is released rests until the
    // others have been given.
    ledger.release(NET, container(1));
    let exact = AddressWish {
        wanted: true,
        exact: Some([10, 0, 9, 6].into()),
        within: None,
    };
    ledger
        .grant(NET, container(6), [exact, AddressWish::default()])
        .unwrap();
    let mut take = |number, range| ledger.grant(NET, container(number), wish(range));
    assert_eq!(take(7, "10.0.9.4/30"), Ok(addresses(&["10.0.9.7"])));
    assert_eq!(take(8, "10.0.9.4/30"), Ok(addresses(&["10.0.9.4"])));
    let full = take(9, "10.0.9.4/30").unwrap_err();
    assert!(
        full.to_string()
            .contains("no room in 10.0.9.4/30: 4 of 4 addresses are given"),
        "{full}"
    );
    // Only what the network itself gives, and only of its subnet.
    assert!(matches!(
        take(9, "10.0.9.128/25"),
        Err(IpamError::Exhausted { capacity: 0, .. })
    ));
    assert!(matches!(
        take(9, "10.0.8.0/24"),
        Err(IpamError::Range { .. })
    ));
    assert_eq!(
        give(&mut ledger, Owner::Slot(WEB, 1)),
        addresses(&["10.0.9.2"]),
        "the others are given as ever"
    );
}

#[test]
fn a_network_with_leases_stays_and_its_gateway_with_it() {
    let mut ledger = ledger(&["10.0.9.0/24"]);
    give(&mut ledger, Owner::Slot(WEB, 1));
    assert!(matches!(
        ledger.remove_network(NET),
        Err(IpamError::InUse { leases: 1, .. })
    ));
    assert!(!ledger.release(NET, Owner::Gateway));
    assert!(ledger.release(NET, Owner::Slot(WEB, 1)));
    assert_eq!(ledger.remove_network(NET), Ok(()));
    assert_eq!(ledger.leases().count(), 0);
    assert_eq!(ledger.remove_network(NET), Err(IpamError::NoNetwork(NET)));
}

#[test]
fn a_slash_64_is_counted_and_given_from_without_a_scan() {
    let mut ledger = ledger(&["fd00::/64"]);
    let owners: Vec<Owner> = (1..=20_000).map(|slot| Owner::Slot(WEB, slot)).collect();
    ledger.allocate(&[NET], &owners).unwrap();
    let usage = ledger.usage(NET)[0];
    assert_eq!((usage.used, usage.capacity), (20_001, (1 << 64) - 1));
}
