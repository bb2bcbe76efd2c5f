//! What a view asks for: routes, uplinks and families.

use super::*;

/// The task has its endpoint on a second network, of IPv4 only, at this place of its list.
fn with_second(at: usize) -> NodeConfig {
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
    let task = config.tasks.get_mut(&TaskId(1)).unwrap();
    task.endpoints.insert(at, EndpointId(5));
    config
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
fn the_first_endpoint_carries_the_default_route() {
    let config = with_second(1);
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
    let mut config = with_second(0);
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
