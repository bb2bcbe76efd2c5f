//! Networks whose endpoints hosts call, and machines outside.

use super::*;
use crate::ports::Ports;

const HOST: Place = Place::Host;

/// The first host has nothing on the network, the second a task.
fn config_of_caller() -> NodeConfig {
    let mut config = config();
    config.tasks.clear();
    config.endpoints.remove(&EndpointId(1));
    config
}

fn open(mut config: NodeConfig) -> NodeConfig {
    let open = NetworkConfig {
        reach: model::Reach {
            hosts: true,
            exposed: ["198.51.100.0/24".parse().unwrap()].into(),
        },
        ..network()
    };
    config.networks.insert(NetworkId(7), open);
    config
}

fn sources(desired: &Desired) -> Vec<Option<IpAddr>> {
    let subnets = ["10.0.9.0/24", "fd00:9::/64"].map(|text| text.parse().unwrap());
    let routes = desired.spaces.get(&HOST).map(|host| &host.routes);
    let found = routes.into_iter().flatten();
    let found = found.filter(|(key, _)| subnets.contains(&key.destination));
    let sources = found.map(|(_, route)| match route {
        Route::Unicast { source, .. } => *source,
        other => panic!("{other:?}"),
    });
    sources.collect()
}

#[test]
fn a_host_has_part_in_open_networks_and_calls_as_itself() {
    let desired = Desired::of(&config_of_caller(), &ground(Some(1500)));
    assert_eq!(desired.spaces, BTreeMap::new());
    let desired = Desired::of(&open(config_of_caller()), &ground(Some(1500)));
    let own = [ip("192.0.2.1"), ip("fd6e:6574:6401::1")];
    assert_eq!(sources(&desired), own.map(Some));
    let key = AddressKey {
        link: names::uplink_link(Vni::FIRST),
        address: own[1],
    };
    assert!(desired.spaces[&HOST].addresses.contains_key(&key));
    // The way to the task of the other host.
    let routes = &desired.spaces[&NETWORK].routes;
    let to_task = routes
        .keys()
        .any(|key| key.destination.contains(ip("10.0.9.12")));
    assert!(to_task, "{routes:?}");
    // Without its VTEP a host has no such address, and the kernel would refuse the route.
    let desired = Desired::of(&open(config_of_caller()), &ground(None));
    assert_eq!(sources(&desired), [None, None]);
}

#[test]
fn answers_to_callers_leave_by_their_hosts() {
    let mut config = open(config());
    let third = records::peer("h3".to_owned(), ip("192.0.2.3"));
    config.peers.insert(NodeId(3), third);
    let desired = Desired::of(&config, &ground(Some(1500)));
    let marks = crate::desired::published::marks_of_peers(&config);
    assert_eq!(marks.len(), 2);
    let space = &desired.spaces[&NETWORK];
    for mark in marks.values() {
        let ways = space.routes.keys().filter(|key| key.table == *mark);
        assert_eq!(ways.count(), 2, "of both families");
    }
    let mut ports = Ports::default();
    ports.reconcile(&Arc::new(config), &Arc::new(desired));
    let answers = &ports.open.answers[&NetworkId(7)];
    let of = |node: u64, address: &str| (Mac::of_router(NodeId(node)), ip(address));
    let hosts = [
        of(2, "192.0.2.2"),
        of(2, "fd6e:6574:6401::2"),
        of(3, "192.0.2.3"),
        of(3, "fd6e:6574:6401::3"),
    ];
    assert_eq!(answers.hosts, hosts);
    assert_eq!(answers.exposed, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(answers.targets, []);
}

#[test]
fn internal_networks_stay_closed() {
    let config = internal(open(config_of_caller()));
    let desired = Desired::of(&config, &ground(Some(1500)));
    assert_eq!(desired.spaces, BTreeMap::new());
}

#[test]
fn no_network_takes_addresses_of_the_hosts_own_links_away() {
    let lan: model::Subnet = "10.0.0.0/16".parse().unwrap();
    let mut ground = ground(Some(1500));
    ground.on_link = [lan].into();
    let config = open(config_of_caller());
    let desired = Desired::of(&config, &ground);
    assert_eq!(desired.spaces, BTreeMap::new());
    let mut ports = Ports::default();
    ports.reconcile(&Arc::new(config.clone()), &Arc::new(desired.clone()));
    let told: Vec<String> = ports
        .failures
        .iter()
        .map(|failure| failure.why.in_one_line())
        .collect();
    let [told] = &told[..] else {
        panic!("{told:?}")
    };
    for said in ["my-net", "10.0.9.0/24", "10.0.0.0/16", "; next: "] {
        assert!(told.contains(said), "{said} in {told}");
    }
    // Nobody waits for it.
    let status = judge(&config, &desired, &[], Vec::new());
    assert!(status.settled, "{status:?}");
}
