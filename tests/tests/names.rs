//! Names through the public interface, asked by the resolvers that people's programs have.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tests::{
    Lab, binaries,
    cni::{Runtime, addresses, eth0},
    docker::{Engines, SLEEP},
    eventually, holds, run,
};

const NET: &str = "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net";

fn dig(lab: &Lab, task: &str, line: &str) -> String {
    let words: Vec<&str> = ["dig", "+tries=1", "+time=5"]
        .into_iter()
        .chain(line.split_whitespace())
        .collect();
    lab.inside("h1", task, &words).ok()
}

fn short(lab: &Lab, task: &str, line: &str) -> BTreeSet<String> {
    dig(lab, task, &format!("+short {line}"))
        .lines()
        .map(str::to_owned)
        .collect()
}

fn all(lab: &Lab, task: &str, names: &[&str]) -> BTreeSet<String> {
    names
        .iter()
        .flat_map(|name| short(lab, task, name))
        .collect()
}

/// A program of Python that is part of these tests.
fn program(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/names")
        .join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_service_has_aliases_a_stack_and_named_ports() {
    let lab = Lab::up(2);
    lab.ctl("h1", NET).ok();
    let create = |line: &str| lab.ctl("h1", &format!("service create {line} -- sleep infinity"));
    create("--name one --network name=my-net,alias=data,alias=pg --port name=pg,target=5432").ok();
    create("--name two --network name=my-net,alias=data --endpoint-mode dnsrr --replicas 2").ok();
    create("--name shop-db --stack shop --network name=my-net,alias=store").ok();
    create("--name blog-db --stack blog --network name=my-net,alias=store").ok();
    create("--name shop-shell --stack shop --network my-net").ok();
    let shell = "shop-shell.1";
    let all = |names: &[&str]| all(&lab, shell, names);
    assert_eq!(
        all(&["data"]),
        all(&["one", "tasks.two"]),
        "those who share an alias share its answer"
    );
    assert_eq!(
        all(&["tasks.data.my-net"]),
        all(&["one.1", "two.1", "two.2"])
    );
    assert_eq!(all(&["pg AAAA"]), all(&["one.my-net AAAA"]));
    assert_eq!(all(&["store"]), all(&["shop-db"]), "its own stack's");
    assert_eq!(
        all(&["store.blog", "db.shop"]),
        all(&["blog-db", "shop-db"])
    );
    assert_eq!(
        short(&lab, "one.1", "store"),
        all(&["shop-db", "blog-db"]),
        "outside of both stacks"
    );
    assert_eq!(
        all(&["_pg._tcp.one SRV"]),
        BTreeSet::from(["0 1 5432 one.my-net.".to_owned()])
    );
    assert_eq!(
        all(&["_pg._tcp.tasks.data SRV"]),
        BTreeSet::from(["0 1 5432 one.1.my-net.".to_owned()])
    );
    assert_eq!(
        all(&["one NS"]),
        BTreeSet::from(["_dns.my-net.".to_owned()])
    );
    let vip = all(&["two"]);
    assert_eq!(vip.len(), 2);
    let answer = dig(&lab, shell, "one A");
    let ttl = answer.lines().find_map(|line| {
        line.strip_prefix("one.")?
            .split_whitespace()
            .next()?
            .parse::<u32>()
            .ok()
    });
    assert!(ttl.is_some_and(|ttl| ttl <= 5), "{answer}");
    assert!(dig(&lab, shell, "one ANY").contains("RFC8482"));

    for (line, cause) in [
        (
            "--name three --network name=my-net,alias=one",
            "\"one\" means service \"one\"",
        ),
        ("--name pg --network my-net", "\"pg\" means service \"one\""),
        ("--name three --network name=my-net,alias=tasks", "reserved"),
        ("--name three --network my-net --stack 3", "is a number"),
        (
            "--name three --network my-net --port name=80,target=80",
            "no name of a port",
        ),
    ] {
        let refusal = create(line).refused();
        assert!(
            refusal.contains(cause) && refusal.contains("next:"),
            "{line}: {refusal}"
        );
    }
    let shown = lab.json("h1", "service inspect one").remove(0);
    assert_eq!(shown["spec"]["networks"][0]["aliases"][0], "data");
    assert_eq!(shown["spec"]["ports"][0]["port"], 5432);

    // All of it changes for tasks that run on, and holds on every host once the command is back.
    let task = lab.running("h1", "one").remove(0);
    let flags =
        "--alias-add my-net=late --alias-rm my-net=pg --stack shop --port-add name=pg,target=5433";
    lab.ctl("h2", &format!("service update {flags} one")).ok();
    let one = all(&["one"]);
    assert_eq!(
        (all(&["late"]), all(&["pg"]), all(&["one.shop"])),
        (one.clone(), BTreeSet::new(), one)
    );
    assert_eq!(
        all(&["_pg._tcp.one SRV"]),
        BTreeSet::from(["0 1 5433 one.my-net.".to_owned()])
    );
    let refusal = lab
        .ctl("h1", "service update --alias-add my-net=two one")
        .refused();
    assert!(
        refusal.contains("\"two\" means service \"two\"") && refusal.contains("next:"),
        "{refusal}"
    );
    assert_eq!(lab.running("h1", "one").remove(0)["id"], task["id"]);
    // What stands in a task's resolv.conf needs another task.
    lab.ctl(
        "h1",
        "service update --dns-search-add corp.example --dns-option-add timeout:3 one",
    )
    .ok();
    let conf = lab.inside("h1", "one.1", &["cat", "/etc/resolv.conf"]).ok();
    assert!(
        conf.contains("search corp.example") && conf.contains("timeout:3"),
        "{conf}"
    );
}

/// Starts a resolver on h1, which all hosts ask from now on: any name is 192.0.2.77.
fn knows_every_name(engines: &Engines) -> Child {
    let lab = &engines.lab;
    let nodes = lab.json("h1", "node ls");
    let h1 = nodes.iter().find(|node| node["hostname"] == "h1");
    let address = h1.unwrap()["vtep"].as_str().unwrap().to_owned();
    let words = ["/usr/bin/python3", "-c", include_str!("names/server.py")];
    let command = &mut lab.command("h1", &words);
    let resolver = command.stdout(Stdio::null()).spawn().unwrap();
    for node in &nodes {
        let host = node["hostname"].as_str().unwrap();
        engines.asks(host, &address);
        eventually("it answers", || {
            let said = lab.exec(host, &["dig", "+short", "any.example"]);
            holds(said.out.trim() == "192.0.2.77", said)
        });
    }
    resolver
}

#[test]
fn dotted_names_are_found_on_every_host_before_those_outside() {
    let engines = Engines::on_my_net(2);
    let lab = &engines.lab;
    let mut outside = knows_every_name(&engines);
    let create = |line: &str| lab.ctl("h1", &format!("service create {line} -- sleep infinity"));
    let aliases = "name=my-net,alias=api.example.com,alias=My_Alias,alias=cache.example.com.";
    create(&format!("--name shop_web --stack shop --network {aliases}")).ok();
    create("--name shell --network my-net").ok();

    let run = "run -d --name db.example.com --network my-net --network-alias Ldap.example.com \
               --network-alias under_score --network-alias dot.example.com. --network-alias \
               tasks.web --label netd.alias=b.c";
    engines.docker("h1", &format!("{run} {SLEEP}")).ok();
    engines
        .docker(
            "h2",
            &format!("run -d --name asker --network my-net {SLEEP}"),
        )
        .ok();
    let db = engines
        .addresses("h1", "db.example.com", "my-net")
        .remove(0);
    let pod = Runtime {
        arguments: "K8S_POD_NAME=etcd-node1.example.com;K8S_POD_NAMESPACE=kube-system",
        ..Runtime::new(lab, "h2", "my-net")
    };
    let pod = pod.with(json!({ "aliases": ["x.y.z", "web.1"] }));
    let added = pod.add(eth0("c1"));
    let etcd = addresses(&added).remove(0);

    let web = short(lab, "shell.1", "shop_web").pop_first().unwrap();
    let expected = [
        ("shop_web", &web),
        ("web.shop", &web),
        ("api.example.com", &web),
        ("API.Example.com.my-net", &web),
        ("my_alias", &web),
        ("cache.example.com", &web),
        ("api.example.com.shop", &web),
        ("db.example.com", &db),
        ("ldap.example.com", &db),
        ("under_score", &db),
        ("dot.example.com", &db),
        ("b.c", &db),
        ("etcd-node1.example.com-kube-system", &etcd),
        ("x.y.z", &etcd),
    ];
    for (name, address) in expected {
        eventually(name, || {
            let found = short(lab, "shell.1", name);
            holds(found == BTreeSet::from([address.clone()]), found)
        });
        let seen = engines.inside("h2", "asker", &format!("nslookup {name} 127.0.0.11"));
        assert!(
            seen.out.contains(address.as_str()) && !seen.out.contains("192.0.2.77"),
            "{name}, {address}: {seen:?}"
        );
    }
    let whole = format!("-x {db}");
    assert_eq!(
        short(lab, "shell.1", &whole),
        BTreeSet::from(["db.example.com.my-net.".to_owned()])
    );
    assert_eq!(
        short(lab, "shell.1", "www.example.com"),
        BTreeSet::from(["192.0.2.77".to_owned()]),
        "what is not ours is asked outside"
    );

    // What cannot be is refused, or told where the container is.
    for (line, cause) in [
        ("--name one --network name=my-net,alias=web.1", "replica"),
        (
            "--name one --network name=my-net,alias=a..b",
            "no name of DNS",
        ),
        (
            "--name one --network name=my-net,alias=db.SHOP",
            "stack \"shop\"",
        ),
        (
            "--name one --stack com --network my-net",
            "\"api.example.com\"",
        ),
    ] {
        let refusal = create(line).refused();
        assert!(
            refusal.contains(cause) && refusal.contains("next:"),
            "{line}: {refusal}"
        );
    }
    for (host, container, name) in [
        ("h1", "container db.example.com", "tasks.web"),
        (
            "h2",
            "container etcd-node1.example.com-kube-system",
            "web.1",
        ),
    ] {
        let node = lab.json("h2", &format!("node inspect {host}")).remove(0);
        let causes = node["causes"].as_array().unwrap().clone();
        assert!(
            causes.len() == 1
                && causes[0]["object"] == container
                && causes[0]["cause"].as_str().unwrap().contains(name)
                && causes[0]["next"] != "",
            "{causes:?}"
        );
        let events = lab
            .ctl("h1", "events --since 1h --until 0s --filter type=container")
            .ok();
        let told = format!("a name of it does not resolve on network \"my-net\": \"{name}\"");
        assert!(events.contains(&told), "{events}");
    }
    outside.kill().unwrap();
    outside.wait().unwrap();
}

/// A directory with the small `program` against musl, without any library.
fn musl() -> PathBuf {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("musl-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let source = self::program("musl.c");
    run(Command::new("musl-gcc")
        .args(["-static", "-o"])
        .arg(directory.join("program"))
        .arg(source))
    .ok();
    directory
}

#[test]
fn c_libraries_and_stubs_find_every_name() {
    let lab = Lab::up(2);
    let musl = musl();
    ["h1", "h2"].iter().for_each(|host| lab.show(host, &musl));
    lab.ctl("h1", NET).ok();
    let create = |line: &str| {
        lab.ctl("h1", &format!("service create {line} -- sleep infinity"))
            .ok()
    };
    create("--name web --replicas 2 --network name=my-net,alias=www --stack shop");
    // More than fit into a datagram of those who do not know EDNS.
    create("--name many --replicas 32 --network my-net --endpoint-mode dnsrr");
    create("--name shell --network my-net --dns-search corp.example --rootfs host");
    let names = [
        "web",
        "WWW",
        "tasks.web",
        "web.2",
        "web.my-net",
        "web.shop",
        "tasks.many",
        "nosuch.web.my-net",
    ];
    let expected = |name: &str| {
        let both = [format!("{name} A"), format!("{name} AAAA")];
        both.iter()
            .flat_map(|line| short(&lab, "shell.1", line))
            .collect::<BTreeSet<String>>()
    };
    let cares = include_str!("names/cares.py");
    let clients: [(&str, Vec<&str>); 3] = [
        ("glibc", vec!["/usr/bin/python3", "-c", cares, "glibc"]),
        ("c-ares", vec!["/usr/bin/python3", "-c", cares, "cares"]),
        ("musl", vec!["/mnt/program"]),
    ];
    for (client, words) in clients {
        let said = lab
            .inside("h1", "shell.1", &[&words[..], &names].concat())
            .ok();
        for name in &names[..names.len() - 1] {
            let line = said
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")))
                .unwrap_or_default();
            let found: BTreeSet<String> = line.split(' ').map(str::to_owned).collect();
            let expected = expected(name);
            // musl 1.2.3 has no TCP: it takes what the first datagram has, in each family.
            let is_cut = client == "musl"
                && *name == "tasks.many"
                && found.is_subset(&expected)
                && found.len() > 40;
            assert!(
                found == expected || is_cut,
                "{client}: {name}: {found:?} is not {expected:?}"
            );
        }
        assert!(
            said.lines().last().unwrap().contains("error"),
            "{client}: {said}"
        );
    }
    std::fs::remove_dir_all(&musl).unwrap();
    // busybox asks by itself.
    let said = lab
        .inside("h1", "shell.1", &["busybox", "nslookup", "web.my-net"])
        .ok();
    assert!(
        expected("web").iter().all(|address| said.contains(address)),
        "{said}"
    );
}

#[test]
fn a_service_has_its_own_resolvers_but_not_on_internal_ones() {
    let lab = Lab::up(2);
    lab.ctl("h1", NET).ok();
    lab.ctl("h1", "network create --internal --subnet 10.0.8.0/24 vault")
        .ok();
    let create = "swarmctl service create --name upstream --network my-net --network vault -- \
                  /usr/bin/python3 -c";
    let create = create
        .split(' ')
        .chain([include_str!("names/server.py")])
        .collect::<Vec<_>>();
    lab.exec("h1", &create).ok();
    let task = lab.running("h1", "upstream").remove(0);
    let address = |prefix: &str| {
        let addresses = task["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|address| address.as_str().unwrap());
        addresses
            .clone()
            .find(|address| address.starts_with(prefix))
            .unwrap()
            .to_owned()
    };
    let create = |name: &str, network: &str, prefix: &str| {
        let options = format!(
            "--dns {} --dns-search corp.example --dns-option timeout:3 --dns-option ndots:1",
            address(prefix)
        );
        lab.ctl(
            "h1",
            &format!(
                "service create --name {name} --network {network} {options} -- sleep infinity"
            ),
        )
        .ok();
    };
    create("asker", "my-net", "10.0.9.");
    create("locked", "vault", "10.0.8.");
    let conf = lab
        .inside("h1", "asker.1", &["cat", "/etc/resolv.conf"])
        .ok();
    assert!(
        conf.contains("nameserver 10.0.9.1\n"),
        "the resolver is ours: {conf}"
    );
    assert!(
        conf.contains("\nsearch corp.example\n") && conf.contains("\noptions timeout:3 ndots:1\n"),
        "{conf}"
    );
    eventually("its own resolver is asked, from inside the task", || {
        let found = short(&lab, "asker.1", "www.example.org");
        holds(found == BTreeSet::from(["192.0.2.77".to_owned()]), found)
    });
    assert!(
        !short(&lab, "asker.1", "upstream").contains("192.0.2.77"),
        "ours are not asked elsewhere"
    );
    let refused = dig(&lab, "locked.1", "secret.example.org");
    assert!(
        refused.contains("status: NXDOMAIN") && refused.contains("the network is internal"),
        "{refused}"
    );
    let log = lab.ctl("h1", "service logs upstream").ok();
    assert!(
        log.contains("asked www.example.org 1") && !log.contains("secret"),
        "{log}"
    );
}

/// A certificate for dns.example.net and its key, and a netd that trusts it and asks its server.
fn encrypted(directory: &Path) -> [PathBuf; 2] {
    let [certificate, netd] = ["dns.pem", "netd"].map(|name| directory.join(name));
    let key = KeyPair::generate().unwrap();
    let named = CertificateParams::new(vec!["dns.example.net".to_owned()]).unwrap();
    let pem = named.self_signed(&key).unwrap().pem();
    fs::write(&certificate, pem + &key.serialize_pem()).unwrap();
    let script = format!(
        "#!/bin/sh\nexport SSL_CERT_FILE={}\nexec {}/netd --dns tls://127.0.0.1#dns.example.net\n",
        certificate.display(),
        binaries().display(),
    );
    fs::write(&netd, script).unwrap();
    fs::set_permissions(&netd, fs::Permissions::from_mode(0o755)).unwrap();
    [certificate, netd]
}

#[test]
fn a_host_asks_resolvers_over_tls_where_its_netd_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, netd] = encrypted(directory.path());
    let lab = Lab::up_with(1, &[("h1", &netd)]);
    lab.ctl("h1", NET).ok();
    lab.ctl(
        "h1",
        "service create --name shell --network my-net -- sleep infinity",
    )
    .ok();
    let refused = dig(&lab, "shell.1", "www.example.org");
    assert!(
        refused.contains("status: SERVFAIL") && refused.contains("tls://127.0.0.1:853#dns"),
        "nobody listens there yet: {refused}"
    );
    let certificate = certificate.to_str().unwrap();
    let script = include_str!("names/tls.py");
    let words = ["/usr/bin/python3", "-c", script, certificate];
    let mut server = lab.command("h1", &words).spawn().unwrap();
    eventually("it is asked over TLS", || {
        let found = short(&lab, "shell.1", "www.example.org");
        holds(found == BTreeSet::from(["192.0.2.78".to_owned()]), found)
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let mut wrong = Command::new(binaries().join("netd"));
    let refused = run(wrong.args(["--dns", "tls://dns.example.net"])).refused();
    assert!(
        refused.contains("it has no address: write 192.0.2.1, or tls://"),
        "{refused}"
    );
}

#[test]
fn tasks_that_are_not_well_have_names_where_asked_for() {
    let lab = Lab::up(1);
    lab.ctl("h1", NET).ok();
    lab.ctl(
        "h1",
        "service create --name shell --network my-net -- sleep infinity",
    )
    .ok();
    for (name, flag) in [("open", "--dns-publish-not-ready"), ("shut", "")] {
        let health = "--health-cmd false --health-interval 1s --health-start-period 10m";
        let create = format!(
            "service create --detach --name {name} --replicas 2 --network my-net {flag} {health}"
        );
        lab.ctl("h1", &format!("{create} -- sleep infinity")).ok();
    }
    eventually(
        "members of a store find each other before they are well",
        || {
            let found = (
                short(&lab, "shell.1", "tasks.open"),
                short(&lab, "shell.1", "open.2"),
            );
            holds(
                found.0.len() == 2 && found.1.is_subset(&found.0) && found.1.len() == 1,
                found,
            )
        },
    );
    assert_eq!(
        all(&lab, "shell.1", &["tasks.shut", "shut.1", "shut.2"]),
        BTreeSet::new(),
        "others are not named yet"
    );
    assert_eq!(
        short(&lab, "shell.1", "shut").len(),
        1,
        "a virtual IP has its name from the beginning"
    );
}

/// The connections that are tracked in a host's namespaces of this kind.
fn tracked(lab: &Lab, namespaces: &str) -> String {
    let each = "while read ns; do ip netns exec $ns conntrack -L 2>/dev/null; done";
    lab.exec(
        "h1",
        &[
            "sh",
            "-c",
            &format!("ip netns list | cut -d' ' -f1 | grep {namespaces} | {each}; true"),
        ],
    )
    .ok()
}

#[test]
fn questions_make_no_connections() {
    let lab = Lab::tour(1);
    let lan = "network create --driver macvlan --opt parent=eth0 --subnet 192.168.100.0/24 \
               --ip-range 192.168.100.128/25 lan";
    lab.ctl("h1", lan).ok();
    lab.ctl(
        "h1",
        "service create --name near --network lan -- netd whoami --port 80",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name lonely --network lan -- sleep infinity",
    )
    .ok();
    for (task, service, namespaces) in [
        ("shell.1", "web", "-v netd-t-"),
        ("lonely.1", "near", "netd-t-"),
    ] {
        lab.inside("h1", task, &["curl", "-sS", &format!("http://{service}/")])
            .ok();
        for way in ["+notcp", "+tcp"] {
            dig(&lab, task, &format!("{way} {service}"));
        }
        let tracked = tracked(&lab, namespaces);
        assert!(
            tracked.contains("dport=80"),
            "connections to virtual IPs are tracked: {tracked}"
        );
        assert!(
            !tracked.contains("dport=53 ") && !tracked.contains("dport=31053"),
            "{tracked}"
        );
    }
}

#[test]
fn names_answer_within_a_second_of_kill_9_without_managers() {
    let lab = Lab::planned();
    run(lab.verb("up").args(["--hosts", "2", "--managers", "1"])).ok();
    lab.ctl("h1", NET).ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --network my-net -- sleep infinity",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name shell --replicas 2 --network my-net -- sleep infinity",
    )
    .ok();
    let shell = lab
        .running("h1", "shell")
        .into_iter()
        .find(|task| task["node"] == "h2")
        .unwrap();
    let (watch, sandbox) = (
        program("watch.py"),
        format!("netd-t-{}", shell["id"].as_str().unwrap()),
    );
    run(lab.verb("kill").arg("h1")).ok();
    let silences = [(); 3].map(|()| {
        let words = [
            "ip",
            "netns",
            "exec",
            &sandbox,
            "timeout",
            "5",
            "/usr/bin/python3",
            &watch,
            "web",
            "10.0.9.1",
        ];
        let watching = lab
            .command("h2", &words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(1));
        run(lab.verb("crash").arg("h2")).ok();
        let said = String::from_utf8(watching.wait_with_output().unwrap().stdout).unwrap();
        silence(&said)
            .unwrap_or_else(|| panic!("the daemon was not gone, or did not return: {said}"))
    });
    // A busy machine may be slow once.
    assert!(
        silences.iter().min().unwrap() < &1_000,
        "milliseconds without answers: {silences:?}"
    );
}

/// How long `watch.py` got no answer between two that were the same.
fn silence(said: &str) -> Option<u64> {
    let lines: Vec<(u64, &str)> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(at, found)| (at.parse().unwrap(), found))
        .collect();
    let gone = lines
        .iter()
        .position(|(_, found)| *found == "?")
        .filter(|gone| *gone > 0)?;
    let back = lines[gone..]
        .iter()
        .find(|(_, found)| *found == lines[gone - 1].1)?;
    Some(back.0 - lines[gone].0)
}
