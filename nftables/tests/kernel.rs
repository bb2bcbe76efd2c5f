//! nftables against the kernel: what is written is read back, and what others do to it is seen and
//! mended.

#![allow(clippy::unwrap_used)]

mod support;

use std::{future::poll_fn, net::IpAddr, time::Duration};

use nftables::*;
use support::{assert_settled, in_fresh_namespace, nft, put, run};
use tokio::time::timeout;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ranges(ends: &[(&str, &str)]) -> Vec<Key> {
    let ends = ends.iter();
    ends.map(|(first, last)| Key::range(ip(first), ip(last)))
        .collect()
}

fn own_map(version: Ip, turns: &[&str]) -> Set {
    let slots = (0u32..)
        .zip(turns)
        .map(|(slot, turn)| (Key::of(&[&slot.to_ne_bytes()]), octets(ip(turn))));
    Set::map(&[Type::Number], version.into(), slots)
}

fn every_expression() -> Vec<Rule> {
    use Expression::{
        Fib, Hash, Immediate, Match, Notrack, Number, Payload, SetConntrack, SetMeta, SetPayload,
    };
    let metas = [
        Meta::Mark,
        Meta::Iif,
        Meta::Oif,
        Meta::IifName,
        Meta::OifName,
        Meta::Owner,
        Meta::Nfproto,
        Meta::L4proto,
    ];
    let conntracks = [
        Conntrack::State,
        Conntrack::Direction,
        Conntrack::Status,
        Conntrack::Mark,
    ];
    let conntracks = [
        &conntracks[..],
        &[Conntrack::Protocol, Conntrack::CalledPort],
    ]
    .concat();
    let comparisons = [
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
    ];
    let compare = |how| {
        Rule::new()
            .with(Expression::Meta {
                key: Meta::Mark,
                into: 0,
            })
            .compare(how, &[1, 2, 3, 4])
    };
    let one = |expression: Expression| Rule::new().with(expression);
    let mut rules: Vec<Rule> = metas
        .into_iter()
        .map(|key| one(Expression::Meta { key, into: 0 }))
        .collect();
    rules.extend(
        conntracks
            .into_iter()
            .map(|key| one(Expression::Conntrack { key, into: 5 })),
    );
    rules.extend(comparisons.into_iter().map(compare));
    rules.extend([
        one(Expression::Meta {
            key: Meta::Mark,
            into: 3,
        })
        .with(SetMeta {
            key: Meta::Mark,
            from: 3,
        }),
        one(Immediate {
            into: 9,
            value: vec![1, 2, 3, 4],
        })
        .with(SetConntrack {
            key: Conntrack::Mark,
            from: 9,
        }),
        one(Payload {
            base: Header::Transport,
            offset: 2,
            len: 2,
            into: 0,
        })
        .compare(Comparison::Equal, &[0, 80]),
        one(Payload {
            base: Header::Network,
            offset: 8,
            len: 16,
            into: 4,
        }),
        one(Immediate {
            into: 2,
            value: vec![9; 12],
        })
        .with(SetPayload {
            base: Header::Link,
            offset: 0,
            len: 12,
            from: 2,
            checksum: None,
        }),
        Rule::new().states(2 | 4).counter(),
        Rule::new()
            .link_in("eth0")
            .link_out_not("nu-*")
            .verdict(Verdict::Accept),
        one(Number {
            kind: Numbers::Random,
            modulus: 7,
            offset: 3,
            into: 1,
        }),
        one(Number {
            kind: Numbers::Incremental,
            modulus: 2,
            offset: 0,
            into: 0,
        }),
        Rule::new().source(Ip::V6, 0).with(Hash {
            from: 0,
            len: 16,
            modulus: 5,
            seed: 9,
            offset: 2,
            into: 8,
        }),
        one(Fib {
            result: FibResult::OifName,
            flags: 1,
            into: 0,
        }),
        one(Fib {
            result: FibResult::AddressType,
            flags: 2,
            into: 0,
        }),
        one(Fib {
            result: FibResult::Oif,
            flags: 1 | 8 | 32,
            into: 0,
        })
        .compare(Comparison::Equal, &[0]),
        one(Payload {
            base: Header::Link,
            offset: 6,
            len: 6,
            into: 0,
        }),
        one(Notrack),
        one(Expression::Meta {
            key: Meta::Secpath,
            into: 0,
        })
        .compare(Comparison::Equal, &[1]),
        Rule::new().protocol(6).reject(Reject::TcpReset),
        Rule::new().reject(Reject::Icmpx(2)),
        Rule::new().version(Ip::V4).reject(Reject::Icmp(3)),
        Rule::new().verdict(Verdict::Jump("end".to_owned())),
        Rule::new().verdict(Verdict::Goto("end".to_owned())),
        Rule::new().verdict(Verdict::Return),
        Rule::new()
            .version(Ip::V4)
            .source(Ip::V4, 0)
            .in_set("plain"),
        Rule::new()
            .version(Ip::V4)
            .destination(Ip::V4, 0)
            .verdict_map("verdicts"),
        one(Expression::Meta {
            key: Meta::L4proto,
            into: 0,
        })
        .with(Match {
            set: SetRef::Anonymous(Set::values(
                &[Type::Protocol],
                [Key::of(&[&[6]]), Key::of(&[&[17]])],
            )),
            from: 0,
            invert: true,
        }),
    ]);
    rules.push(one(Expression::Over { rate: 50, burst: 7 }));
    rules.push(one(Expression::Timeouts("udp".to_owned())));
    rules
}

