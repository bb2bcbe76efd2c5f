//! What the table says to whom.

#![allow(clippy::unwrap_used)]

mod fixture;

use std::{collections::BTreeSet, net::IpAddr};

use dns::{Client, Outcome, Table, Transport};
use fixture::{BACK_END, Host, MY_NET, VAULT};
use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use model::{
    Bandwidth, ContainerConfig, ContainerEndpoint, ContainerRuntime, NamedPort, NetworkId,
    Protocol, SandboxId, TaskId,
};

/// What is said, as text: records, or what it is instead.
fn ask(host: &Host, network: NetworkId, address: &str, name: &str, kind: RecordType) -> String {
    text(
        host,
        Client::Of {
            network,
            address: address.parse().unwrap(),
        },
        name,
        kind,
    )
}

fn text(host: &Host, client: Client, name: &str, kind: RecordType) -> String {
    let Some(answer) = message(&Table::of(&host.0), client, name, kind, 0) else {
        return "Forward".to_owned();
    };
    match answer.metadata.response_code {
        ResponseCode::NoError if answer.answers.is_empty() => "NoData".to_owned(),
        ResponseCode::NoError => records(&answer),
        ResponseCode::NXDomain if explained(&answer) => "Internal".to_owned(),
        ResponseCode::NXDomain => "NoSuchName".to_owned(),
        ResponseCode::ServFail if explained(&answer) => "UnknownNetwork".to_owned(),
        other => other.to_string(),
    }
}

fn explained(answer: &Message) -> bool {
    answer
        .edns
        .as_ref()
        .is_some_and(|edns| !edns.options().options.is_empty())
}

/// In an order that does not depend on chance.
fn records(answer: &Message) -> String {
    let records: BTreeSet<String> = answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    records.into_iter().collect::<Vec<_>>().join(" ")
}

fn message(
    table: &Table,
    client: Client,
    name: &str,
    kind: RecordType,
    chance: u64,
) -> Option<Message> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    let mut out = Vec::new();
    match dns::reply(
        table,
        client,
        Transport::Udp,
        &query.to_vec().unwrap(),
        chance,
        &mut out,
    ) {
        Outcome::Answered => Some(Message::from_vec(&out).unwrap()),
        Outcome::Elsewhere => None,
        Outcome::Ignored => panic!("a good query is ignored"),
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
    assert_eq!(
        ask_my_net("tasks.web.", RecordType::AAAA),
        "fd00:9::3 fd00:9::4"
    );
}

/// `api.example.com` of one address, and names with dots that end like others of ours.
fn with_dotted() -> Host {
    let mut host = Host::new();
    for (name, addresses) in [
        ("api.example.com", &["10.0.9.50", "fd00:9::50"][..]),
        ("web.back.end", &["10.0.9.66"]),
        ("db.back.end", &["10.0.9.66"]),
        ("my_alias.x", &["10.0.9.66"]),
    ] {
        host.name(MY_NET, name, addresses, false);
        let record = host.0.names.get_mut(&(MY_NET, name.to_owned()));
        record.unwrap().dotted = true;
    }
    host
}

#[test]
fn names_that_were_given_with_dots_are_ours_in_any_case() {
    let host = with_dotted();
    let ask = |name: &str, kind| ask(&host, MY_NET, "10.0.9.200", name, kind);
    for name in [
        "api.example.com.",
        "API.Example.COM.",
        "api.example.com.my-net.",
    ] {
        assert_eq!(ask(name, RecordType::A), "10.0.9.50", "{name}");
        assert_eq!(ask(name, RecordType::AAAA), "fd00:9::50", "{name}");
        assert_eq!(ask(name, RecordType::TXT), "NoData", "{name}");
    }
    assert_eq!(ask("my_alias.x.", RecordType::A), "10.0.9.66");
    for name in ["www.api.example.com.", "example.com.", "com."] {
        assert_eq!(ask(name, RecordType::A), "Forward", "{name} is not ours");
    }
}

