//! Tests of the data plane without a kernel: configurations in, plans out.

mod partial;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use model::{
    ContainerConfig, ContainerEndpoint, ContainerRuntime, DriverConfig, EndpointConfig, EndpointId,
    Mac, MacvlanMode, NetworkConfig, NetworkId, NodeConfig, NodeId, PeerConfig, Records, Role,
    Runtime, SandboxId, ServiceId, SubnetLease, TaskConfig, TaskId, TaskSpec, TaskState, Vni,
    names::{self, LinkName, Namespace},
};

use super::{
    desired::{Desired, Ground, HostLink, Underlay},
    newer,
    plan::{Change, Observed, Op, plan, replan},
    state::{
        AddressForm, AddressKey, FdbKey, Kind, Layer, Link, MAIN_TABLE, NeighbourKey, ObservedKind,
        ObservedLink, Place, Route, RouteKey, Space, Stacked,
    },
    status::judge,
};

const NETWORK: Place = Place::Inside(Namespace::Network(NetworkId(7)));
const SANDBOX: Place = Place::Inside(Namespace::Sandbox(SandboxId(1)));

fn ground(link: Option<u32>) -> Ground {
    Ground {
        underlay: Underlay {
            link,
            ..Underlay::default()
        },
        ..Ground::default()
    }
}

#[test]
fn a_narrow_way_to_one_host_narrows_the_routes_to_it_only() {
    let vtep = config().peers[&NodeId(2)].vtep;
    let mtus = |path: u32| -> Vec<Option<u32>> {
        let underlay = Underlay {
            link: Some(1500),
            paths: BTreeMap::from([(vtep, path)]),
        };
        let desired = Desired::of(
            &config(),
            &Ground {
                underlay,
                ..Ground::default()
            },
        );
        let routes = desired
            .spaces
            .values()
            .flat_map(|space| space.routes.values());
        let tunnelled = routes.filter(|route| {
            route
                .link()
                .is_some_and(|link| link.as_str().starts_with("vx-"))
        });
        tunnelled
            .map(|route| {
                if let Route::Unicast { mtu, .. } = route {
                    *mtu
                } else {
                    None
                }
            })
            .collect()
    };
    assert_eq!(mtus(1400), [Some(1350), Some(1350)]);
    assert_eq!(mtus(1500), [None, None]);
    assert_eq!(mtus(9000), [None, None]);
}

#[test]
fn nothing_is_planned_when_the_kernel_has_what_is_desired() {
    for config in [
        config(),
        v4_only(config()),
        internal(config()),
        NodeConfig::empty(NodeId(1)),
    ] {
        let desired = Desired::of(&config, &ground(Some(1500)));
        assert_eq!(plan(&desired, &kernel(&desired)), []);
    }
}

#[test]
fn deletes_come_first_and_devices_before_their_routes() {
    let desired = Desired::of(&config(), &ground(Some(1500)));
    let mut observed = kernel(&desired);
    space_of(&mut observed, NETWORK).forget(&vx());
    observed.spaces.remove(&SANDBOX);
    observed.spaces.insert(
        Place::Inside(Namespace::Sandbox(SandboxId(9))),
        Arc::default(),
    );
    let stages: Vec<u8> = plan(&desired, &observed)
        .iter()
        .map(|op| op.change.stage())
        .collect();
    assert!(stages.is_sorted(), "{stages:?}");
    assert_eq!(stages.first(), Some(&Change::DeleteLink(vx()).stage()));
    let fresh = plan(&desired, &Observed::default());
    assert!(
        fresh[..2]
            .iter()
            .all(|op| op.change == Change::CreateNamespace),
        "{fresh:?}"
    );
}

#[test]
fn a_changed_mtu_is_changed_in_place() {
    let observed = kernel(&Desired::of(&config(), &ground(Some(1500))));
    let plan = plan(&Desired::of(&config(), &ground(Some(9000))), &observed);
    assert_eq!(plan.len(), 5, "{plan:?}");
    assert!(
        plan.iter()
            .all(|op| matches!(op.change, Change::SetMtu(_, 8950))),
        "{plan:?}"
    );
}

