//! What names lead to: aliases, stacks, named ports, tasks that are not ready; and which names are
//! refused.

use std::net::IpAddr;

use model::*;

use crate::fixture::{Cluster, network, service};

fn named(name: &str, aliases: &[&str], stack: Option<&str>) -> ServiceSpec {
    let mut spec = service(name, 1, &["net"]);
    spec.networks[0].aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    spec.stack = stack.map(str::to_owned);
    spec
}

fn record(cluster: &Cluster, name: &str) -> Option<NameConfig> {
    let view = cluster.state.view(NodeId(1));
    let mut names = view.names.iter();
    let found = names.find(|((_, known), _)| known == name);
    found.map(|(_, record)| record.clone())
}

/// The IPv4 addresses of a name, `-` where there is no such name.
fn v4(cluster: &Cluster, name: &str) -> String {
    let Some(record) = record(cluster, name) else {
        return "-".to_owned();
    };
    let v4 = record.addresses.iter().filter(|address| address.is_ipv4());
    v4.map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

fn refused(cluster: &mut Cluster, spec: ServiceSpec) -> Refusal {
    cluster.refuse(Command::Service(ServiceCommand::Create { spec }))
}

#[test]
fn services_that_share_an_alias_share_its_answer() {
    let mut cluster = Cluster::with_network(1);
    let mut rr = named("replica", &["db", "Reader"], None);
    rr.endpoint_mode = EndpointMode::Dnsrr;
    cluster.create_service(named("primary", &["db"], None));
    cluster.create_service(rr);
    cluster.converge();
    let both = |name: &str| {
        v4(&cluster, name)
            .split(' ')
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let of = |names: &[&str]| {
        names
            .iter()
            .map(|name| v4(&cluster, name))
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(
        both("db"),
        of(&["primary", "replica"]),
        "a virtual IP and a task"
    );
    assert_eq!(both("tasks.db"), of(&["primary.1", "replica.1"]));
    assert_eq!(both("reader"), of(&["replica.1"]));
    assert!(
        !record(&cluster, "db").unwrap().canonical,
        "addresses resolve back to the service"
    );
    let mut targets = record(&cluster, "db").unwrap().targets;
    targets.sort();
    assert_eq!(targets, ["primary", "replica.1"]);
}

#[test]
fn a_service_of_a_stack_is_also_called_by_it() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(named("shop-db", &["db"], Some("Shop")));
    cluster.create_service(named("blog-db", &["db"], Some("blog")));
    cluster.converge();
    for (service, stack) in [("shop-db", "shop"), ("blog-db", "blog")] {
        let vip = v4(&cluster, service);
        for name in ["db", service] {
            assert_eq!(v4(&cluster, &format!("{name}.{stack}")), vip);
            assert_eq!(
                v4(&cluster, &format!("tasks.{name}.{stack}")),
                v4(&cluster, &format!("{service}.1"))
            );
            assert_eq!(
                v4(&cluster, &format!("{name}.1.{stack}")),
                v4(&cluster, &format!("{service}.1"))
            );
        }
    }
    assert_eq!(
        v4(&cluster, "db").split(' ').count(),
        2,
        "for those outside of both stacks"
    );
    assert_eq!(v4(&cluster, "db.1"), "-");
}

#[test]
fn a_short_name_is_for_services_of_the_stack_only() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(named("shop-web", &[], Some("shop")));
    cluster.create_service(named("web", &[], None));
    cluster.converge();
    assert_eq!(v4(&cluster, "web.shop"), v4(&cluster, "shop-web"));
    assert_ne!(v4(&cluster, "web"), v4(&cluster, "shop-web"));
}

#[test]
fn a_name_of_another_service_is_no_alias_in_either_order() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_network(network("other", &["10.0.10.0/24"]));
    cluster.create_service(named("db", &["store"], None));
    let refusal = refused(&mut cluster, named("thief", &["DB"], None));
    assert_eq!(refusal.kind, Kind::Conflict);
    assert!(
        refusal.cause.contains("service \"db\"") && refusal.next.contains("alias"),
        "{refusal}"
    );
    assert_eq!(
        refused(&mut cluster, named("store", &[], None)).kind,
        Kind::Conflict
    );
    cluster.create_service(named("shop-web", &[], Some("shop")));
    assert_eq!(
        refused(&mut cluster, named("web", &[], Some("shop"))).kind,
        Kind::Conflict,
        "both are web.shop"
    );
    cluster.create_service(named("same", &["same"], None));
    let mut elsewhere = named("elsewhere", &["db"], None);
    elsewhere.networks[0].network = "other".to_owned();
    cluster.create_service(elsewhere);
}

