//! What the table says to whom.

#![allow(clippy::unwrap_used)]

mod fixture;

use std::net::IpAddr;

use dns::{Client, Table, Verdict};
use fixture::{BACK_END, Host, MY_NET, VAULT};
use hickory_proto::rr::{Name, RData, RecordType};
use model::NetworkId;

/// The verdict as text: records in order, or the name of what it is.
fn ask(host: &Host, network: NetworkId, address: &str, name: &str, kind: RecordType) -> String {
    text(host, Client::Of { network, address: address.parse().unwrap() }, name, kind, 0)
}

fn text(host: &Host, client: Client, name: &str, kind: RecordType, chance: usize) -> String {
    let name = Name::from_ascii(name).unwrap();
    match Table::of(&host.0).answer(client, &name.into(), kind, chance) {
        Verdict::Records(records) => records.iter().map(RData::to_string).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

/// As an unknown client of `my-net`.
fn ask_my_net(name: &str, kind: RecordType) -> String {
    ask(&Host::new(), MY_NET, "10.0.9.200", name, kind)
}

#[test]
fn a_service_a_slot_and_all_tasks_have_names() {
    assert_eq!(ask_my_net("web.", RecordType::A), "10.0.9.2");
    assert_eq!(ask_my_net("web.", RecordType::AAAA), "fd00:9::2");
    assert_eq!(ask_my_net("web.1.", RecordType::A), "10.0.9.3");
    assert_eq!(ask_my_net("tasks.web.", RecordType::A), "10.0.9.3 10.0.9.4");
    assert_eq!(ask_my_net("tasks.web.", RecordType::AAAA), "fd00:9::3 fd00:9::4");
}

#[test]
fn the_networks_name_may_be_appended() {
    assert_eq!(ask_my_net("web.my-net.", RecordType::A), "10.0.9.2");
    assert_eq!(ask_my_net("web.1.my-net.", RecordType::AAAA), "fd00:9::3");
    assert_eq!(ask_my_net("tasks.web.my-net.", RecordType::A), "10.0.9.3 10.0.9.4");
    assert_eq!(ask(&Host::new(), BACK_END, "10.0.10.200", "db.back.end.", RecordType::A), "10.0.10.2");
}

#[test]
fn case_does_not_matter() {
    assert_eq!(ask_my_net("WeB.", RecordType::A), "10.0.9.2");
    assert_eq!(ask_my_net("TASKS.web.My-Net.", RecordType::A), "10.0.9.3 10.0.9.4");
}

#[test]
fn chance_rotates_the_addresses() {
    let (host, client) = (Host::new(), Client::Of { network: MY_NET, address: "10.0.9.200".parse().unwrap() });
    let first = |chance| text(&host, client, "tasks.web.", RecordType::A, chance);
    assert_eq!([first(0), first(1)], ["10.0.9.3 10.0.9.4", "10.0.9.4 10.0.9.3"]);
    assert_eq!(first(usize::MAX), "10.0.9.4 10.0.9.3");
}

#[test]
fn a_name_without_the_type_is_no_data() {
    for kind in [RecordType::ANY, RecordType::SRV, RecordType::MX, RecordType::Unknown(65280)] {
        assert_eq!(ask_my_net("web.", kind), "NoData", "{kind}");
    }
    assert_eq!(ask(&Host::new(), BACK_END, "10.0.10.200", "db.", RecordType::AAAA), "NoData");
}

#[test]
fn a_name_without_addresses_is_no_data() {
    let mut host = Host::new();
    host.name(MY_NET, "idle", &[], false);
    assert_eq!(ask(&host, MY_NET, "10.0.9.200", "idle.", RecordType::A), "NoData");
}

#[test]
fn addresses_resolve_back_to_their_canonical_name() {
    assert_eq!(ask_my_net("3.9.0.10.in-addr.arpa.", RecordType::PTR), "web.1.my-net.");
    assert_eq!(ask_my_net("2.9.0.10.IN-ADDR.ARPA.", RecordType::PTR), "web.my-net.");
    let v6 = Name::from("fd00:9::3".parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(ask_my_net(&v6, RecordType::PTR), "web.1.my-net.");
    assert_eq!(ask_my_net(&v6, RecordType::A), "NoData");
}

#[test]
fn addresses_of_ours_without_a_name_are_not_asked_elsewhere() {
    assert_eq!(ask_my_net("77.9.0.10.in-addr.arpa.", RecordType::PTR), "NoSuchName");
    assert_eq!(ask_my_net("4.9.0.10.in-addr.arpa.", RecordType::PTR), "NoSuchName", "not canonical");
    let v6 = Name::from("fd00:9::77".parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(ask_my_net(&v6, RecordType::PTR), "NoSuchName");
    assert_eq!(ask_my_net("2.10.0.10.in-addr.arpa.", RecordType::PTR), "NoSuchName", "of a network not attached to");
}

#[test]
fn what_is_not_ours_is_forwarded() {
    for name in ["example.com.", "nosuch.", "web.2.", "sub.web.", "nosuch.my-net.", "my-net.", "."] {
        assert_eq!(ask_my_net(name, RecordType::A), "Forward", "{name}");
    }
    for name in ["8.8.8.8.in-addr.arpa.", "9.0.10.in-addr.arpa.", "300.9.0.10.in-addr.arpa.", "x.ip6.arpa."] {
        assert_eq!(ask_my_net(name, RecordType::PTR), "Forward", "{name}");
    }
}

#[test]
fn an_internal_network_knows_its_own_names_only() {
    let host = Host::new();
    assert_eq!(ask(&host, VAULT, "10.0.11.200", "safe.", RecordType::A), "10.0.11.2");
    assert_eq!(ask(&host, VAULT, "10.0.11.200", "example.com.", RecordType::A), "Internal");
    assert_eq!(ask(&host, VAULT, "10.0.11.200", "8.8.8.8.in-addr.arpa.", RecordType::PTR), "Internal");
}

#[test]
fn one_network_with_a_way_out_is_enough_to_forward() {
    let mut host = Host::new();
    host.task(&[(VAULT, "10.0.11.5"), (MY_NET, "10.0.9.5")]);
    assert_eq!(ask(&host, VAULT, "10.0.11.5", "example.com.", RecordType::A), "Forward");
}

#[test]
fn a_client_sees_all_its_networks_from_each_of_them_and_no_other() {
    let mut host = Host::new();
    host.task(&[(MY_NET, "10.0.9.5"), (BACK_END, "10.0.10.5")]);
    for (network, address) in [(MY_NET, "10.0.9.5"), (BACK_END, "10.0.10.5")] {
        assert_eq!(ask(&host, network, address, "db.", RecordType::A), "10.0.10.2");
        assert_eq!(ask(&host, network, address, "2.10.0.10.in-addr.arpa.", RecordType::PTR), "db.Back.End.");
        assert_eq!(ask(&host, network, address, "safe.", RecordType::A), "Forward");
    }
    assert_eq!(ask_my_net("db.", RecordType::A), "Forward");
    assert_eq!(ask_my_net("db.back.end.", RecordType::A), "Forward");
    assert_eq!(
        ask(&host, BACK_END, "10.0.9.5", "web.my-net.", RecordType::A),
        "Forward",
        "the address of another network"
    );
}

#[test]
fn of_two_networks_with_the_same_name_the_first_interface_wins() {
    let mut host = Host::new();
    host.task(&[(BACK_END, "10.0.10.5"), (MY_NET, "10.0.9.5")]);
    host.task(&[(MY_NET, "10.0.9.6"), (BACK_END, "10.0.10.6")]);
    assert_eq!(ask(&host, MY_NET, "10.0.9.5", "web.", RecordType::A), "10.0.10.9");
    assert_eq!(
        ask(&host, MY_NET, "10.0.9.5", "web.", RecordType::AAAA),
        "NoData",
        "never mixed with another network's"
    );
    assert_eq!(ask(&host, BACK_END, "10.0.10.6", "web.", RecordType::A), "10.0.9.2");
    assert_eq!(ask(&host, BACK_END, "10.0.10.6", "web.back.end.", RecordType::A), "10.0.10.9");
}

#[test]
fn a_network_that_the_host_does_not_know_has_no_answers() {
    assert_eq!(ask(&Host::new(), NetworkId(99), "10.0.9.5", "web.", RecordType::A), "UnknownNetwork");
}

#[test]
fn a_name_too_long_for_dns_does_no_harm() {
    let mut host = Host::new();
    host.name(MY_NET, &"x".repeat(64), &["10.0.9.8"], true);
    assert_eq!(ask(&host, MY_NET, "10.0.9.200", "web.", RecordType::A), "10.0.9.2");
}
