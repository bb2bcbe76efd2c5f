//! What is planned where the kernel is not as it should be.

use super::*;

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
            &|value: &mut i64| *value += 9,
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
    let changes: [fn(&mut crate::state::Vxlan); 7] = [
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
