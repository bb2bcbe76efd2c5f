//! The rule sets against the kernel: what is written is read back, beside the tables of others.

#![allow(clippy::unwrap_used)]

#[path = "../../nftables/tests/support/mod.rs"]
mod support;

use std::net::IpAddr;

use model::{
    Balance, EndpointId, Mac, Protocol, Scheduler, Subnet,
    names::{self, LinkName},
};
use nftables::{
    Family, Overtake, Rule, Socket, apply, difference, foreign_forward_chains, observe, passage,
};
use rules::{
    guard::{self, Border, Exposed, Secret, Sources, border, guard},
    published::{Answers, Diversion, Port, answer, balance, divert, mark},
    shortcut::{Device, Devices, Endpoint, shortcut},
};
use support::{assert_settled, in_fresh_namespace, nft, put, run};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subnets(texts: &[&str]) -> Vec<Subnet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_short_way_is_read_back_and_goes_with_its_devices() {
    in_fresh_namespace(|| {
        for link in ["e1", "e2", "vx-000001"] {
            run(&format!(
                "ip link add {link} type veth peer name far-{link}"
            ));
        }
        let link = |name: &str| LinkName::parse(name).unwrap();
        let endpoint = |index, last: u8| Endpoint {
            index,
            mac: Mac([2, 0, 0, 0, 0, last]),
            addresses: vec![
                IpAddr::from([10, 0, 9, last]),
                IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, last.into()]),
            ],
        };
        let mut devices = Devices {
            tunnel: Device {
                link: link("vx-000001"),
                index: 7,
                mac: Mac([6; 6]),
            },
            endpoints: [(link("e1"), endpoint(3, 5)), (link("e2"), endpoint(5, 6))].into(),
            remotes: vec![
                (Mac([8; 6]), ip("10.0.9.8")),
                (Mac([8; 6]), ip("fd00:9::8")),
            ],
        };
        let mut socket = Socket::open().unwrap();
        put(&mut socket, &shortcut(&devices));
        assert_settled(&mut socket, &shortcut(&devices));
        devices.remotes.push((Mac([8; 6]), ip("10.0.9.9")));
        let observed = observe(&mut socket, Family::Netdev, "netd").unwrap();
        let change = difference(Some(&shortcut(&devices)), observed.as_ref()).unwrap();
        let steps: Vec<String> = change.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "add 1 elements to set remotes4",
                "add 1 elements to set sources4"
            ]
        );
        devices.endpoints.remove(&link("e2"));
        run("ip link del e2");
        put(&mut socket, &shortcut(&devices));
        assert_settled(&mut socket, &shortcut(&devices));
    });
}

#[test]
fn one_more_source_among_thousands_is_one_element() {
    let sources = |count: u32| {
        let remotes = (0..count).map(|index| {
            (
                Mac([6; 6]),
                IpAddr::from((0x0a00_0000 + index).to_be_bytes()),
            )
        });
        guard(&Sources {
            remotes: remotes.collect(),
            ..Sources::default()
        })
    };
    let change = difference(Some(&sources(5001)), Some(&sources(5000))).unwrap();
    let steps: Vec<String> = change.steps.iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["add 1 elements to set remotes4"]);
}

#[test]
fn the_guards_are_read_back_as_written() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let subnets = subnets(&[
            "10.0.9.0/24",
            "10.0.10.0/24",
            "10.0.9.0/25",
            "fd00:9::/64",
            "fd00:a::/64",
        ]);
        let full = Border {
            subnets: subnets.clone(),
            tunnels: vec![
                (4789, 4096.try_into().unwrap()),
                (4790, 77.try_into().unwrap()),
            ],
            exposed: vec![Exposed {
                vni: 77.try_into().unwrap(),
                callers: self::subnets(&["198.51.100.0/24", "198.51.100.0/25", "2001:db8::/32"]),
            }],
            own: Some("192.0.2.9".parse().unwrap()),
            vteps: vec![
                (ip("192.0.2.1"), Mac([6; 6])),
                (ip("2001:db8::1"), Mac([7; 6])),
            ],
            secret: Some(Secret {
                port: 4790,
                vnis: vec![77.try_into().unwrap()],
            }),
        };
        let smaller = Border {
            subnets: subnets[1..2].to_vec(),
            secret: None,
            ..full.clone()
        };
        let sources = Sources {
            endpoints: vec![(
                names::endpoint_link(EndpointId(1)),
                Mac([2; 6]),
                ip("10.0.9.5"),
            )],
            remotes: vec![
                (Mac([6; 6]), ip("10.0.9.6")),
                (Mac([6; 6]), ip("fd00:9::6")),
            ],
            routers: vec![
                (Mac([6; 6]), ip("10.0.9.1")),
                (Mac([6; 6]), ip("fd00:9::1")),
            ],
            resolvers: vec![ip("10.0.9.1"), ip("fd00:9::1")],
        };
        let guards = [
            guard(&Sources::default()),
            guard(&sources),
            guard::claims(&sources),
            guard::names(),
        ];
        let guards = guards
            .into_iter()
            .chain([guard::untracked_names(), guard::instead_of_engine()]);
        for desired in guards.chain([border(&Border::default()), border(&full), border(&smaller)]) {
            put(&mut socket, &desired);
            assert_settled(&mut socket, &desired);
        }
    });
}