#[test]
fn aliases_have_dots_and_underscores_from_the_fifth_level_on() {
    let mut cluster = Cluster::at(Level::DISTINCTIONS, 1);
    cluster.create_network(network("net", &["10.0.9.0/24"]));
    for (name, alias, stack) in [
        ("web", "api.example.com", None),
        ("web", "my_alias", None),
        ("web", "api.", None),
        ("shop_web", "api", None),
        ("web", "api", Some("my_shop")),
    ] {
        let refusal = refused(&mut cluster, named(name, &[alias], stack));
        assert_eq!(refusal.kind, Kind::Invalid, "{name} {alias} {stack:?}");
    }
    cluster.raise_to(Level::COMPOUNDS);
    let aliases = ["API.Example.com", "my_alias", "db.example.com."];
    cluster.create_service(named("my_shop_web", &aliases, Some("My_Shop")));
    cluster.converge();
    let vip = v4(&cluster, "my_shop_web");
    for name in ["api.example.com", "my_alias", "db.example.com"] {
        let (in_stack, tasks) = (format!("{name}.my_shop"), format!("tasks.{name}"));
        assert_eq!(v4(&cluster, name), vip, "{name}");
        assert_eq!(v4(&cluster, &in_stack), vip, "{name}");
        assert_eq!(v4(&cluster, &tasks), v4(&cluster, "my_shop_web.1"));
    }
    assert_eq!(
        v4(&cluster, "web.my_shop"),
        vip,
        "as Compose and Swarm call them"
    );
    let record = |name: &str| record(&cluster, name).unwrap();
    assert_eq!(record("api.example.com").targets, ["my_shop_web"]);
    assert!(record("api.example.com").dotted && !record("web.my_shop").dotted);
}

#[test]
fn dotted_aliases_are_shared_and_owned_whatever_their_case() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(named("one", &["db.example.com"], None));
    cluster.create_service(named("two", &["DB.example.com."], None));
    cluster.converge();
    assert_eq!(v4(&cluster, "db.example.com").split(' ').count(), 2);
    let own_stack = refused(&mut cluster, named("three", &["db.shop"], Some("Shop")));
    assert!(own_stack.next.contains("leave .shop out"), "{own_stack}");
}

/// A task of the stack would find it as `db`.
#[test]
fn names_that_end_with_a_stack_are_the_stacks_in_either_order() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_network(network("other", &["10.0.10.0/24"]));
    cluster.create_service(named("web", &["api.example.com"], None));
    let late = refused(&mut cluster, named("shop-db", &[], Some("Com")));
    assert_eq!(late.kind, Kind::Conflict);
    assert!(
        late.cause.contains("\"api.example.com\"") && late.cause.contains("service \"web\""),
        "{late}"
    );
    cluster.create_service(named("shop-db", &[], Some("shop")));
    let thief = refused(&mut cluster, named("thief", &["db.SHOP"], None));
    assert_eq!(thief.kind, Kind::Conflict);
    assert!(!thief.next.is_empty(), "{thief}");
    let mut elsewhere = named("elsewhere", &["db.shop"], None);
    elsewhere.networks[0].network = "other".to_owned();
    cluster.create_service(elsewhere);
}