#[test]
fn names_that_were_given_with_dots_hide_nothing_that_is_formed() {
    let host = with_dotted();
    let mut both = host;
    both.task(&[(MY_NET, "10.0.9.7"), (BACK_END, "10.0.10.7")]);
    let ask = |name: &str| ask(&both, MY_NET, "10.0.9.7", name, RecordType::A);
    assert_eq!(ask("web.back.end."), "10.0.10.9", "another network's");
    assert_eq!(ask("db.back.end."), "10.0.10.2");
    assert_eq!(
        ask_as(&both, "10.0.9.200", "db.back.end."),
        "10.0.9.66",
        "for who is on no such network"
    );
}

fn ask_as(host: &Host, address: &str, name: &str) -> String {
    ask(host, MY_NET, address, name, RecordType::A)
}

#[test]
fn a_name_with_dots_comes_and_goes_and_becomes_a_formed_one() {
    let before = Host::new().0;
    let after = with_dotted().0;
    let mut table = Table::of(&before);
    table.follow(&before, &after);
    assert_eq!(table, Table::of(&after));
    let mut formed = after.clone();
    let key = (MY_NET, "api.example.com".to_owned());
    formed.names.get_mut(&key).unwrap().dotted = false;
    table.follow(&after, &formed);
    assert_eq!(table, Table::of(&formed));
    table.follow(&formed, &before);
    assert_eq!(table, Table::of(&before));
}

#[test]
fn the_networks_name_may_be_appended() {
    assert_eq!(ask_my_net("web.my-net.", RecordType::A), "10.0.9.2");
    assert_eq!(ask_my_net("web.1.my-net.", RecordType::AAAA), "fd00:9::3");
    assert_eq!(
        ask_my_net("tasks.web.my-net.", RecordType::A),
        "10.0.9.3 10.0.9.4"
    );
    assert_eq!(
        ask(
            &Host::new(),
            BACK_END,
            "10.0.10.200",
            "db.back.end.",
            RecordType::A
        ),
        "10.0.10.2"
    );
}

#[test]
fn case_does_not_matter() {
    assert_eq!(ask_my_net("WeB.", RecordType::A), "10.0.9.2");
    assert_eq!(
        ask_my_net("TASKS.web.My-Net.", RecordType::A),
        "10.0.9.3 10.0.9.4"
    );
}

#[test]
fn every_answer_has_an_order_of_its_own() {
    let (table, client) = (
        Table::of(&Host::new().0),
        Client::Of {
            network: MY_NET,
            address: "10.0.9.200".parse().unwrap(),
        },
    );
    let first = |chance| {
        let answer = message(&table, client, "tasks.web.", RecordType::A, chance).unwrap();
        assert_eq!(records(&answer), "10.0.9.3 10.0.9.4");
        answer.answers[0].data.to_string()
    };
    let count = (0..1_000)
        .filter(|&chance| first(chance) == "10.0.9.3")
        .count();
    assert!((400..600).contains(&count), "{count}");
}

#[test]
fn a_name_without_the_type_is_no_data() {
    for kind in [
        RecordType::SRV,
        RecordType::TXT,
        RecordType::MX,
        RecordType::Unknown(65280),
    ] {
        assert_eq!(ask_my_net("web.", kind), "NoData", "{kind}");
    }
    assert_eq!(
        ask(
            &Host::new(),
            BACK_END,
            "10.0.10.200",
            "db.",
            RecordType::AAAA
        ),
        "NoData"
    );
}

#[test]
fn a_name_without_addresses_is_no_data() {
    let mut host = Host::new();
    host.name(MY_NET, "idle", &[], false);
    assert_eq!(
        ask(&host, MY_NET, "10.0.9.200", "idle.", RecordType::A),
        "NoData"
    );
}

