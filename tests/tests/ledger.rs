//! The ledger through the public interface: what is refused, and that nothing is half-made.

use std::collections::BTreeSet;

use tests::{Lab, eventually, holds};

#[test]
fn refusals_name_the_cause_and_leave_nothing_behind() {
    let lab = Lab::up(1);
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    let networks = lab.json("h1", "network ls");
    for (line, causes) in [
        (
            "network create --subnet 10.0.0.0/16 wide",
            ["10.0.9.0/24", "my-net"],
        ),
        ("network create my-net", ["my-net", "my-net"]),
        (
            "network create --subnet 10.1.0.0/24 --gateway 10.2.0.1 odd",
            ["10.2.0.1", "--subnet"],
        ),
        (
            "network create --subnet 10.1.0.0/24 --gateway 10.1.0.255 odd",
            ["10.1.0.255", "10.1.0.0/24"],
        ),
        ("network create --opt colour=red odd", ["colour", "mtu"]),
    ] {
        let refusal = lab.ctl("h1", line).refused();
        assert!(
            causes.iter().all(|cause| refusal.contains(cause)),
            "{line}: {refusal}"
        );
    }
    assert_eq!(lab.json("h1", "network ls"), networks);
    assert_eq!(
        lab.ctl("h1", "network create").code,
        2,
        "wrong usage has exit code 2"
    );
}

#[test]
fn prefixes_of_the_hosts_links_stay_their_own() {
    let lab = Lab::up(1);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 early")
        .ok();
    let link = |name: &str, address: &str| {
        let line = format!(
            "ip link add {name} type bridge; ip address add {address} dev {name}; ip link set \
             {name} up"
        );
        lab.exec("h1", &["sh", "-c", &line]).ok();
    };
    link("corp0", "10.0.0.1/23");
    link("corp1", "10.0.9.77/24");
    eventually("it is refused to a network that asks for it", || {
        let said = lab.ctl("h1", "network create --subnet 10.0.1.0/24 wide");
        if said.code == 0 {
            lab.ctl("h1", "network rm wide").ok();
        }
        holds(
            said.err
                .contains("overlaps 10.0.0.0/23, which a link of node h1 is on"),
            said,
        )
    });
    lab.ctl("h1", "network create free").ok();
    assert_eq!(
        lab.json("h1", "network inspect free")[0]["status"]["subnets"][0]["subnet"],
        "10.0.2.0/24"
    );
    // A network that was there first gets no route while the host has one.
    lab.ctl(
        "h1",
        "service create --detach --name nap --network early -- sleep infinity",
    )
    .ok();
    eventually("the node says what is in the way", || {
        let said = lab.ctl("h1", "node inspect h1 -o json");
        holds(said.out.contains("has another route there already"), said)
    });
    let routes = lab.exec("h1", &["ip", "route", "show", "10.0.9.0/24"]).ok();
    assert!(
        routes.contains("dev corp1") && routes.lines().count() == 1,
        "{routes}"
    );
    lab.exec("h1", &["ip", "link", "del", "corp1"]).ok();
    eventually("the network has its route", || {
        let routes = lab.exec("h1", &["ip", "route", "show", "10.0.9.0/24"]).ok();
        holds(
            routes.contains("dev nu-") && lab.ctl("h1", "network verify").code == 0,
            routes,
        )
    });
}

#[test]
fn a_full_pool_refuses_the_whole_service() {
    let lab = Lab::up(1);
    lab.ctl("h1", "network create --subnet 10.3.0.0/29 small")
        .ok();
    let full = lab
        .ctl(
            "h1",
            "service create --name many --replicas 20 --network small -- sleep infinity",
        )
        .refused();
    assert!(
        full.contains("10.3.0.0/29") || full.contains("small"),
        "{full}"
    );
    assert!(lab.json("h1", "service ls").is_empty());
    lab.ctl(
        "h1",
        "service create --name few --replicas 3 --network small -- sleep infinity",
    )
    .ok();
    lab.ctl("h1", "service scale few=20").refused();
    assert_eq!(lab.json("h1", "service ls")[0]["spec"]["replicas"], 3);
    // What was given back is there at once, to the last address.
    for _ in 0..3 {
        lab.ctl("h1", "service rm few").ok();
        lab.ctl(
            "h1",
            "service create --name few --replicas 4 --network small -- sleep infinity",
        )
        .ok();
    }
    let used = lab.ctl("h1", "network rm small").refused();
    assert!(used.contains("few"), "{used}");
    let unknown = lab
        .ctl("h1", "service create --name lost --network nowhere -- true")
        .refused();
    assert!(unknown.contains("nowhere"), "{unknown}");
}

#[test]
fn networks_without_subnets_get_disjoint_ones_of_both_families() {
    let lab = Lab::up(1);
    for name in ["one", "two"] {
        lab.ctl("h1", &format!("network create {name}")).ok();
    }
    let networks = lab.json("h1", "network ls");
    let leases = networks
        .iter()
        .flat_map(|network| network["status"]["subnets"].as_array().unwrap());
    let subnets: BTreeSet<&str> = leases
        .map(|lease| lease["subnet"].as_str().unwrap())
        .collect();
    assert_eq!(subnets.len(), 4);
    assert_eq!(
        subnets.iter().filter(|subnet| subnet.contains(':')).count(),
        2
    );
}

#[test]
fn json_keys_are_stable_and_tables_fit_a_hundred_columns() {
    let lab = Lab::tour(1);
    for (line, keys) in [
        (
            "service ps web",
            "/id /name /slot /node /state /desired_state /addresses",
        ),
        (
            "service ls",
            "/id /spec/name /spec/replicas /status/running /status/virtual_ips /status/networks",
        ),
        (
            "node ls",
            "/id /hostname /role /status /availability /leader /address",
        ),
        (
            "network ls",
            "/id /spec/name /spec/driver /spec/encrypted /spec/internal /status/vni \
             /status/subnets",
        ),
    ] {
        let first = lab.json("h1", line).remove(0);
        for key in keys.split(' ') {
            let found = first.pointer(key).is_some_and(|value| !value.is_null());
            assert!(found, "{line}: {key} of {first}");
        }
        let table = lab.ctl("h1", line).ok();
        assert!(
            table.lines().count() > 1 && table.lines().all(|row| row.chars().count() <= 100),
            "{table}"
        );
    }
}