fn everything() -> Ruleset {
    let pair = |a, b| Key::pair(ip(a), ip(b));
    let verdicts = [
        (Key::address(ip("10.0.0.1")), Verdict::Accept),
        (
            Key::address(ip("10.0.0.2")),
            Verdict::Jump("end".to_owned()),
        ),
        (
            Key::address(ip("10.0.0.3")),
            Verdict::Goto("end".to_owned()),
        ),
        (Key::address(ip("10.0.0.4")), Verdict::Drop),
    ];
    let spread = |version, turns: &[&str]| {
        Rule::new()
            .with(Expression::Number {
                kind: Numbers::Incremental,
                modulus: 2,
                offset: 0,
                into: 0,
            })
            .own_map(own_map(version, turns))
            .nat(Nat::Destination, version)
    };
    let hairpin = Rule::new()
        .version(Ip::V6)
        .source(Ip::V6, 0)
        .destination(Ip::V6, 4)
        .map("pairs");
    let mut dropping = Chain::base(Kind::Filter, Hook::Forward, 5, vec![]);
    dropping.base.as_mut().unwrap().policy = Policy::Drop;
    Ruleset::new(Family::Inet, "everything")
        .chain(
            "all",
            Chain::base(Kind::Filter, Hook::Prerouting, -300, every_expression()),
        )
        .object(
            "udp",
            Object::UdpTimeouts {
                unreplied: 3,
                replied: 120,
            },
        )
        .chain("dropping", dropping)
        .chain(
            "route",
            Chain::base(Kind::Route, Hook::Output, -150, vec![]),
        )
        .chain(
            "leaving",
            Chain::base(
                Kind::Filter,
                Hook::Output,
                0,
                vec![Rule::new().with(Expression::RouteIpsec { into: 2 })],
            ),
        )
        .chain(
            "spread",
            Chain::base(
                Kind::Nat,
                Hook::Prerouting,
                -100,
                vec![
                    spread(Ip::V4, &["10.0.0.1", "10.0.0.2"]),
                    spread(Ip::V6, &["fd00::1", "fd00::2"]),
                ],
            ),
        )
        .chain(
            "sources",
            Chain::base(
                Kind::Nat,
                Hook::Postrouting,
                100,
                vec![
                    hairpin.nat(Nat::Source, Ip::V6),
                    Rule::new().with(Expression::Masquerade),
                ],
            ),
        )
        .chain("end", Chain::regular(vec![Rule::new().counter()]))
        .set(
            "plain",
            Set::values(
                &[Type::Ipv4],
                [Key::address(ip("10.0.0.1")), Key::address(ip("10.0.0.2"))],
            ),
        )
        .set(
            "ports",
            Set::values(&[Type::Protocol, Type::Port], [Key::of(&[&[6], &[0, 80]])]),
        )
        .set("verdicts", Set::verdicts(&[Type::Ipv4], verdicts))
        .set(
            "pairs",
            Set::map(
                &[Type::Ipv6, Type::Ipv6],
                Type::Ipv6,
                [(pair("fd00::1", "fd00::1"), octets(ip("fd00::9")))],
            ),
        )
        .set(
            "marks",
            Set::map(
                &[Type::Link],
                Type::Mark,
                [(
                    Key::of(&[b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"]),
                    vec![7, 0, 0, 0],
                )],
            ),
        )
        .set(
            "ranges",
            Set::ranges(
                &[Type::Ipv4],
                ranges(&[
                    ("10.0.0.0", "10.0.0.255"),
                    ("10.0.1.0", "10.0.1.255"),
                    ("0.0.0.0", "0.255.255.255"),
                    ("255.0.0.0", "255.255.255.255"),
                ]),
            ),
        )
        .set(
            "ranges6",
            Set::ranges(
                &[Type::Ipv6],
                ranges(&[
                    ("fd00:9::", "fd00:9::ffff:ffff:ffff:ffff"),
                    ("ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
                    ("fd00:a::", "fd00:a::ffff:ffff:ffff:ffff"),
                ]),
            ),
        )
        .set(
            "boxes",
            Set::ranges(
                &[Type::Ipv4, Type::Ipv4],
                [Key {
                    first: [10, 0, 0, 0, 10, 0, 1, 0][..].into(),
                    last: [10, 0, 0, 9, 10, 0, 1, 9][..].into(),
                }],
            ),
        )
}

#[test]
fn every_construct_is_read_back_as_written() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        put(&mut socket, &everything());
        assert_settled(&mut socket, &everything());
        for family in [Family::Ip, Family::Ip6] {
            let version = if family == Family::Ip { Ip::V4 } else { Ip::V6 };
            let rule = Rule::new().source(version, 0).with(Expression::Notrack);
            let ruleset = Ruleset::new(family, "one").chain(
                "c",
                Chain::base(Kind::Filter, Hook::Output, -300, vec![rule]),
            );
            put(&mut socket, &ruleset);
            assert_settled(&mut socket, &ruleset);
        }
        nft("list ruleset");
    });
}