#[test]
fn addresses_resolve_back_to_their_canonical_name() {
    assert_eq!(
        ask_my_net("3.9.0.10.in-addr.arpa.", RecordType::PTR),
        "web.1.my-net."
    );
    assert_eq!(
        ask_my_net("2.9.0.10.IN-ADDR.ARPA.", RecordType::PTR),
        "web.my-net."
    );
    let v6 = Name::from("fd00:9::3".parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(ask_my_net(&v6, RecordType::PTR), "web.1.my-net.");
    assert_eq!(ask_my_net(&v6, RecordType::A), "NoData");
}

#[test]
fn addresses_of_ours_without_a_name_are_not_asked_elsewhere() {
    assert_eq!(
        ask_my_net("77.9.0.10.in-addr.arpa.", RecordType::PTR),
        "NoSuchName"
    );
    assert_eq!(
        ask_my_net("4.9.0.10.in-addr.arpa.", RecordType::PTR),
        "NoSuchName",
        "not canonical"
    );
    let v6 = Name::from("fd00:9::77".parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(ask_my_net(&v6, RecordType::PTR), "NoSuchName");
    assert_eq!(
        ask_my_net("2.10.0.10.in-addr.arpa.", RecordType::PTR),
        "NoSuchName",
        "of a network not attached to"
    );
}

#[test]
fn names_outside_the_cluster_are_forwarded() {
    for name in [
        "example.com.",
        "nosuch.",
        "web.2.",
        "sub.web.",
        "nosuch.my-net.",
        "my-net.",
        ".",
    ] {
        assert_eq!(ask_my_net(name, RecordType::A), "Forward", "{name}");
    }
    for name in [
        "8.8.8.8.in-addr.arpa.",
        "9.0.10.in-addr.arpa.",
        "300.9.0.10.in-addr.arpa.",
        "x.ip6.arpa.",
    ] {
        assert_eq!(ask_my_net(name, RecordType::PTR), "Forward", "{name}");
    }
}

#[test]
fn an_internal_network_knows_its_own_names_only() {
    let host = Host::new();
    assert_eq!(
        ask(&host, VAULT, "10.0.11.200", "safe.", RecordType::A),
        "10.0.11.2"
    );
    assert_eq!(
        ask(&host, VAULT, "10.0.11.200", "example.com.", RecordType::A),
        "Internal"
    );
    assert_eq!(
        ask(
            &host,
            VAULT,
            "10.0.11.200",
            "8.8.8.8.in-addr.arpa.",
            RecordType::PTR
        ),
        "Internal"
    );
}

#[test]
fn one_network_with_a_way_out_is_enough_to_forward() {
    let mut host = Host::new();
    host.task(&[(VAULT, "10.0.11.5"), (MY_NET, "10.0.9.5")]);
    assert_eq!(
        ask(&host, VAULT, "10.0.11.5", "example.com.", RecordType::A),
        "Forward"
    );
}

#[test]
fn forwarding_serves_containers_that_leave_by_a_foreign_network() {
    let mut host = Host::new();
    host.task(&[(VAULT, "10.0.11.5")]);
    host.task(&[(VAULT, "10.0.11.6")]);
    for (sandbox, leaves_elsewhere) in host
        .0
        .tasks
        .keys()
        .copied()
        .map(SandboxId::from)
        .zip([true, false])
    {
        let of_it = host
            .0
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.sandbox == sandbox);
        let joint = |&id| ContainerEndpoint {
            id,
            interface: None,
            bandwidth: Bandwidth::default(),
        };
        let container = ContainerConfig {
            runtime: ContainerRuntime::Docker,
            name: "db".to_owned(),
            path: format!("/run/docker/netns/{sandbox}"),
            identity: None,
            endpoints: of_it.map(|(id, _)| joint(id)).collect(),
            leaves_elsewhere,
        };
        host.0.containers.insert(sandbox, container);
    }
    host.0.tasks.clear();
    assert_eq!(
        ask(&host, VAULT, "10.0.11.5", "example.com.", RecordType::A),
        "Forward"
    );
    assert_eq!(
        ask(&host, VAULT, "10.0.11.5", "safe.", RecordType::A),
        "10.0.11.2"
    );
    // Its engine may know a name of its own, and may lead no other one outside.
    let others = ["db.", "example.com.", "8.8.8.8.in-addr.arpa."];
    let others = others.map(|name| ask(&host, VAULT, "10.0.11.6", name, RecordType::A));
    assert_eq!(others, ["Forward", "Internal", "Internal"]);
}

#[test]
fn a_client_sees_all_its_networks_and_no_other() {
    let mut host = Host::new();
    host.task(&[(MY_NET, "10.0.9.5"), (BACK_END, "10.0.10.5")]);
    for (network, address) in [(MY_NET, "10.0.9.5"), (BACK_END, "10.0.10.5")] {
        assert_eq!(
            ask(&host, network, address, "db.", RecordType::A),
            "10.0.10.2"
        );
        assert_eq!(
            ask(
                &host,
                network,
                address,
                "2.10.0.10.in-addr.arpa.",
                RecordType::PTR
            ),
            "db.Back.End."
        );
        assert_eq!(
            ask(&host, network, address, "safe.", RecordType::A),
            "Forward"
        );
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
    assert_eq!(
        ask(&host, MY_NET, "10.0.9.5", "web.", RecordType::A),
        "10.0.10.9"
    );
    assert_eq!(
        ask(&host, MY_NET, "10.0.9.5", "web.", RecordType::AAAA),
        "NoData",
        "never mixed with another network's"
    );
    assert_eq!(
        ask(&host, BACK_END, "10.0.10.6", "web.", RecordType::A),
        "10.0.9.2"
    );
    assert_eq!(
        ask(&host, BACK_END, "10.0.10.6", "web.back.end.", RecordType::A),
        "10.0.10.9"
    );
}

#[test]
fn a_network_that_the_host_does_not_know_has_no_answers() {
    assert_eq!(
        ask(
            &Host::new(),
            NetworkId(99),
            "10.0.9.5",
            "web.",
            RecordType::A
        ),
        "UnknownNetwork"
    );
}

#[test]
fn a_name_too_long_for_dns_does_no_harm() {
    let mut host = Host::new();
    host.name(MY_NET, &"x".repeat(64), &["10.0.9.8"], true);
    assert_eq!(
        ask(&host, MY_NET, "10.0.9.200", "web.", RecordType::A),
        "10.0.9.2"
    );
}

fn web_port() -> NamedPort {
    NamedPort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 8080,
    }
}

/// `web` has the port `http`, told of its virtual IP and of each task.
fn with_ports() -> Host {
    let mut host = Host::new();
    for (name, targets) in [
        ("web", &[][..]),
        ("web.1", &[]),
        ("tasks.web", &["web.1"]),
        ("www", &["web"]),
    ] {
        let key = (MY_NET, name.to_owned());
        let known = host.0.names.get(&key).cloned();
        let record = model::NameConfig {
            ports: vec![web_port()],
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            ..known.unwrap_or_else(|| model::NameConfig::further(vec![]))
        };
        host.0.names.insert(key, record);
    }
    let vips = host.0.names[&(MY_NET, "web".to_owned())].addresses.clone();
    host.0
        .names
        .get_mut(&(MY_NET, "www".to_owned()))
        .unwrap()
        .addresses = vips;
    host
}

#[test]
fn named_ports_are_told_with_where_they_are() {
    let host = with_ports();
    let client = Client::Of {
        network: MY_NET,
        address: "10.0.9.200".parse().unwrap(),
    };
    let table = Table::of(&host.0);
    for (name, target, address) in [
        ("_http._tcp.web.", "web.my-net.", "10.0.9.2"),
        ("_HTTP._TCP.web.my-net.", "web.my-net.", "10.0.9.2"),
        ("_http._tcp.tasks.web.", "web.1.my-net.", "10.0.9.3"),
        ("_http._tcp.web.1.", "web.1.my-net.", "10.0.9.3"),
        ("_http._tcp.www.", "web.my-net.", "10.0.9.2"),
    ] {
        let answer = message(&table, client, name, RecordType::SRV, 0).unwrap();
        assert_eq!(records(&answer), format!("0 1 8080 {target}"), "{name}");
        let additional: Vec<String> = answer
            .additionals
            .iter()
            .map(|record| record.data.to_string())
            .collect();
        assert!(
            additional[0] == address && additional.len() == 2,
            "{name}: both families of {target}: {additional:?}"
        );
    }
    let ask = |name: &str, kind| text(&host, client, name, kind);
    assert_eq!(ask("_http._tcp.web.", RecordType::A), "NoData");
    assert_eq!(
        ask("_tcp.web.", RecordType::SRV),
        "NoData",
        "something is below it"
    );
    assert_eq!(ask("_ssh._tcp.web.", RecordType::SRV), "NoSuchName");
    assert_eq!(ask("_http._udp.web.", RecordType::SRV), "NoSuchName");
    assert_eq!(ask("_http._tcp.example.com.", RecordType::SRV), "Forward");
}

#[test]
fn each_name_of_ours_has_an_soa_and_a_server_that_can_be_asked() {
    let client = Client::Of {
        network: MY_NET,
        address: "10.0.9.200".parse().unwrap(),
    };
    let table = Table::of(&Host::new().0);
    let answer = |kind| message(&table, client, "web.", kind, 0).unwrap();
    assert_eq!(
        records(&answer(RecordType::SOA)),
        "_dns.my-net. . 42 1 1 1 0"
    );
    assert_eq!(records(&answer(RecordType::NS)), "_dns.my-net.");
    assert_eq!(
        answer(RecordType::NS).additionals[0].data.to_string(),
        "10.0.9.1"
    );
    assert_eq!(ask_my_net("_dns.my-net.", RecordType::A), "10.0.9.1");
    assert_eq!(
        ask_my_net("1.9.0.10.in-addr.arpa.", RecordType::PTR),
        "_dns.my-net."
    );
}

#[test]
fn any_gets_little_and_transfers_nothing() {
    assert_eq!(ask_my_net("web.", RecordType::ANY), "RFC8482 ");
    assert_eq!(ask_my_net("example.com.", RecordType::ANY), "Forward");
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(ask_my_net("web.", kind), ResponseCode::Refused.to_string());
    }
}

