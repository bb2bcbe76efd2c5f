//! What others do to the kernel, and what comes back.

use super::*;

#[test]
fn a_namespace_that_loses_its_name_is_given_it_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let (mut near, mut far) = lab.connect();
    for name in [netd_network(), task(0)] {
        let identity = lab.hosts[0].run(&format!("stat -Lc %i /run/netns/{name}"));
        // `ip` takes the name away and then complains if it is back before its file is removed.
        lab.hosts[0].keeper.enter(&["ip", "netns", "del", &name]);
        let found = |host: &Host| {
            text(
                &host
                    .keeper
                    .enter(&["stat", "-Lc", "%i", &format!("/run/netns/{name}")]),
            )
        };
        lab.hosts[0].wait("the same namespace has its name again", |host| {
            found(host) == identity
        });
        lab.hosts[0].wait_settled(1);
        exchange(&mut near, &mut far);
    }
    lab.vanish();
}

#[test]
fn whatever_is_deleted_or_changed_comes_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let network = netd_network();
    let peer = Mac::of_router(node(1));
    let via = peer.link_local();
    let (outer, sandbox) = (model::names::endpoint_link(endpoint(0)), task(0));
    let inside = format!("ip -n {network}");
    let damages = [
        format!("{inside} route del 10.77.9.12"),
        format!("{inside} -6 route del fd00:77:9::12"),
        format!("{inside} route replace 10.77.9.12/32 dev up0"),
        format!("{inside} route add 10.77.9.99/32 dev up0"),
        format!("{inside} route del default"),
        format!("{inside} route del unreachable 10.77.9.0/24"),
        format!("{inside} -6 neigh del {via} dev vx-00004d"),
        format!(
            "{inside} neigh replace 10.77.9.11 lladdr 02:00:00:00:00:01 nud permanent dev {outer}"
        ),
        format!("{inside} addr del 10.77.9.1/32 dev lo"),
        format!("{inside} addr add 10.77.9.77/32 dev lo"),
        format!("{inside} link set vx-00004d mtu 1300"),
        format!("{inside} link set vx-00004d down"),
        format!("{inside} link del vx-00004d"),
        format!("{inside} link del up0"),
        format!("{inside} link del {outer}"),
        format!("bridge -n {network} fdb del {peer} dev vx-00004d dst 192.0.2.2"),
        format!("bridge -n {network} fdb replace {peer} dev vx-00004d dst 192.0.2.9"),
        format!("ip netns exec {network} sysctl -w net.ipv4.ip_forward=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.conf.{outer}.proxy_arp=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.conf.all.accept_local=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.neigh.{outer}.proxy_delay=80"),
        format!("ip -n {sandbox} addr del 10.77.9.11/24 dev eth0"),
        format!("ip -n {sandbox} link set eth0 address 02:00:00:00:00:01"),
        format!("ip -n {sandbox} link set eth0 down"),
        format!("ip -n {sandbox} route del default"),
        format!("ip -n {sandbox} link set eth0 name eth5"),
        "ip link del nu-00004d".to_owned(),
        "ip route del 10.77.9.0/24".to_owned(),
        "ip link add vx-00004e type vxlan id 78 dstport 4789 dev eth0".to_owned(),
        format!("ip netns del {network}"),
        format!("ip netns del {sandbox}"),
    ];
    for damage in damages {
        lab.hosts[0].repairs(&damage);
        assert_answers(&lab.hosts[0].sandbox(), "10.77.9.12", 0);
        assert_answers(&lab.hosts[0].sandbox(), "fd00:77:9::12", 0);
    }
    lab.vanish();
}

#[test]
fn rules_that_are_deleted_or_changed_come_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let host = &lab.hosts[0];
    let inside = format!("ip netns exec {} nft", netd_network());
    let ours = || {
        let listing =
            host.run(&format!("{inside} -s list ruleset")) + &host.run("nft -s list ruleset");
        // Elements are listed in no order.
        let words = listing.split(|byte: char| byte.is_whitespace() || byte == ',');
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort();
        words
    };
    let before = ours();
    assert!(before.iter().any(|word| word == "netd"), "{before:?}");
    let damages = [
        format!("{inside} delete table inet netd"),
        format!("{inside} delete table netdev netd"),
        format!("{inside} delete table arp netd"),
        format!("{inside} flush table inet netd"),
        format!("{inside} add chain inet netd stray"),
        format!("{inside} flush ruleset"),
        "nft flush table inet netd".to_owned(),
        "nft delete table inet netd".to_owned(),
        "nft flush ruleset".to_owned(),
    ];
    for damage in damages {
        host.run(&damage);
        host.wait(&damage, |_| ours() == before);
    }
    lab.vanish();
}

#[test]
fn a_killed_data_plane_adopts_the_right_and_removes_the_rest() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let before = lab.hosts[0].picture();
    let (mut near, mut far) = lab.connect();
    lab.hosts[0].kill();
    exchange(&mut near, &mut far);
    let stale = "netd-t-0000000000abc";
    lab.hosts[0].run(&format!("ip netns add {stale}"));
    lab.hosts[0].run("ip netns add foreign");
    lab.hosts[0].run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0");
    let foreign = lab.hosts[0].run("ip -o link show flannel.1");
    lab.hosts[0].start();
    lab.hosts[0].wait("the stale sandbox is removed", |host| {
        !host.run("ip netns").contains(stale)
    });
    lab.hosts[0].wait_settled(1);
    exchange(&mut near, &mut far);
    assert_eq!(
        lab.hosts[0].picture(),
        before,
        "what was right has been touched"
    );
    assert_eq!(lab.hosts[0].run("ip -o link show flannel.1"), foreign);
    lab.hosts[0].run("ip netns del foreign");
    lab.vanish();
}

#[test]
fn a_changed_mtu_and_a_removed_task_leave_the_other_flows_alone() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    let mut configs = lab.whole();
    lab.settle(&configs);
    let (mut near, mut far) = lab.connect();
    for config in &mut configs {
        config.generation = 2;
        config.networks.get_mut(&NETWORK).unwrap().mtu = Some(1400);
    }
    let extra = TaskConfig {
        endpoints: Vec::new(),
        ..configs[0].tasks[&TaskId(100)].clone()
    };
    configs[0].tasks.insert(TaskId(500), extra);
    lab.settle(&configs);
    exchange(&mut near, &mut far);
    assert!(
        lab.hosts[0]
            .run(&format!("ip -n {} link show eth0", task(0)))
            .contains("mtu 1400")
    );
    let sandbox = model::names::sandbox_namespace(TaskId(500));
    assert!(lab.hosts[0].run("ip netns").contains(&sandbox));
    configs[0].tasks.remove(&TaskId(500));
    configs[0].generation = 3;
    lab.settle(&configs);
    assert!(!lab.hosts[0].run("ip netns").contains(&sandbox));
    exchange(&mut near, &mut far);
    lab.vanish();
}