#[test]
fn a_peer_that_moves_replaces_one_entry_and_touches_no_route() {
    let observed = kernel(&Desired::of(&config(), &ground(Some(1500))));
    let mut moved = config();
    moved.peers.get_mut(&NodeId(2)).unwrap().vtep = ip("192.0.2.22");
    let key = FdbKey {
        link: vx(),
        mac: Mac::of_router(NodeId(2)),
    };
    let expected = Op {
        place: NETWORK,
        change: Change::SetFdb(key, ip("192.0.2.22")),
    };
    assert_eq!(
        plan(&Desired::of(&moved, &ground(Some(1500))), &observed),
        [expected]
    );
}

#[test]
fn a_new_vtep_remakes_the_tunnel_and_nothing_else() {
    let observed = kernel(&Desired::of(&config(), &ground(Some(1500))));
    let mut moved = config();
    moved.peers.get_mut(&NodeId(1)).unwrap().vtep = ip("192.0.2.11");
    let plan = plan(&Desired::of(&moved, &ground(Some(1500))), &observed);
    assert!(matches!(&plan[0].change, Change::DeleteLink(link) if *link == vx()));
    assert!(
        plan.iter().all(|op| op.change.link() == Some(&vx())),
        "{plan:?}"
    );
    let routes = plan
        .iter()
        .filter(|op| matches!(op.change, Change::SetRoute(..)))
        .count();
    assert_eq!(
        routes, 2,
        "the routes through the old tunnel have gone with it"
    );
}

#[test]
fn half_a_pair_is_removed_and_made_whole() {
    let desired = Desired::of(&config(), &ground(Some(1500)));
    let mut observed = kernel(&desired);
    let eth0 = names::sandbox_link(0);
    space_of(&mut observed, SANDBOX).forget(&eth0);
    let plan = plan(&desired, &observed);
    let outer = names::endpoint_link(EndpointId(1));
    assert_eq!(
        plan[0],
        Op {
            place: NETWORK,
            change: Change::DeleteLink(outer.clone())
        }
    );
    assert!(plan.iter().any(
        |op| matches!(&op.change, Change::AddPair(pair) if pair.near == outer && pair.far == eth0)
    ));
}

#[test]
fn leftovers_of_an_earlier_life_are_removed() {
    let mut observed = kernel(&Desired::of(&config(), &ground(Some(1500))));
    let half_made = ObservedLink {
        index: 99,
        kind: ObservedKind::Other,
        mac: None,
        mtu: 1500,
        up: false,
        ours: false,
    };
    space_of(&mut observed, Place::Host)
        .links
        .insert(vx(), half_made);
    let plan = plan(&Desired::default(), &observed);
    assert!(
        plan.iter()
            .all(|op| matches!(op.change, Change::DeleteLink(_) | Change::DeleteNamespace)),
        "{plan:?}"
    );
    for place in [NETWORK, SANDBOX] {
        assert!(plan.contains(&Op {
            place,
            change: Change::DeleteNamespace
        }));
    }
    let host: Vec<&Op> = plan.iter().filter(|op| op.place == Place::Host).collect();
    assert_eq!(
        host.len(),
        2,
        "the uplink and the half-made tunnel: {host:?}"
    );
}