#[test]
fn a_task_finds_its_own_stacks_service_first() {
    let mut host = Host::new();
    for (name, addresses) in [
        ("db", &["10.0.9.10", "10.0.9.20"][..]),
        ("db.shop", &["10.0.9.10"]),
        ("db.blog", &["10.0.9.20"]),
        ("tasks.db.shop", &["10.0.9.11"]),
        ("db.1.shop", &["10.0.9.11"]),
    ] {
        host.name(MY_NET, name, addresses, false);
    }
    host.task(&[(MY_NET, "10.0.9.5")]);
    host.0.tasks.get_mut(&TaskId(1)).unwrap().stack = Some("Shop".to_owned());
    let inside = |name: &str| ask(&host, MY_NET, "10.0.9.5", name, RecordType::A);
    let outside = |name: &str| ask(&host, MY_NET, "10.0.9.6", name, RecordType::A);
    for name in ["db.", "DB.my-net.", "db.shop.", "db.shop.my-net."] {
        assert_eq!(inside(name), "10.0.9.10", "{name}");
    }
    assert_eq!(
        (inside("tasks.db."), inside("db.1.")),
        ("10.0.9.11".to_owned(), "10.0.9.11".to_owned())
    );
    assert_eq!(inside("db.blog."), "10.0.9.20");
    assert_eq!(
        inside("web."),
        "10.0.9.2",
        "what its stack does not have it finds all the same"
    );
    assert_eq!(
        (outside("db."), outside("db.1.")),
        ("10.0.9.10 10.0.9.20".to_owned(), "Forward".to_owned())
    );
    assert_eq!(outside("db.shop."), "10.0.9.10");
}