#[test]
fn tasks_that_are_not_ready_have_names_where_asked_for() {
    for publish_not_ready in [false, true] {
        let mut cluster = Cluster::with_network(1);
        let mut spec = ServiceSpec {
            publish_not_ready,
            ..named("store", &[], None)
        };
        spec.replicas = 2;
        cluster.create_service(spec);
        // Assigned, with their addresses, and nothing heard of them yet.
        cluster.settle();
        let addresses = if publish_not_ready {
            "10.0.9.3 10.0.9.4"
        } else {
            ""
        };
        assert_eq!(v4(&cluster, "tasks.store"), addresses);
        assert_eq!(
            v4(&cluster, "store.2"),
            addresses.split(' ').next_back().unwrap()
        );
        let view = cluster.state.view(NodeId(1));
        assert!(
            view.services
                .values()
                .all(|service| service.real_servers.is_empty()),
            "no traffic by the virtual IP"
        );
        cluster.scale("store", 1);
        assert_eq!(v4(&cluster, "store.2"), "-", "what is to stop has no name");
    }
}

#[test]
fn named_ports_are_told_with_where_they_lead() {
    let mut cluster = Cluster::with_network(1);
    let http = NamedPort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    cluster.create_service(ServiceSpec {
        ports: vec![http.clone()],
        ..named("web", &["www"], None)
    });
    cluster.converge();
    for (name, targets) in [
        ("web", &[][..]),
        ("tasks.web", &["web.1"]),
        ("web.1", &[]),
        ("www", &["web"]),
    ] {
        let record = record(&cluster, name).unwrap();
        assert_eq!(
            (record.ports, record.targets),
            (
                vec![http.clone()],
                targets.iter().map(|t| t.to_string()).collect()
            )
        );
    }
}

#[test]
fn senseless_names_ports_and_resolver_settings_are_refused() {
    let mut cluster = Cluster::with_network(1);
    for alias in [
        "",
        "a..b",
        "-a",
        "tasks",
        "Tasks",
        "tasks.db",
        "web.1",
        "10.0.0.1",
        "_http._tcp.web",
        "1.0.0.10.in-addr.arpa",
        &"x".repeat(64),
        "a b",
        "ü",
    ] {
        assert_eq!(
            refused(&mut cluster, named("web", &[alias], None)).kind,
            Kind::Invalid,
            "{alias}"
        );
    }
    for stack in ["", "3", "a.b", "-", "_a"] {
        assert_eq!(
            refused(&mut cluster, named("web", &[], Some(stack))).kind,
            Kind::Invalid,
            "{stack}"
        );
    }
    let port = |name: &str, port| NamedPort {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        port,
    };
    let long = "a".repeat(16);
    for ports in [
        vec![port("", 80)],
        vec![port("80", 80)],
        vec![port("_http", 80)],
        vec![port("a--b", 80)],
        vec![port(&long, 80)],
        vec![port("http", 0)],
        vec![port("http", 80), port("HTTP", 81)],
    ] {
        let spec = ServiceSpec {
            ports: ports.clone(),
            ..named("web", &[], None)
        };
        assert_eq!(refused(&mut cluster, spec).kind, Kind::Invalid, "{ports:?}");
    }
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let servers = |servers: &[&str]| {
        servers
            .iter()
            .map(|server| server.parse().unwrap())
            .collect()
    };
    let none = DnsConfig::default;
    for dns in [
        DnsConfig {
            servers: servers(&["0.0.0.0"]),
            ..none()
        },
        DnsConfig {
            servers: servers(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]),
            ..none()
        },
        DnsConfig {
            search: texts(&["example.org\nnameserver 1.2.3.4"]),
            ..none()
        },
        DnsConfig {
            search: texts(&["a..b"]),
            ..none()
        },
        DnsConfig {
            options: texts(&["ndots:1 timeout:1"]),
            ..none()
        },
        DnsConfig {
            options: texts(&[""]),
            ..none()
        },
    ] {
        let mut spec = named("web", &[], None);
        spec.task.dns = dns.clone();
        let refusal = refused(&mut cluster, spec);
        assert!(
            refusal.kind == Kind::Invalid && !refusal.next.is_empty(),
            "{dns:?}"
        );
    }
}
