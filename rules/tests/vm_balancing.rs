//! What only a kernel with IPVS can show (`make test-vm`): the IPVS engine keeps the promises of
//! the suite, and what it makes is what `ipvsadm` shows.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::IpAddr,
    path::Path,
};

use ipvs::{Clients, IpVs, Nftables, Op, Table, VirtualService, ip_vs};
use model::{Balance, Scheduler};
use support::{
    addresses, ask_tcp, ask_udp, connect, in_fresh_namespace, line, run,
    suite::{Engine, balance, chosen, lab, many, reconcile, table, vip},
};

/// Refuses to run a test elsewhere.
#[track_caller]
fn required() {
    assert!(
        Path::new("/run/vm/guest").exists(),
        "this kernel may lack IPVS: `make test-vm` runs it where there is one"
    );
}

support::suite::promises!({
    required();
    Engine::IpVs
});

/// The lines of `ipvsadm` in the calling thread's namespace, without its head.
fn listed(arguments: &str) -> Vec<String> {
    let text = run(&format!("ipvsadm {arguments}"));
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Of the virtual IP of IPv4. `ipvsadm` shows it as a number with a sign.
fn mark() -> u32 {
    u32::from_be_bytes([10, 0, 9, 250]) | 1 << 31
}

#[test]
fn ipvsadm_shows_the_desired_services() {
    required();
    in_fresh_namespace(|| {
        let mut balancer = IpVs::open().unwrap();
        reconcile(
            &mut balancer,
            &chosen(balance(Scheduler::Mh, Some(300)), &[(1, 1), (2, 0)]),
        );
        let shown = listed("-Sn");
        let mark = mark() as i32;
        for expected in [
            format!("-A -f {mark} -s mh -p 300 -b mh-fallback"),
            format!("-a -f {mark} -r 10.0.9.11:0 -m -w 1"),
            format!("-a -f {mark} -r 10.0.9.12:0 -m -w 0"),
        ] {
            assert!(shown.contains(&expected), "{expected}: {shown:#?}");
        }
        assert_eq!(shown.len(), 6, "{shown:#?}");
        let timeouts = listed("-L --timeout").join(" ");
        assert!(timeouts.contains("432000 10800 300"), "{timeouts}");
        reconcile(&mut balancer, &Table::default());
        assert_eq!(listed("-Sn"), Vec::<String>::new());
    });
}

#[test]
fn changes_by_others_are_seen_and_repaired() {
    required();
    let desired = chosen(balance(Scheduler::Wrr, Some(9)), &[(1, 1), (2, 2)]);
    let mark = mark();
    let breaks = [
        "ipvsadm -C".to_owned(),
        "ipvsadm -A -t 10.0.9.77:80 -s rr".to_owned(),
        "ipvsadm -A -f 7 -s rr".to_owned(),
        format!("ipvsadm -E -f {mark} -s rr -p 9"),
        format!("ipvsadm -E -f {mark} -s wrr -p 10"),
        format!("ipvsadm -E -f {mark} -s wrr -p 9 -M 255.255.255.0"),
        format!("ipvsadm -E -f {mark} -s wrr"),
        format!("ipvsadm -e -f {mark} -r 10.0.9.11:0 -m -w 7"),
        format!("ipvsadm -e -f {mark} -r 10.0.9.11:0 -g -w 1"),
        format!("ipvsadm -e -f {mark} -r 10.0.9.11:0 -m -w 1 -x 5 -y 3"),
        format!("ipvsadm -d -f {mark} -r 10.0.9.11:0"),
        format!("ipvsadm -a -f {mark} -r 10.0.9.99:0 -m -w 1"),
        "ipvsadm --set 900 120 300".to_owned(),
        "ip rule del fwmark 0x80000000/0x80000000".to_owned(),
        "ip -6 route del local default table 100".to_owned(),
        "sysctl -qw net.ipv4.vs.conntrack=0".to_owned(),
        "nft flush ruleset".to_owned(),
        "nft flush map inet netd-lb marks4".to_owned(),
        "nft flush chain inet netd-lb balance".to_owned(),
    ];
    in_fresh_namespace(|| {
        let mut balancer = IpVs::open().unwrap();
        reconcile(&mut balancer, &desired);
        let before = listed("-Sn");
        for line in breaks {
            run(&line);
            // What was read a moment ago is not read again; a new engine reads all.
            let mut fresh = IpVs::open().unwrap();
            assert_ne!(reconcile(&mut fresh, &desired), [], "unseen: {line}");
            assert_eq!(listed("-Sn"), before, "{line}");
        }
        // The engine that has been there all the while looks again by itself.
        run("ipvsadm -C");
        let start = std::time::Instant::now();
        while reconcile(&mut balancer, &desired).is_empty() {
            assert!(start.elapsed() < support::PATIENCE, "nobody looked");
        }
        assert_eq!(listed("-Sn"), before);
    });
}

#[test]
fn engines_take_over_from_each_other() {
    required();
    let (lab, mut balancer) = lab(Engine::Nftables, 2);
    let desired = table(&[(1, 1), (2, 1)]);
    reconcile(&mut *balancer, &desired);
    let mut old: Vec<_> = (0..2)
        .map(|family| connect(&lab.endpoints[0], vip(family)).unwrap())
        .collect();
    old.iter().for_each(|connection| drop(line(connection)));
    // From nftables to IPVS: what was there goes on.
    let mut balancer = lab.router.within(|| IpVs::open().unwrap());
    reconcile(&mut balancer, &desired);
    for (family, connection) in old.iter_mut().enumerate() {
        connection.write_all(b"still there\n").unwrap();
        assert_eq!(line(connection), "still there");
        let servers: BTreeSet<String> = (0..2)
            .map(|_| ask_tcp(&lab.endpoints[0], vip(family)))
            .collect();
        assert_eq!(servers.len(), 2);
        assert!(
            lab.router
                .within(|| run("ipvsadm -Ln --stats"))
                .contains("FWM"),
            "family {family}"
        );
    }
    // Back: what nftables began goes on still, what IPVS began is reset.
    let mut newer = connect(&lab.endpoints[0], vip(0)).unwrap();
    line(&newer);
    let mut balancer = lab.router.within(|| {
        ip_vs::withdraw().unwrap();
        Nftables::open(Clients::Routed).unwrap()
    });
    reconcile(&mut balancer, &desired);
    for connection in &mut old {
        connection.write_all(b"still there\n").unwrap();
        assert_eq!(line(connection), "still there");
    }
    newer.write_all(b"anybody?\n").unwrap();
    assert_eq!(line(&newer), "");
    assert_eq!(lab.router.within(|| listed("-Sn")), Vec::<String>::new());
    assert_eq!(lab.router.ip("route show table 100"), "");
    for family in 0..2 {
        assert!(
            ask_udp(&lab.endpoints[0], vip(family))
                .unwrap()
                .ends_with(&addresses(0)[family].to_string())
        );
    }
}

#[test]
fn a_change_among_thousands_rewrites_nothing_else() {
    required();
    in_fresh_namespace(|| {
        let mut balancer = IpVs::open().unwrap();
        let mut desired = many(1000);
        reconcile(&mut balancer, &desired);
        assert_eq!(listed("-Sn").len(), 2000 * 4);
        let first = IpAddr::from([10, 1, 0, 0]);
        let services: &mut BTreeMap<IpAddr, VirtualService> = &mut desired.services;
        services.get_mut(&first).unwrap().balance = Balance {
            scheduler: Scheduler::Lc,
            affinity: None,
        };
        let ops = reconcile(&mut balancer, &desired);
        assert_eq!(ops.iter().filter_map(Op::vip).collect::<Vec<_>>(), [first]);
        reconcile(&mut balancer, &Table::default());
    });
}