#[test]
fn a_question_that_goes_in_circles_is_stopped() {
    let mut query = Message::query();
    query.add_query(Query::query(
        Name::from_ascii("example.com.").unwrap(),
        RecordType::A,
    ));
    let mut bytes = query.to_vec().unwrap();
    bytes[11] = 1;
    let table = Table::of(&Host::new().0);
    let client = Client::Of {
        network: MY_NET,
        address: "10.0.9.200".parse().unwrap(),
    };
    for (hops, outcome) in [
        (2, Outcome::Elsewhere),
        (3, Outcome::Answered),
        (255, Outcome::Answered),
    ] {
        let option = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 5, 0xff, 0x21, 0, 1, hops];
        let whole = [&bytes[..], &option].concat();
        let mut out = Vec::new();
        assert_eq!(
            dns::reply(&table, client, Transport::Udp, &whole, 0, &mut out),
            outcome,
            "{hops}"
        );
        assert!(outcome == Outcome::Elsewhere || out[3] & 0x0f == 2);
    }
}

#[test]
fn more_addresses_than_fit_are_cut_and_the_client_told() {
    let mut host = Host::new();
    let addresses: Vec<String> = (0..200).map(|last| format!("10.0.9.{last}")).collect();
    host.name(
        MY_NET,
        "many",
        &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
        false,
    );
    let client = Client::Of {
        network: MY_NET,
        address: "10.0.9.200".parse().unwrap(),
    };
    let answer = message(&Table::of(&host.0), client, "many.", RecordType::A, 7).unwrap();
    assert!(
        answer.metadata.truncation && answer.answers.len() > 60,
        "old C libraries read what there is"
    );
}