#[test]
fn whatever_others_change_is_seen_and_mended() {
    let changes = [
        "flush ruleset",
        "delete table inet everything",
        "flush table inet everything",
        "flush chain inet everything spread",
        "insert rule inet everything end accept",
        "add rule inet everything sources masquerade random",
        "add rule inet everything end ct mark set 9",
        "add rule inet everything end tcp option maxseg size set 1000",
        "add chain inet everything mine",
        "add chain inet everything mine { type filter hook input priority 3; policy drop; }",
        "add chain inet everything dropping { policy accept; }",
        "delete chain inet everything route",
        "add set inet everything mine { type ipv4_addr; flags timeout; }",
        "add set inet everything mine { type ether_addr; }",
        "add element inet everything plain { 10.9.9.9 }",
        "delete element inet everything plain { 10.0.0.1 }",
        "delete element inet everything verdicts { 10.0.0.4 }",
        "add element inet everything verdicts { 10.0.0.9 : drop }",
        "delete element inet everything verdicts { 10.0.0.4 ; }; add element inet everything \
         verdicts { 10.0.0.4 : accept }",
        "delete element inet everything ranges { 10.0.1.0/24 }",
        "add element inet everything ranges6 { fd00:b::/64 }",
        "flush map inet everything pairs",
        "add table inet everything { flags dormant; }",
    ];
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        put(&mut socket, &everything());
        for change in changes.map(|change| change.replace(" ; }", " }")) {
            nft(&change);
            let observed = observe(&mut socket, Family::Inet, "everything").unwrap();
            assert!(
                difference(Some(&everything()), observed.as_ref()).is_some(),
                "unseen: {change}"
            );
            put(&mut socket, &everything());
            assert_settled(&mut socket, &everything());
        }
    });
}

#[test]
fn a_deleted_rule_is_put_back() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        put(&mut socket, &everything());
        let listing = run("nft -a list chain inet everything end");
        let handle = listing
            .lines()
            .find(|line| line.contains("counter"))
            .and_then(|line| line.rsplit(' ').next())
            .unwrap();
        nft(&format!("delete rule inet everything end handle {handle}"));
        let observed = observe(&mut socket, Family::Inet, "everything").unwrap();
        let change = difference(Some(&everything()), observed.as_ref()).unwrap();
        assert_eq!(
            change.steps,
            [Step::AddRule {
                chain: "end".to_owned(),
                rule: Rule::new().counter()
            }]
        );
        apply(&mut socket, &change).unwrap();
        assert_settled(&mut socket, &everything());
    });
}