#[test]
fn every_attribute_changed_by_others_is_planned_for() {
    let desired = Desired::of(&config(), &ground(Some(1500)));
    let settled = kernel(&desired);
    let mut damaged = Vec::new();
    for (&place, space) in &settled.spaces {
        for name in space.links.keys().filter(|name| name.as_str() != "lo") {
            let mut damage = |change: &dyn Fn(&mut ObservedLink)| {
                let mut observed = settled.clone();
                change(space_of(&mut observed, place).links.get_mut(name).unwrap());
                damaged.push(observed);
            };
            damage(&|link| link.mtu += 1);
            damage(&|link| link.mac = Some(Mac([2; 6])));
            damage(&|link| link.up = false);
            damage(&|link| link.index += 1000);
            damage(&|link| link.kind = ObservedKind::Other);
        }
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.addresses,
            &|form: &mut AddressForm| form.prefix += 1,
        ));
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.addresses,
            &|form: &mut AddressForm| form.prefix_route ^= true,
        ));
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.neighbours,
            &|mac: &mut Mac| mac.0[5] ^= 1,
        ));
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.fdb,
            &|vtep: &mut IpAddr| *vtep = ip("192.0.2.99"),
        ));
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.routes,
            &|route: &mut Route| *route = Route::Other,
        ));
        damaged.extend(each_entry(
            &settled,
            place,
            |space| &mut space.sysctls,
            &|value: &mut String| value.push('9'),
        ));
    }
    // The number of a tunnel is looked at by none: it is the only change that is none.
    let tunnel = |observed: &Observed| {
        observed.spaces[&NETWORK]
            .links
            .get(&vx())
            .is_some_and(|link| link.index > 1000)
    };
    assert!(damaged.len() > 100);
    for observed in damaged.into_iter().filter(|observed| !tunnel(observed)) {
        assert_ne!(plan(&desired, &observed), [], "{observed:#?}");
    }
}

#[test]
fn every_attribute_of_the_tunnel_is_looked_at() {
    let desired = Desired::of(&config(), &ground(Some(1500)));
    let settled = kernel(&desired);
    let changes: [fn(&mut super::state::Vxlan); 7] = [
        |vxlan| vxlan.vni = Vni::LAST,
        |vxlan| vxlan.local = None,
        |vxlan| vxlan.port = 8472,
        |vxlan| vxlan.learning = true,
        |vxlan| vxlan.ttl = 1,
        |vxlan| vxlan.zero_checksum6 = true,
        |vxlan| vxlan.socket_elsewhere = false,
    ];
    for change in changes {
        let mut observed = settled.clone();
        let link = space_of(&mut observed, NETWORK)
            .links
            .get_mut(&vx())
            .unwrap();
        let ObservedKind::Vxlan(vxlan) = &mut link.kind else {
            panic!("{link:?}")
        };
        change(vxlan);
        assert_eq!(
            plan(&desired, &observed)[0].change,
            Change::DeleteLink(vx())
        );
    }
}

#[test]
fn strays_inside_our_namespaces_are_removed() {
    let desired = Desired::of(&config(), &ground(Some(1500)));
    let mut observed = kernel(&desired);
    let space = space_of(&mut observed, NETWORK);
    let address = ip("10.0.9.66");
    space.addresses.insert(
        AddressKey {
            link: vx(),
            address,
        },
        AddressForm {
            prefix: 32,
            prefix_route: true,
        },
    );
    space.neighbours.insert(
        NeighbourKey {
            link: vx(),
            address,
        },
        Mac([2; 6]),
    );
    space.fdb.insert(
        FdbKey {
            link: vx(),
            mac: Mac([2; 6]),
        },
        address,
    );
    let second = RouteKey {
        table: MAIN_TABLE,
        destination: "10.0.9.0/24".parse().unwrap(),
        metric: 0,
        nth: 1,
    };
    space.routes.insert(second, Route::Other);
    let plan = plan(&desired, &observed);
    assert_eq!(plan.len(), 4, "{plan:?}");
    assert!(
        plan.iter()
            .all(|op| op.change.stage() < Change::DeleteLink(vx()).stage()),
        "{plan:?}"
    );
}