#[test]
fn a_table_that_follows_is_the_table_of_the_later_view() {
    let mut before = Host::new();
    let mut table = Table::of(&before.0);
    let changes: [fn(&mut Host); 7] = [
        |host| named(host, "web.1", &["10.0.9.77"]),
        |host| named(host, "another", &["10.0.9.77", "10.0.9.78"]),
        |host| named(host, "web.1", &[]),
        |host| assert!(host.0.names.remove(&(MY_NET, "another".to_owned()))),
        |host| host.0.tasks.clear(),
        |host| host.0.names.clear(),
        |host| host.0.networks.clear(),
    ];
    for change in changes {
        let mut after = Host(before.0.clone());
        after.0.generation += 1;
        change(&mut after);
        table.follow(&before.0, &after.0);
        assert_eq!(table, Table::of(&after.0));
        before = after;
    }
}

fn named(host: &mut Host, name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let record = model::NameConfig::canonical(addresses);
    host.0.names.insert((MY_NET, name.to_owned()), record);
}

/// As a program of the host, which calls `my-net`.
fn ask_as_host(name: &str, kind: RecordType) -> String {
    let mut host = with_dotted();
    host.0.networks.get_mut(&MY_NET).unwrap().reach.hosts = true;
    text(&host, Client::Host, name, kind)
}

#[test]
fn programs_of_a_host_find_names_of_networks_that_hosts_call() {
    for name in ["web.my-net.netd.internal.", "WEB.My-Net.NETD.internal."] {
        assert_eq!(ask_as_host(name, RecordType::A), "10.0.9.2");
        assert_eq!(ask_as_host(name, RecordType::AAAA), "fd00:9::2");
        assert_eq!(ask_as_host(name, RecordType::MX), "NoData");
    }
    let dotted = "api.example.com.my-net.netd.internal.";
    assert_eq!(ask_as_host(dotted, RecordType::A), "10.0.9.50");
    assert_eq!(
        ask_as_host("web.1.my-net.netd.internal.", RecordType::A),
        "10.0.9.3"
    );
    for there in ["netd.internal.", "my-net.netd.internal."] {
        assert_eq!(ask_as_host(there, RecordType::A), "NoData", "{there}");
    }
    for none in [
        "no.my-net.netd.internal.",
        "web.netd.internal.",
        "db.back.end.netd.internal.",
        "safe.vault.netd.internal.",
    ] {
        assert_eq!(ask_as_host(none, RecordType::A), "NoSuchName", "{none}");
    }
    // The host's resolvers are asked for all else, and never ask us in a loop.
    for other in [
        "web.my-net.",
        "example.com.",
        "xnetd.internal.",
        "internal.",
        ".",
    ] {
        let said = ask_as_host(other, RecordType::A);
        assert_eq!(said, ResponseCode::Refused.to_string(), "{other}");
    }
}