#[test]
fn tables_of_others_are_left_alone() {
    in_fresh_namespace(|| {
        nft(
            "add table inet theirs; add chain inet theirs end; add rule inet theirs end counter; \
             add set inet theirs plain { type ipv4_addr; }",
        );
        nft("add table ip everything; add chain ip everything end");
        let listing = || {
            [
                nft("list table inet theirs"),
                nft("list table ip everything"),
            ]
        };
        let before = listing();
        let mut socket = Socket::open().unwrap();
        put(&mut socket, &everything());
        assert_settled(&mut socket, &everything());
        let observed = observe(&mut socket, Family::Inet, "everything").unwrap();
        apply(&mut socket, &difference(None, observed.as_ref()).unwrap()).unwrap();
        assert_eq!(
            observe(&mut socket, Family::Inet, "everything").unwrap(),
            None
        );
        assert_eq!(listing(), before);
    });
}

#[test]
fn thousands_of_elements_are_one_batch() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let address = |index: u32| IpAddr::from((0x0a00_0000 + index * 2).to_be_bytes());
        let elements = || (0..20_000).map(address).map(Key::address);
        let ranges = (0..5_000)
            .map(address)
            .map(|address| Key::range(address, address));
        let desired = Ruleset::new(Family::Inet, "big")
            .set("many", Set::values(&[Type::Ipv4], elements()))
            .set("ranges", Set::ranges(&[Type::Ipv4], ranges));
        put(&mut socket, &desired);
        assert_settled(&mut socket, &desired);
        let fewer = Ruleset::new(Family::Inet, "big")
            .set("many", Set::values(&[Type::Ipv4], elements().skip(15_000)));
        put(&mut socket, &fewer);
        assert_settled(&mut socket, &fewer);
    });
}

#[test]
fn a_refused_change_names_the_object_and_leaves_nothing() {
    in_fresh_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let jump = Rule::new().verdict(Verdict::Jump("nowhere".to_owned()));
        let broken =
            Ruleset::new(Family::Inet, "broken").chain("first", Chain::regular(vec![jump]));
        let error = apply(&mut socket, &difference(Some(&broken), None).unwrap()).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "nftables refuses to add a rule to chain first (table broken): ENOENT"
            ),
            "{error}"
        );
        assert_eq!(observe(&mut socket, Family::Inet, "broken").unwrap(), None);
        put(&mut socket, &everything());
        assert_settled(&mut socket, &everything());
    });
}

#[test]
fn changes_of_others_are_heard() {
    let (mut monitor, mut socket) = in_fresh_namespace(|| {
        let pair = (Monitor::open().unwrap(), Socket::open().unwrap());
        nft("add table inet theirs");
        pair
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (patience, moment) = (Duration::from_secs(10), Duration::from_millis(20));
        timeout(patience, poll_fn(|context| monitor.poll_changed(context)))
            .await
            .unwrap()
            .unwrap();
        put(&mut socket, &everything());
        timeout(patience, poll_fn(|context| monitor.poll_changed(context)))
            .await
            .unwrap()
            .unwrap();
        put(&mut socket, &Ruleset::new(Family::Inet, "more"));
        monitor.forget();
        let silence = timeout(moment, poll_fn(|context| monitor.poll_changed(context))).await;
        assert!(silence.is_err(), "heard of a change where there was none");
    });
}

#[test]
fn a_table_of_a_socket_is_its_own_and_goes_with_it() {
    in_fresh_namespace(|| {
        let mut other = Socket::open().unwrap();
        let mine = everything().of_socket();
        {
            let mut socket = Socket::open().unwrap();
            // What was there before, for everybody, is replaced.
            put(&mut socket, &everything());
            put(&mut socket, &mine);
            assert_settled(&mut socket, &mine);
            let going = difference(None, Some(&mine)).unwrap();
            apply(&mut other, &going).unwrap_err();
            nft("flush ruleset");
            assert_settled(&mut other, &mine);
        }
        let gone = || {
            observe(&mut other, Family::Inet, "everything")
                .unwrap()
                .is_none()
        };
        let mut gone = gone;
        // The kernel takes it away a moment after the socket.
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while !gone() {
            assert!(std::time::Instant::now() < until, "the table stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