#[test]
fn the_first_endpoint_carries_the_default_route() {
    let mut config = config();
    let second = NetworkConfig {
        vni: Vni::LAST,
        subnets: vec![lease("10.0.8.0/24", "10.0.8.1")],
        ..network()
    };
    config.networks.insert(NetworkId(8), second);
    let endpoint = EndpointConfig {
        network: NetworkId(8),
        addresses: vec![ip("10.0.8.5")],
        ..endpoint(1, "5")
    };
    config.endpoints.insert(EndpointId(5), endpoint);
    config
        .tasks
        .get_mut(&TaskId(1))
        .unwrap()
        .endpoints
        .push(EndpointId(5));
    let desired = Desired::of(&config, &ground(Some(1500)));
    let out = |link: usize| {
        let name = names::sandbox_link(link);
        let routes = desired.spaces[&SANDBOX]
            .routes
            .iter()
            .filter(move |(_, route)| route.link() == Some(&name));
        routes
            .map(|(key, _)| key.destination.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        out(0),
        [
            "0.0.0.0/0",
            "10.0.9.0/24",
            "10.0.9.1/32",
            "::/0",
            "fd00:9::/64"
        ]
    );
    assert_eq!(out(1), ["10.0.8.0/24", "10.0.8.1/32"]);
}

#[test]
fn the_first_network_with_a_way_out_carries_each_family() {
    let mut config = config();
    let second = NetworkConfig {
        vni: Vni::LAST,
        subnets: vec![lease("10.0.8.0/24", "10.0.8.1")],
        ..network()
    };
    config.networks.insert(NetworkId(8), second);
    let endpoint = EndpointConfig {
        network: NetworkId(8),
        addresses: vec![ip("10.0.8.5")],
        ..endpoint(1, "5")
    };
    config.endpoints.insert(EndpointId(5), endpoint);
    config
        .tasks
        .get_mut(&TaskId(1))
        .unwrap()
        .endpoints
        .insert(0, EndpointId(5));
    let out = |config: &NodeConfig| -> Vec<(String, String)> {
        let desired = Desired::of(config, &ground(Some(1500)));
        let routes = desired.spaces[&SANDBOX]
            .routes
            .iter()
            .filter(|(key, _)| key.destination.prefix() == 0);
        routes
            .map(|(key, route)| {
                (
                    key.destination.to_string(),
                    route.link().unwrap().to_string(),
                )
            })
            .collect()
    };
    let ways = |v4: &str, v6: &str| {
        vec![
            ("0.0.0.0/0".to_owned(), v4.to_owned()),
            ("::/0".to_owned(), v6.to_owned()),
        ]
    };
    assert_eq!(out(&config), ways("eth0", "eth1"));
    config.networks.get_mut(&NetworkId(8)).unwrap().internal = true;
    assert_eq!(out(&config), ways("eth1", "eth1"));
    assert_eq!(out(&internal(config)), []);
}

#[test]
fn internal_networks_have_no_uplink_and_unused_ones_nothing() {
    let desired = Desired::of(&internal(config()), &ground(Some(1500)));
    assert!(!desired.spaces.contains_key(&Place::Host));
    let mut remote = config();
    remote.tasks.clear();
    assert_eq!(
        Desired::of(&remote, &ground(Some(1500))),
        Desired::default()
    );
}

#[test]
fn a_network_of_one_family_leaves_the_other_alone() {
    let desired = Desired::of(&v4_only(config()), &ground(Some(1500)));
    let of_v6 = |(key, _): &(&RouteKey, &Route)| key.destination.is_ipv6();
    assert_eq!(
        desired
            .spaces
            .values()
            .flat_map(|space| &space.routes)
            .filter(of_v6)
            .count(),
        0
    );
}

#[test]
fn a_task_is_ready_once_nothing_of_its_own_is_left_to_do() {
    let mut config = config();
    config.endpoints.insert(
        EndpointId(3),
        EndpointConfig {
            sandbox: SandboxId(3),
            ..endpoint(1, "13")
        },
    );
    config.tasks.insert(
        TaskId(3),
        TaskConfig {
            endpoints: vec![EndpointId(3)],
            ..task()
        },
    );
    let desired = Desired::of(&config, &ground(Some(1500)));
    let mut observed = kernel(&desired);
    let other = Place::Inside(Namespace::Sandbox(SandboxId(3)));
    space_of(&mut observed, other).forget(&names::sandbox_link(0));
    let status = judge(&config, &desired, &plan(&desired, &observed), Vec::new());
    let expected = (Some(config.node), config.generation, false);
    assert_eq!((status.node, status.generation, status.settled), expected);
    assert_eq!(status.ready, [SandboxId(1)].into());
}

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

fn link_name(name: &str) -> LinkName {
    LinkName::parse(name).unwrap()
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

#[test]
fn an_older_configuration_is_refused() {
    let at = |generation| {
        Arc::new(NodeConfig {
            generation,
            ..config()
        })
    };
    assert_eq!(newer(at(5), at(4)).generation, 5);
    assert_eq!(newer(at(5), at(6)).generation, 6);
    let joined_anew = Arc::new(NodeConfig::empty(NodeId(9)));
    assert_eq!(newer(at(5), joined_anew.clone()), joined_anew);
}

#[test]
fn without_a_vtep_no_task_that_needs_one_is_ready() {
    let mut config = config();
    config.peers.clear();
    assert_eq!(
        Desired::of(&config, &ground(None)).sandboxes,
        BTreeMap::new()
    );
}

#[test]
fn a_host_without_its_vtep_says_so_and_is_not_settled() {
    let desired = Desired::of(&config(), &ground(None));
    let status = judge(&config(), &desired, &[], Vec::new());
    assert!(
        !status.settled && status.failures[0].why.cause.contains("192.0.2.1"),
        "{status:?}"
    );
}

/// Every entry of one kind in one namespace, changed and, for another kernel, gone.
fn each_entry<K: Ord + Clone, V>(
    settled: &Observed,
    place: Place,
    entries: fn(&mut Space<ObservedLink>) -> &mut BTreeMap<K, V>,
    change: &dyn Fn(&mut V),
) -> Vec<Observed> {
    let mut space = (*settled.spaces[&place]).clone();
    let keys: Vec<K> = entries(&mut space).keys().cloned().collect();
    let mut damaged = Vec::new();
    for key in keys {
        let mut changed = settled.clone();
        change(
            entries(space_of(&mut changed, place))
                .get_mut(&key)
                .unwrap(),
        );
        let mut gone = settled.clone();
        entries(space_of(&mut gone, place)).remove(&key);
        damaged.extend([changed, gone]);
    }
    damaged
}

fn space_of(observed: &mut Observed, place: Place) -> &mut Space<ObservedLink> {
    Arc::make_mut(observed.spaces.get_mut(&place).unwrap())
}

/// A kernel that has all that is desired.
fn kernel(desired: &Desired) -> Observed {
    let mut numbers = BTreeMap::new();
    for (&place, space) in &desired.spaces {
        numbers.extend(
            space
                .links
                .keys()
                .zip(1..)
                .map(|(name, index)| ((place, name.clone()), index)),
        );
    }
    let number = |place: Place, name: &LinkName| numbers[&(place, name.clone())];
    let observe = |place: Place, name: &LinkName, link: &Link| ObservedLink {
        index: number(place, name),
        kind: match &link.kind {
            Kind::Stacked(stacked) => ObservedKind::Stacked(stacked.clone()),
            Kind::Loopback => ObservedKind::Other,
            Kind::Vxlan(vxlan) => ObservedKind::Vxlan(vxlan.clone()),
            Kind::Veth { peer_place, peer } => ObservedKind::Veth(number(*peer_place, peer)),
            Kind::Handed { .. } => ObservedKind::Veth(99),
        },
        mac: link.mac,
        mtu: link.mtu.unwrap_or(65536),
        up: true,
        ours: false,
    };
    let spaces = desired.spaces.iter().map(|(&place, space)| {
        let links = space
            .links
            .iter()
            .map(|(name, link)| (name.clone(), observe(place, name, link)))
            .collect();
        let Space {
            addresses,
            neighbours,
            fdb,
            routes,
            policies,
            shapes,
            sysctls,
            ..
        } = Space::clone(space);
        (
            place,
            Arc::new(Space {
                links,
                addresses,
                neighbours,
                fdb,
                routes,
                policies,
                shapes,
                sysctls,
            }),
        )
    });
    Observed {
        spaces: spaces.collect(),
    }
}

/// Two hosts with one task each on a network of both families; this is the first.
fn config() -> NodeConfig {
    let peer = |vtep: &str| PeerConfig {
        hostname: vtep.to_owned(),
        role: Role::Worker,
        address: (ip(vtep), 2377).into(),
        vtep: ip(vtep),
        balancer: Default::default(),
    };
    NodeConfig {
        generation: 1,
        peers: Records::from([
            (NodeId(1), peer("192.0.2.1")),
            (NodeId(2), peer("192.0.2.2")),
        ]),
        networks: Records::from([(NetworkId(7), network())]),
        endpoints: Records::from([
            (EndpointId(1), endpoint(1, "11")),
            (EndpointId(2), endpoint(2, "12")),
        ]),
        tasks: Records::from([(TaskId(1), task())]),
        ..NodeConfig::empty(NodeId(1))
    }
}

/// A container of others on this host, in the place of the task.
const GUEST: Place = Place::Inside(Namespace::Container(SandboxId(8)));

fn with_container(interface: Option<&str>) -> NodeConfig {
    let mut config = config();
    config.tasks.clear();
    config.endpoints.get_mut(&EndpointId(1)).unwrap().sandbox = SandboxId(8);
    let interface = interface.map(str::to_owned);
    let joint = ContainerEndpoint {
        id: EndpointId(1),
        interface,
        bandwidth: Default::default(),
    };
    let container = ContainerConfig {
        runtime: ContainerRuntime::Cni,
        name: "db".to_owned(),
        path: "/run/netns/db".to_owned(),
        identity: None,
        endpoints: vec![joint],
        leaves_elsewhere: false,
    };
    config.containers.insert(SandboxId(8), container);
    config
}

fn alive() -> Ground {
    Ground {
        alive: BTreeSet::from([SandboxId(8)]),
        ..ground(Some(1500))
    }
}

#[test]
fn in_a_sandbox_of_others_only_what_is_ours_is_made_and_removed() {
    let desired = Desired::of(&with_container(Some("net1")), &alive());
    let mut observed = kernel(&desired);
    assert_eq!(plan(&desired, &observed), []);
    let foreign = ObservedLink {
        index: 50,
        kind: ObservedKind::Other,
        mac: None,
        mtu: 1500,
        up: true,
        ours: false,
    };
    let ours = ObservedLink {
        index: 51,
        ours: true,
        ..foreign.clone()
    };
    let links = &mut space_of(&mut observed, GUEST).links;
    links.insert(LinkName::parse("eth0").unwrap(), foreign);
    links.insert(LinkName::parse("eth7").unwrap(), ours);
    let ops: Vec<String> = plan(&desired, &observed)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ops, ["netd-c-0000000000008: delete link eth7"]);
    // A way out of theirs wins.
    let default = |space: &Space<Link>| {
        space
            .routes
            .keys()
            .find(|key| key.destination.prefix() == 0)
            .unwrap()
            .metric
    };
    assert_eq!(default(&desired.spaces[&GUEST]), 1024);
    // Theirs is not ours to make.
    observed.spaces.remove(&GUEST);
    assert!(
        !plan(&desired, &observed)
            .iter()
            .any(|op| op.change == Change::CreateNamespace)
    );
}

#[test]
fn a_container_whose_namespace_is_gone_leaves_nothing_behind() {
    let config = with_container(Some("net1"));
    let desired = Desired::of(&config, &ground(Some(1500)));
    assert_eq!(
        (desired.sandboxes.len(), desired.spaces.contains_key(&GUEST)),
        (0, false)
    );
    let ops = plan(&desired, &kernel(&Desired::of(&config, &alive())));
    let ops: Vec<String> = ops.iter().map(ToString::to_string).collect();
    assert!(
        ops.contains(&"netd-c-0000000000008: delete namespace".to_owned()),
        "{ops:?}"
    );
}

#[test]
fn a_device_that_a_runtime_takes_is_made_once() {
    let config = with_container(None);
    // Its namespace may not be there yet.
    let desired = Desired::of(&config, &ground(Some(1500)));
    assert!(desired.sandboxes.contains_key(&SandboxId(8)) && !desired.spaces.contains_key(&GUEST));
    let mut observed = kernel(&desired);
    let outer = names::endpoint_link(EndpointId(1));
    space_of(&mut observed, NETWORK).forget(&outer);
    let ops = plan(&desired, &observed);
    let pair = ops
        .iter()
        .find_map(|op| {
            if let Change::AddPair(pair) = &op.change {
                Some(pair)
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!(
        (&pair.near, pair.place, &pair.far),
        (&outer, Place::Host, &names::handed_link(EndpointId(1)))
    );
    // Whether it lies on the host or has been taken, nothing is left to do.
    let mut observed = kernel(&desired);
    assert_eq!(plan(&desired, &observed), []);
    let waiting = ObservedLink {
        index: 99,
        kind: ObservedKind::Veth(1),
        mac: None,
        mtu: 1450,
        up: false,
        ours: false,
    };
    space_of(&mut observed, Place::Host)
        .links
        .insert(names::handed_link(EndpointId(1)), waiting);
    assert_eq!(plan(&desired, &observed), []);
    let gone = plan(&Desired::default(), &observed);
    let handed = Change::DeleteLink(names::handed_link(EndpointId(1)));
    assert!(
        gone.iter()
            .any(|op| op.place == Place::Host && op.change == handed)
    );
}

fn v4_only(mut config: NodeConfig) -> NodeConfig {
    config
        .networks
        .values_mut()
        .for_each(|network| network.subnets.truncate(1));
    config
        .endpoints
        .values_mut()
        .for_each(|endpoint| endpoint.addresses.truncate(1));
    config
}

fn internal(mut config: NodeConfig) -> NodeConfig {
    config
        .networks
        .values_mut()
        .for_each(|network| network.internal = true);
    config
}

fn network() -> NetworkConfig {
    let subnets = vec![
        lease("10.0.9.0/24", "10.0.9.1"),
        lease("fd00:9::/64", "fd00:9::1"),
    ];
    NetworkConfig {
        name: "my-net".to_owned(),
        vni: Vni::FIRST,
        driver: DriverConfig::Overlay {
            port: 4789,
            encrypted: false,
        },
        subnets,
        internal: false,
        mtu: None,
    }
}

fn lease(subnet: &str, gateway: &str) -> SubnetLease {
    SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: ip(gateway),
    }
}

fn endpoint(node: u64, last: &str) -> EndpointConfig {
    let addresses = vec![
        ip(&format!("10.0.9.{last}")),
        ip(&format!("fd00:9::{last}")),
    ];
    let mac = Mac::of_endpoint(addresses[0]);
    EndpointConfig {
        network: NetworkId(7),
        node: NodeId(node),
        sandbox: SandboxId(node),
        addresses,
        mac,
    }
}

fn task() -> TaskConfig {
    let runtime = Runtime::Exec {
        argv: vec!["true".to_owned()],
        env: BTreeMap::new(),
        rootfs: None,
    };
    TaskConfig {
        service: ServiceId(1),
        service_name: "web".to_owned(),
        slot: 1,
        spec: TaskSpec {
            stop_grace: 1000,
            ..TaskSpec::new(runtime)
        },
        stack: None,
        desired: TaskState::Running,
        state: TaskState::Assigned,
        draining: false,
        endpoints: vec![EndpointId(1)],
    }
}

fn vx() -> LinkName {
    names::vxlan_link(Vni::FIRST)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