#[test]
fn a_passage_through_foreign_forward_chains_comes_and_goes() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        nft("table ip filter { chain FORWARD {
               type filter hook forward priority 0; policy drop; counter drop; }; }
             table ip filter { chain other { counter accept; };
               chain INPUT { type filter hook input priority 0; }; }
             table inet firewalld { chain filter_FORWARD {
               type filter hook forward priority 10; reject; }; }
             table ip6 nat { chain POSTROUTING { type nat hook postrouting priority 100; }; }
             table inet netd { chain isolate { type filter hook forward priority 0; }; }");
        let mut reconcile = |rules: &[Rule], overtake| {
            let chains = foreign_forward_chains(&mut socket, names::is_table).unwrap();
            passage(rules, &chains, overtake)
                .iter()
                .for_each(|change| apply(&mut socket, change).unwrap());
            let chains = foreign_forward_chains(&mut socket, names::is_table).unwrap();
            assert_eq!(passage(rules, &chains, overtake), vec![]);
            chains
        };
        let rules = guard::passage();
        let chains = reconcile(&rules, Overtake::Later);
        let names: Vec<_> = chains
            .iter()
            .map(|found| (found.table.as_str(), found.chain.as_str()))
            .collect();
        assert_eq!(
            names,
            [("filter", "FORWARD"), ("firewalld", "filter_FORWARD")]
        );
        assert!(
            chains
                .iter()
                .all(|found| found.rules[0].ours.is_some() && found.rules[1].ours.is_some())
        );
        let listing = nft("list chain ip filter FORWARD");
        assert!(
            listing.contains(r#"iifname "nu-*" counter packets 0 bytes 0 accept comment "netd""#),
            "{listing}"
        );
        nft("insert rule ip filter FORWARD drop");
        assert_eq!(reconcile(&rules, Overtake::Later)[0].rules[0].ours, None);
        assert_eq!(
            reconcile(&rules, Overtake::Now)[0].rules[0].ours,
            Some(rules[0].clone())
        );
        nft("delete table inet firewalld");
        reconcile(&rules, Overtake::Later);
        reconcile(&[], Overtake::Later);
        let left = nft("list chain ip filter FORWARD");
        assert!(
            left.contains("policy drop") && left.contains("counter packets 0 bytes 0 drop"),
            "{left}"
        );
        assert!(!left.contains("comment"), "{left}");
    });
}

#[test]
fn rules_of_published_ports_are_read_back_and_leave_nothing() {
    let port = |name: &str, at: Option<&str>, target, count, weight| Port {
        name: name.to_owned(),
        service: "web".to_owned(),
        mark: mark(4096.try_into().unwrap()),
        protocol: Protocol::Tcp,
        published: 8000,
        target,
        count,
        at: at.map(|address| [ip(address)].into()),
        allow: subnets(&["192.0.2.0/24", "192.0.2.0/25", "2001:db8::/32"]),
        balance: Balance::default(),
        real_servers: [(ip("10.0.9.5"), weight), (ip("fd00:9::5"), weight)].into(),
    };
    let sticky = Balance {
        scheduler: Scheduler::Mh,
        affinity: Some(60),
    };
    let ports = vec![
        port("a", Some("192.0.2.9"), 80, 3, 1),
        Port {
            balance: sticky,
            ..port("b", Some("2001:db8::9"), 8000, 3, 1)
        },
        Port {
            balance: sticky,
            ..port("d", Some("2001:db8::8"), 80, 3, 1)
        },
        Port {
            allow: Vec::new(),
            ..port("c", None, 80, 1, 0)
        },
        Port {
            published: 10_000,
            ..port("e", None, 10_000, 10_001, 1)
        },
        Port {
            published: 30_000,
            ..port("f", Some("2001:db8::9"), 20_000, 100, 1)
        },
        Port {
            published: 40_000,
            ..port("g", Some("0.0.0.0"), 40_000, 17, 1)
        },
    ];
    let uplink = names::uplink_link(4096.try_into().unwrap());
    let uplinks = [(uplink, mark(4096.try_into().unwrap()))].into();
    let diversion = Diversion {
        ports: ports.clone(),
        uplinks,
        own: vec![ip("192.0.2.9"), ip("2001:db8::9")],
    };
    let answers = Answers {
        subnets: subnets(&["10.0.9.0/24", "fd00:9::/64"]),
        routers: [(Mac([6; 6]), 0x8000_0001), (Mac([7; 6]), 0x8000_0002)].into(),
        targets: vec![
            (ip("10.0.9.5"), Protocol::Tcp, 80, 3),
            (ip("fd00:9::5"), Protocol::Udp, 53, 1),
            (ip("fd00:9::5"), Protocol::Udp, 10_000, 10_001),
        ],
        hosts: vec![
            (Mac([6; 6]), ip("192.0.2.6")),
            (Mac([6; 6]), ip("fd6e:6574:6401::6")),
        ],
        exposed: subnets(&["198.51.100.0/24", "2001:db8::/32"]),
    };
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let border = border(&Border {
            subnets: subnets(&["10.0.9.0/24", "fd00:9::/64"]),
            ..Border::default()
        });
        let guard = guard(&Sources::default());
        let inside = answer(balance(guard.clone(), &ports), &answers);
        for desired in [
            divert(border.clone(), &diversion),
            border.clone(),
            inside,
            balance(guard.clone(), &ports),
            guard,
        ] {
            put(&mut socket, &desired);
            assert_settled(&mut socket, &desired);
        }
        assert_eq!(divert(border.clone(), &Diversion::default()), border);
    });
}
