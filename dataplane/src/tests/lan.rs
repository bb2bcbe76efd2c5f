//! Networks on a LAN.

use super::*;

/// The same network on VLAN 50 of a LAN, on a host that has these links beside `eth0`.
fn on_lan(free: bool, links: &[(&str, HostLink)]) -> (NodeConfig, Ground) {
    let mut config = config();
    let driver = DriverConfig::Macvlan {
        parent: "eth0.50".parse().unwrap(),
        mode: MacvlanMode::Bridge,
    };
    config
        .networks
        .values_mut()
        .for_each(|network| network.driver = driver.clone());
    let eth0 = HostLink {
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        mtu: 1500,
        stacked: None,
    };
    let mut ground = ground(Some(1500));
    ground.links.extend(
        [("eth0", eth0)]
            .iter()
            .chain(links)
            .map(|(name, link)| (link_name(name), link.clone())),
    );
    ground.addresses = BTreeSet::from([
        (link_name("eth0"), ip("10.0.9.3")),
        (link_name("eth0"), ip("fd00:9::3")),
    ]);
    ground.free.extend(free.then_some(EndpointId(1)));
    (config, ground)
}

#[test]
fn an_endpoint_on_a_lan_gets_addresses_that_nobody_has() {
    let desired = |free| {
        let (config, ground) = on_lan(free, &[]);
        Desired::of(&config, &ground)
    };
    let of_network = |desired: &Desired| -> BTreeSet<IpAddr> {
        let keys = desired.spaces[&SANDBOX]
            .addresses
            .keys()
            .map(|key| key.address);
        keys.filter(|address| *address != Mac::of_endpoint(ip("10.0.9.11")).link_local())
            .collect()
    };
    let (asked, free) = (desired(false), desired(true));
    assert!(of_network(&asked).is_empty() && asked.questions[&EndpointId(1)].open);
    assert!(
        judge(&on_lan(false, &[]).0, &asked, &[], Vec::new())
            .ready
            .is_empty()
    );
    assert_eq!(
        of_network(&free),
        BTreeSet::from([ip("10.0.9.11"), ip("fd00:9::11")])
    );
    assert!(!free.questions[&EndpointId(1)].open);
    assert_eq!(
        judge(&on_lan(true, &[]).0, &free, &[], Vec::new()).ready,
        BTreeSet::from([SandboxId(1)])
    );
    for desired in [asked, free] {
        assert_eq!(plan(&desired, &kernel(&desired)), []);
    }
}

#[test]
fn a_vlan_is_made_first_unless_the_operator_has_one() {
    let made = |links: &[(&str, HostLink)]| -> Vec<LinkName> {
        let (config, ground) = on_lan(true, links);
        let plan = plan(&Desired::of(&config, &ground), &Observed::default());
        let links = plan
            .iter()
            .filter(|op| matches!(op.change, Change::AddStacked(..)));
        links.map(|op| op.change.link().unwrap().clone()).collect()
    };
    let ours = names::vlan_link("eth0", 50);
    let (shim, port) = (names::shim_link(Vni::FIRST), names::sandbox_link(0));
    assert_eq!(made(&[]), [ours.clone(), shim.clone(), port.clone()]);
    let vlan = Stacked {
        parent: link_name("eth0"),
        layer: Layer::Vlan(50),
    };
    let link = HostLink {
        mac: None,
        mtu: 1500,
        stacked: Some(vlan),
    };
    for name in ["eth0.50", "office"] {
        assert_eq!(
            made(&[(name, link.clone())]),
            [shim.clone(), port.clone()],
            "{name}"
        );
    }
    assert_eq!(
        made(&[(ours.as_str(), link)]),
        [ours, shim, port],
        "one of ours is looked after"
    );
}

#[test]
fn a_missing_parent_refuses_its_tasks_only() {
    let (config, mut ground) = on_lan(true, &[]);
    ground.links.clear();
    let desired = Desired::of(&config, &ground);
    let status = judge(&config, &desired, &[], Vec::new());
    assert!(status.settled && status.ready.is_empty(), "{status:?}");
    assert_eq!(status.failures[0].sandbox, Some(SandboxId(1)));
    assert!(
        status.failures[0].why.cause.contains("no link eth0"),
        "{status:?}"
    );
}
