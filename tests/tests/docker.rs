//! Docker Engine on networks of the cluster, driven by its own command line: several engines, one
//! per host.

use std::{collections::BTreeSet, process::Stdio};

use serde_json::Value;
use tests::{
    binaries,
    docker::{ATTACH, DOCKER, Docker, Engines, SLEEP, SUBNETS, kill},
    eventually, field, holds, run,
};

#[test]
fn containers_of_all_hosts_are_endpoints_like_any_other() {
    let engines = Engines::up(3);
    let (lab, docker) = (&engines.lab, |host: &str, line: &str| {
        engines.docker(host, line)
    });
    lab.ctl(
        "h1",
        &format!("network create --attachable {SUBNETS} my-net"),
    )
    .ok();
    lab.ctl("h1", "network create closed").ok();
    lab.ctl(
        "h1",
        "service create --name web --network my-net -- netd whoami --port 80",
    )
    .ok();

    // What is attached is the cluster's network, and what is said of it must hold.
    for (wrong, cause) in [
        ("-o netd.network=none", "there is no network"),
        ("-o netd.network=closed", "not attachable"),
        (
            "-o netd.network=my-net --subnet 10.1.0.0/16",
            "has not the subnet 10.1.0.0/16",
        ),
        (
            "-o netd.network=my-net --subnet 10.0.9.0/24 --gateway 10.0.9.7",
            "the gateway of 10.0.9.0/24 is 10.0.9.1",
        ),
        ("-o netd.network=my-net --internal", "it has a way out"),
        (
            "-o netd.network=my-net -o encrypted",
            "encrypted= does not match",
        ),
        (
            "--subnet 10.0.9.0/24",
            "attach that one with -o netd.network=my-net",
        ),
        ("-o driver=ipvlan -o parent=eth0", "use a macvlan network"),
    ] {
        let said = docker("h1", &format!("{ATTACH} {wrong} wrong")).refused();
        assert!(said.contains(cause), "{wrong}: {said}");
    }
    let said = docker("h1", "network create -d netd -o netd.network=my-net wrong").refused();
    assert!(said.contains("--ipam-driver netd"), "{said}");
    docker("h1", &format!("{ATTACH} -o netd.network=my-net my-net")).ok();
    let ranges = "--ip-range 10.0.9.128/26 --ip-range fd00:9::8000/113";
    docker(
        "h2",
        &format!("{ATTACH} -o netd.network=my-net --ipv6 {SUBNETS} {ranges} my-net"),
    )
    .ok();
    docker(
        "h3",
        &format!("{ATTACH} -o netd.network=my-net --ipam-opt netd.network=my-net --ipv6 my-net"),
    )
    .ok();

    docker("h1", &format!("run -d --name one --network my-net {SLEEP}")).ok();
    let fixed = "--ip 10.0.9.50 --ip6 fd00:9::50 --mac-address 02:42:0a:00:09:32 --network-alias \
                 bee --network-alias two.two";
    docker(
        "h2",
        &format!("run -d --name two --network my-net {fixed} {SLEEP}"),
    )
    .ok();
    docker(
        "h3",
        &format!("run -d --name three --network my-net --network-alias bee {SLEEP}"),
    )
    .ok();
    assert_eq!(
        engines.addresses("h2", "two", "my-net"),
        ["10.0.9.50", "fd00:9::50"]
    );
    let of_both = engines.addresses("h1", "one", "my-net");
    assert_eq!(of_both.len(), 2, "without --ipv6, too: {of_both:?}");
    docker(
        "h2",
        &format!("run -d --name ranged --network my-net {SLEEP}"),
    )
    .ok();
    assert_eq!(
        engines.addresses("h2", "ranged", "my-net"),
        ["10.0.9.128", "fd00:9::8000"],
        "out of the host's ranges"
    );
    assert_ne!(engines.addresses("h3", "three", "my-net")[0], "10.0.9.129");
    docker("h2", "rm -f ranged").ok();
    // Two networks of an engine may be one of the cluster's: their pools are the same, and stay
    // while either does.
    docker(
        "h3",
        &format!("{ATTACH} -o netd.network=my-net {SUBNETS} --ipv6 twin"),
    )
    .ok();
    docker(
        "h3",
        &format!("{ATTACH} -o netd.network=my-net {SUBNETS} --ipv6 twins"),
    )
    .ok();
    docker("h3", "network rm twin").ok();
    docker(
        "h3",
        "run --rm --network twins --ip 10.0.9.60 busybox /bin/busybox ping -c 1 -W 5 10.0.9.50",
    )
    .ok();
    docker("h3", "network rm twins").ok();
    assert!(
        engines
            .inside("h2", "two", "ip link show eth0")
            .ok()
            .contains("02:42:0a:00:09:32")
    );
    for taken in ["--ip 10.0.9.50", "--ip 10.0.9.1"] {
        let said = docker("h2", &format!("run -d --network my-net {taken} {SLEEP}"));
        assert!(said.code != 0 && said.err.contains("10.0.9."), "{said:?}");
    }
    // One Ethernet address on the whole network, and whoever asks for it again does the first no
    // harm.
    for (host, wish, cause) in [
        (
            "h2",
            "--mac-address 02:42:0a:00:09:32",
            "is that of another endpoint",
        ),
        ("h2", fixed, "is that of another endpoint"),
        (
            "h3",
            "--mac-address 02:42:0a:00:09:32",
            "is that of docker container",
        ),
        (
            "h3",
            "--mac-address ff:ff:ff:ff:ff:ff",
            "is no address of an interface",
        ),
    ] {
        let said = docker(host, &format!("run -d --network my-net {wish} {SLEEP}"));
        assert!(
            said.code != 0 && said.err.contains(cause),
            "{host} {wish}: {said:?}"
        );
        docker(host, "container prune -f").ok();
    }

    // Names of containers and services, from containers and tasks; Docker's own resolver passes on
    // what it does not know.
    for (host, from) in [("h1", "one"), ("h2", "two"), ("h3", "three")] {
        for to in ["one", "two", "three", "web.1", "web"] {
            engines.reaches_soon(host, from, to);
        }
        let page = engines
            .inside(host, from, "wget -q -O - http://web.my-net/")
            .ok();
        assert_eq!(field(&page, "task"), ["web.1"], "{page}");
    }
    engines.reaches("h3", "three", "fd00:9::50");
    engines.reaches("h1", "one", "fd00:9::50");
    engines.reaches("h2", "two", &of_both[1]);
    engines.reaches("h2", "two", &engines.addresses("h3", "three", "my-net")[1]);
    let bees = lab.inside("h1", "web.1", &["dig", "+short", "bee"]).ok();
    let three = engines.addresses("h3", "three", "my-net").remove(0);
    assert_eq!(
        bees.lines().collect::<BTreeSet<_>>(),
        ["10.0.9.50", three.as_str()].into()
    );
    engines.is_clean("my-net", &[("h1", "one"), ("h2", "two"), ("h3", "three")]);

    ports_and_backends(&engines);
    comings_and_goings(&engines);
}

/// Containers serve ports of their host, and services.
fn ports_and_backends(engines: &Engines) {
    let lab = &engines.lab;
    let fetched = |host: &str, url: &str| lab.exec(host, &["curl", "-sS", "-m", "3", url]);
    engines
        .serve(
            "h1",
            "port",
            &["-p", "8080-8081:80-81", "-p", "127.0.0.1:8082:80"],
        )
        .ok();
    for (host, url) in [
        ("h1", "127.0.0.1:8080"),
        ("h1", "127.0.0.1:8082"),
        ("h2", "192.168.100.11:8080"),
    ] {
        eventually(url, || {
            let said = fetched(host, url);
            holds(said.out == "port\n", said)
        });
    }
    assert_ne!(fetched("h2", "192.168.100.11:8082").code, 0);
    // They lead to it whichever of its networks is its way out: of two the first by name.
    engines.docker("h1", &format!("{ATTACH} another")).ok();
    for verb in ["connect", "disconnect"] {
        engines
            .docker("h1", &format!("network {verb} another port"))
            .ok();
        eventually("the port still leads there", || {
            let said = fetched("h2", "192.168.100.11:8080");
            holds(said.out == "port\n", said)
        });
    }
    engines.docker("h1", "network rm another").ok();
    let said = engines.serve("h1", "second", &["-p", "8081:80"]);
    assert!(said.code != 0 && said.err.contains("8081"), "{said:?}");
    // Where the user leaves the host's port open netd chooses one, and the cluster tells which.
    for (name, open) in [
        ("third", &["-p", "80"][..]),
        ("fourth", &["--expose", "80", "-P"]),
        ("fifth", &["-p", "8081-8084:80"]),
    ] {
        engines.serve("h1", name, open).ok();
        let publish = eventually("it is known by name", || {
            let endpoints = engines.endpoints("my-net");
            let mut named = endpoints.iter().filter(|endpoint| endpoint["name"] == name);
            let found = named.next().map(|endpoint| endpoint["publish"][0].clone());
            found.ok_or_else(|| format!("{endpoints:?}"))
        });
        assert_eq!(publish["target"], 80, "{publish:?}");
        let chosen = publish["published"].as_u64().expect("a port");
        assert!(
            if name == "fifth" {
                (8082..=8084).contains(&chosen)
            } else {
                chosen >= 49_152
            },
            "8081 is taken: {chosen}"
        );
        for host in ["127.0.0.1", "[::1]"] {
            eventually(name, || {
                let said = fetched("h1", &format!("{host}:{chosen}"));
                holds(said.out == format!("{name}\n"), said)
            });
        }
        let told = lab.ctl("h1", "network inspect my-net -o table").ok();
        assert!(told.contains(&format!("*:{chosen}->80/tcp")), "{told}");
    }
    engines
        .docker("h1", "rm -f port second third fourth fifth")
        .ok();
    eventually("the port is free again", || {
        holds(fetched("h1", "127.0.0.1:8080").code != 0, "")
    });

    // An address of no host is all of one family.
    let of_one = ["-p", "0.0.0.0:8095:80", "-p", "[::]:8096:80"];
    engines.serve("h1", "of-one", &of_one).ok();
    eventually("IPv4 is open", || {
        let said = fetched("h1", "127.0.0.1:8095");
        holds(said.out == "of-one\n", said)
    });
    for closed in ["[::1]:8095", "127.0.0.1:8096"] {
        let said = fetched("h1", closed);
        assert_eq!(said.code, 7, "{closed}: {said:?}");
    }
    // Of too many aliases those beyond are left out, and the host says so.
    let aliases: Vec<String> = (1..=70)
        .map(|number| format!("--network-alias=also-{number}"))
        .collect();
    let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
    engines.serve("h1", "many", &aliases).ok();
    engines.reaches_soon("h1", "one", "many");
    eventually("the host names what it has left out", || {
        let said = lab.ctl("h2", "node inspect h1 -o json");
        holds(said.out.contains("it has 70 aliases on one network"), said)
    });
    eventually("and it is an event", || {
        let said = lab.ctl("h2", "events --since 1h --until 0s --filter type=node");
        let told = "lacks: container many: it has 70 aliases on one network";
        holds(
            said.out.contains(told) && said.out.contains("fewer --network-alias"),
            said,
        )
    });
    engines.docker("h1", "rm -f of-one many").ok();

    // Backends of a service: ready ones only.
    lab.ctl(
        "h1",
        "service create --name shop --external --network my-net",
    )
    .ok();
    let joined = ["--label", "netd.service=shop"];
    engines
        .serve(
            "h2",
            "s1",
            &[&joined[..], &["--label", "netd.port=http=80"]].concat(),
        )
        .ok();
    let check = [
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
        "--health-cmd",
        "/bin/busybox test -e /well",
    ];
    engines
        .serve("h3", "s2", &[&joined[..], &check].concat())
        .ok();
    let ask = "for i in 1 2 3 4 5 6 7 8; do /bin/busybox wget -q -O - http://shop/; done";
    let by = |expected: &[&str]| {
        eventually(&format!("{expected:?} serve"), || {
            let said = lab.exec(
                "h1",
                &[DOCKER, "exec", "one", "/bin/busybox", "sh", "-c", ask],
            );
            holds(
                said.out.lines().collect::<BTreeSet<_>>() == expected.iter().copied().collect(),
                said,
            )
        });
    };
    by(&["s1"]);
    engines.inside("h3", "s2", "touch /well").ok();
    by(&["s1", "s2"]);
    engines.inside("h3", "s2", "rm /well").ok();
    by(&["s1"]);
    engines.docker("h2", "rm -f s1").ok();
    engines.docker("h3", "rm -f s2").ok();
    lab.ctl("h1", "service rm shop").ok();
}

/// Networks are connected and disconnected, made and removed by the engine.
fn comings_and_goings(engines: &Engines) {
    let (lab, docker) = (&engines.lab, |host: &str, line: &str| {
        engines.docker(host, line)
    });
    docker("h1", "network disconnect my-net one").ok();
    engines.is_clean("my-net", &[("h2", "two"), ("h3", "three")]);
    assert_ne!(engines.inside("h2", "two", "ping -c 1 -W 1 one").code, 0);
    docker("h1", "network connect --alias uno my-net one").ok();
    engines.reaches_soon("h2", "two", "uno");

    ["h1", "h2"]
        .iter()
        .for_each(|host| engines.asks(host, "192.0.2.8"));
    // An engine's own networks become the cluster's, by name.
    docker("h1", &format!("{ATTACH} --ipv6 fresh")).ok();
    docker(
        "h1",
        &format!(
            "{ATTACH} --internal --subnet 10.77.0.0/24 --ip-range 10.77.0.128/25 \
             --aux-address a=10.77.0.128 own"
        ),
    )
    .ok();
    eventually("the cluster knows the names", || {
        let names: BTreeSet<String> = lab
            .json("h2", "network ls")
            .iter()
            .map(|network| network["spec"]["name"].as_str().unwrap_or("").to_owned())
            .collect();
        holds(names.contains("fresh") && names.contains("own"), names)
    });
    docker(
        "h2",
        &format!("{ATTACH} -o netd.network=fresh --ipv6 fresh"),
    )
    .ok();
    docker("h1", &format!("run -d --name f1 --network fresh {SLEEP}")).ok();
    docker("h1", "network connect own f1").ok();
    // Of another's network an engine's containers are given a part, and what is set aside is so for
    // all.
    let range = "--ipam-opt netd.network=own --subnet 10.77.0.0/24 --ip-range 10.77.0.192/31";
    let said = docker(
        "h2",
        &format!("{ATTACH} -o netd.network=own {range} --aux-address b=10.77.0.129 own"),
    )
    .refused();
    assert!(
        said.contains("10.77.0.129 of network \"own\" is held by docker container"),
        "{said}"
    );
    let aside = "--aux-address a=10.77.0.128 --aux-address b=10.77.0.1";
    docker(
        "h2",
        &format!("{ATTACH} -o netd.network=own {range} {aside} own"),
    )
    .ok();
    docker("h2", &format!("run -d --name f2 --network own {SLEEP}")).ok();
    docker("h2", "network connect fresh f2").ok();
    docker("h2", &format!("run -d --name f3 --network own {SLEEP}")).ok();
    let given = ["f2", "f3"].map(|name| engines.addresses("h2", name, "own").remove(0));
    assert_eq!(
        given,
        ["10.77.0.192", "10.77.0.193"],
        "out of the host's part"
    );
    let said = docker("h2", &format!("run --rm --network own {SLEEP}"));
    assert!(
        said.code != 0 && said.err.contains("no room in 10.77.0.192/31"),
        "{said:?}"
    );
    docker("h2", "rm -f f3").ok();
    for address in ["fresh", "own"]
        .iter()
        .flat_map(|network| engines.addresses("h2", "f2", network))
    {
        engines.reaches("h1", "f1", &address);
    }
    let own = engines.addresses("h1", "f1", "own").remove(0);
    assert_eq!(
        own, "10.77.0.129",
        "out of the range, beside what is set aside"
    );
    // An internal network beside one with a way out leads away nothing but questions, whichever
    // came first.
    let gateway = lab.json("h1", "network inspect fresh")[0]["status"]["subnets"][0]["gateway"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    for (host, name) in [("h1", "f1"), ("h2", "f2")] {
        for to in ["198.51.100.1", "192.0.2.8", "192.0.2.9"] {
            let route = engines
                .inside(host, name, &format!("ip route get {to}"))
                .ok();
            assert!(
                route.contains(&format!("via {gateway} ")),
                "{name}: {route}"
            );
        }
    }
    // An internal network alone has no way out, not even one of the engine's.
    docker("h1", "network disconnect fresh f1").ok();
    docker("h2", "network disconnect fresh f2").ok();
    let routes = engines.inside("h2", "f2", "ip route").ok();
    assert!(
        !routes.contains("default") && !engines.inside("h2", "f2", "ip addr").ok().contains("eth2"),
        "{routes}"
    );
    engines.reaches("h2", "f2", "f1");
    engines.reaches("h1", "f1", "f2");
    beside_the_engines_own(engines);
    docker("h1", "rm -f f1").ok();
    docker("h1", "network rm own").ok();
    assert_eq!(
        lab.json("h1", "network inspect own")[0]["spec"]["name"],
        "own",
        "another engine uses it"
    );
    docker("h2", "rm -f f2").ok();
    eventually("what is set aside stays so", || {
        let endpoints = engines.endpoints("own");
        let is_held = |held: &&Value| held["addresses"][0] == "10.77.0.128" && held["node"] == "h2";
        holds(endpoints.iter().filter(is_held).count() == 1, &endpoints)
    });
    docker("h2", "network rm own fresh").ok();
    docker("h1", "network rm fresh").ok();
    let gone = lab.ctl("h1", "network inspect fresh").refused();
    assert!(
        gone.contains("there is no network"),
        "whoever made it removes it: {gone}"
    );
    lab.ctl("h1", "network rm own").ok();
    docker("h3", "rm -f three").ok();
    docker("h3", "network rm my-net").ok();
    engines.is_clean("my-net", &[("h1", "one"), ("h2", "two")]);
}

/// A container of an internal network finds names outside for as long as a network of the engine's
/// own leads it there.
fn beside_the_engines_own(engines: &Engines) {
    let (lab, docker) = (&engines.lab, |line: &str| engines.docker("h1", line).ok());
    lab.exec("h1", &["ip", "address", "add", "192.0.2.8", "dev", "lo"])
        .ok();
    let server = include_str!("names/server.py");
    let outside = ["python3", "-c", server, "192.0.2.8"];
    let mut outside = lab
        .command("h1", &outside)
        .stdout(Stdio::null())
        .spawn()
        .expect("a resolver");
    let hears = |name: &str, answer: &str| {
        eventually(&format!("{name} hears {answer}"), || {
            let said = engines.inside("h1", name, "nslookup www.example.org");
            holds(format!("{}{}", said.out, said.err).contains(answer), said)
        });
    };
    docker("network create lead");
    docker("network create --internal shut");
    docker("network connect shut f1");
    docker(&format!("run -d --name f4 {SLEEP}"));
    docker("network connect own f4");
    for (name, leads) in [("f1", "lead"), ("f4", "bridge")] {
        if name == "f1" {
            hears(name, "NXDOMAIN");
            docker("network connect lead f1");
        }
        hears(name, "192.0.2.77");
        engines.inside("h1", name, "ip route get 198.51.100.1").ok();
        engines.reaches("h1", name, "f2");
        docker(&format!("network disconnect {leads} {name}"));
        hears(name, "NXDOMAIN");
    }
    docker("network disconnect shut f1");
    docker("rm -f f4");
    docker("network rm lead shut");
    outside
        .kill()
        .and_then(|()| outside.wait())
        .expect("a resolver that ends");
}

#[test]
fn daemons_engines_and_hosts_may_die_at_any_time() {
    let engines = Engines::on_my_net(2);
    let (lab, docker) = (&engines.lab, |host: &str, line: &str| {
        engines.docker(host, line)
    });
    docker(
        "h1",
        &format!("run -d --name one --restart always --stop-signal KILL --network my-net {SLEEP}"),
    )
    .ok();
    docker(
        "h2",
        &format!(
            "run -d --name two --restart always --stop-signal KILL --network my-net --ip \
             10.0.9.50 {SLEEP}"
        ),
    )
    .ok();
    let both = |what: &str| {
        engines.reaches_soon("h1", "one", "two");
        engines.reaches_soon("h2", "two", "one");
        engines.is_clean("my-net", &[("h1", "one"), ("h2", "two")]);
        assert_eq!(
            engines.addresses("h2", "two", "my-net")[0],
            "10.0.9.50",
            "{what}"
        );
    };
    both("at first");
    docker("h1", "restart -t 0 one").ok();
    docker("h2", "restart -t 0 two").ok();
    both("after a restart of the containers");

    // netd alone: nobody inside notices, and what is asked at once is answered.
    run(lab.verb("crash").arg("h2")).ok();
    engines.reaches("h1", "one", "10.0.9.50");
    docker(
        "h2",
        &format!(
            "run --rm --network my-net {} -c 1 -W 5 10.0.9.50",
            SLEEP.replace("sleep 1000000", "ping")
        ),
    )
    .ok();
    both("after netd was killed");

    // In the middle of whatever it is: six at once.
    let script = format!(
        "for i in 1 2 3 4 5 6; do {DOCKER} run -d --name c$i --network my-net {SLEEP} & done; \
         for i in 1 2 3 4 5 6; do {DOCKER} network disconnect -f my-net two; \
         {DOCKER} network connect --ip 10.0.9.50 my-net two; done & wait"
    );
    let mut working = lab
        .command("h2", &["sh", "-c", &script])
        .spawn()
        .expect("a shell");
    eventually("it has begun", || {
        holds(docker("h2", "ps -aq").out.lines().count() > 1, "")
    });
    run(lab.verb("crash").arg("h2")).ok();
    working.wait().expect("a shell that ends");
    docker("h2", "rm -f c1 c2 c3 c4 c5 c6");
    docker("h2", "network connect --ip 10.0.9.50 my-net two");
    both("after netd was killed at work");

    // The engine, whose containers live on, and then do not.
    for options in [
        "DOCKERD_OPTIONS=--live-restore",
        "DOCKERD_OPTIONS=--live-restore=false",
    ] {
        let before = ["env", options];
        kill(lab, "h1");
        let _first = Docker::start(lab, "h1", &before);
        docker("h1", "start one").ok();
        both(options);
        let pid = docker("h1", "inspect -f {{.State.Pid}} one").ok();
        kill(lab, "h1");
        engines.reaches("h2", "two", "one");
        let _second = Docker::start(lab, "h1", &before);
        both(options);
        let lives = docker("h1", "inspect -f {{.State.Pid}} one").ok() == pid;
        assert_eq!(lives, options == "DOCKERD_OPTIONS=--live-restore");
    }
    let script = format!(
        "for i in 1 2 3 4; do {DOCKER} run -d --name c$i --network my-net {SLEEP} & done; wait"
    );
    let mut working = lab
        .command("h1", &["sh", "-c", &script])
        .spawn()
        .expect("a shell");
    eventually("it has begun", || {
        holds(docker("h1", "ps -aq").out.lines().count() > 1, "")
    });
    kill(lab, "h1");
    working.wait().expect("a shell that ends");
    let _daemon = Docker::start(lab, "h1", &[]);
    docker("h1", "rm -f c1 c2 c3 c4");
    docker("h1", "start one").ok();
    engines.reaches_soon("h2", "two", "one");
    both("after the engine was killed at work");

    // No manager answers: nothing new begins, whatever is there goes on and can be given up.
    docker(
        "h2",
        &format!("run -d --name three --network my-net {SLEEP}"),
    )
    .ok();
    run(lab.verb("kill").arg("h1")).ok();
    let said = docker("h2", &format!("run --rm --network my-net {SLEEP}"));
    assert!(
        said.code != 0 && said.err.contains("managers do not answer"),
        "{said:?}"
    );
    docker("h2", "rm -f three").ok();
    assert!(
        engines
            .inside("h2", "two", "ip addr")
            .ok()
            .contains("10.0.9.50")
    );
    run(lab.verb("start").arg("h1")).ok();
    let _daemon = Docker::start(lab, "h1", &[]);
    eventually("the container is started again", || {
        let said = docker("h1", "inspect -f {{.State.Running}} one");
        holds(said.out.trim() == "true", said)
    });
    both("after a time without managers");

    // A host without power.
    run(lab.verb("kill").arg("h2")).ok();
    run(lab.verb("start").arg("h2")).ok();
    let _daemon = Docker::start(lab, "h2", &[]);
    eventually("the container is started again", || {
        let said = docker("h2", "inspect -f {{.State.Running}} two");
        holds(said.out.trim() == "true", said)
    });
    both("after a power cut");
    for log in ["h1", "h2"].map(|host| run(lab.verb("logs").arg(host)).ok()) {
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn a_compose_file_with_networks_and_a_lan_comes_up_and_goes() {
    let engines = Engines::up(2);
    let (lab, docker) = (&engines.lab, |host: &str, line: &str| {
        engines.docker(host, line)
    });
    lab.ctl(
        "h1",
        &format!("network create --attachable {SUBNETS} my-net"),
    )
    .ok();
    let file = include_str!("docker/compose.yml");
    for host in ["h1", "h2"] {
        lab.exec(
            host,
            &[
                "sh",
                "-ec",
                &format!(
                    "mkdir -p /run/shop; cat >/run/shop/docker-compose.yml <<'END'\n{file}\nEND"
                ),
            ],
        )
        .ok();
    }
    let compose = |host: &str, line: &str| {
        lab.exec(
            host,
            &[
                "sh",
                "-c",
                &format!("cd /run/shop && HOST={host} docker-compose -p {host} {line} 2>&1"),
            ],
        )
    };
    compose("h1", "up -d").ok();
    compose("h2", "up -d").ok();
    for (host, other) in [("h1", "h2"), ("h2", "h1")] {
        // On its own two networks, and by name across hosts on the cluster's.
        for to in ["db", "front", &format!("front-{other}")] {
            engines.reaches_soon(host, &format!("front-{host}"), to);
        }
        assert_ne!(
            engines
                .inside(
                    host,
                    &format!("db-{host}"),
                    &format!("ping -c 1 -W 1 front-{other}")
                )
                .code,
            0
        );
    }
    compose("h1", "restart -t 0").ok();
    engines.reaches_soon("h2", "front-h2", "front-h1");
    compose("h1", "down -t 0").ok();
    compose("h2", "down -t 0").ok();
    eventually("only what was there before is left", || {
        let names: Vec<Value> = lab
            .json("h1", "network ls")
            .iter()
            .map(|network| network["spec"]["name"].clone())
            .collect();
        holds(names == ["my-net"], names)
    });
    engines.is_clean("my-net", &[]);

    let lan = "-o driver=macvlan -o parent=eth0 --subnet 192.168.100.0/24 --gateway 192.168.100.1 \
               --ip-range 192.168.100.128/25";
    docker("h1", &format!("{ATTACH} {lan} lan")).ok();
    eventually("the cluster knows its name", || {
        let said = docker("h2", &format!("{ATTACH} -o netd.network=lan lan"));
        holds(said.code == 0, said)
    });
    docker("h1", &format!("run -d --name one --network lan {SLEEP}")).ok();
    docker(
        "h2",
        &format!("run -d --name two --network lan --mac-address 02:42:0a:00:09:32 {SLEEP}"),
    )
    .ok();
    let said = docker(
        "h1",
        &format!("run -d --network lan --mac-address 02:42:0a:00:09:32 {SLEEP}"),
    );
    assert!(
        said.code != 0 && said.err.contains("is that of docker container"),
        "{said:?}"
    );
    docker("h1", "container prune -f").ok();
    let address = engines.addresses("h2", "two", "lan").remove(0);
    engines.reaches_soon("h1", "one", &address);
    engines.reaches_soon("h1", "one", "192.168.100.12");
    docker("h1", "restart -t 0 one").ok();
    engines.reaches_soon("h1", "one", &address);
    // Beside other networks, before them and after them, though the LAN's router is whom the host
    // asks for names.
    engines.asks("h1", "192.168.100.1");
    docker("h1", &format!("{ATTACH} -o netd.network=my-net over")).ok();
    docker("h1", &format!("{ATTACH} --internal inner")).ok();
    for (name, first, second) in [
        ("a1", "lan", "over"),
        ("a2", "over", "lan"),
        ("a3", "lan", "inner"),
        ("a4", "inner", "lan"),
    ] {
        docker(
            "h1",
            &format!("run -d --name {name} --network {first} {SLEEP}"),
        )
        .ok();
        docker("h1", &format!("network connect {second} {name}")).ok();
        engines.reaches_soon("h1", name, &address);
        let route = engines
            .inside("h1", name, "ip route get 192.168.100.2")
            .ok();
        let lan = if first == "lan" {
            "dev eth0"
        } else {
            "dev eth1"
        };
        assert!(
            route.contains(lan),
            "what is beside the router: {name}: {route}"
        );
    }
    for (from, to) in [("a1", "a2"), ("a2", "a1"), ("a3", "a4"), ("a4", "a3")] {
        engines.reaches_soon("h1", from, to);
    }
    docker("h1", "rm -f one a1 a2 a3 a4").ok();
    docker("h1", "network rm over inner").ok();
    docker("h2", "rm -f two").ok();
    engines.is_clean("lan", &[]);
}

#[test]
fn a_socket_made_by_systemd_serves_an_engine_started_first() {
    // As systemd does: the socket is its third descriptor, and somebody asks before the daemon has
    // been started.
    let launch = r#"
import os, socket, subprocess
os.makedirs("/run/docker/plugins")
listening = socket.socket(socket.AF_UNIX)
listening.bind("/run/docker/plugins/netd.sock")
listening.listen()
engine = socket.socket(socket.AF_UNIX)
engine.connect("/run/docker/plugins/netd.sock")
engine.sendall(b"POST /Plugin.Activate HTTP/1.1\r\nHost: netd\r\nContent-Length: 0\r\nConnection: \
                 close\r\n\r\n")
def activate():
    os.dup2(listening.fileno(), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
netd = subprocess.Popen(["netd", "--directory", "/run/state"], pass_fds=[3], preexec_fn=activate,
    stdout=2)
engine.settimeout(60)
try:
    print(b"".join(iter(lambda: engine.recv(9999), b"")).decode(),
        oct(os.stat("/run/docker/plugins/netd.sock").st_mode & 0o777))
finally:
    netd.kill()
"#;
    let mut command = std::process::Command::new("unshare");
    let path = format!(
        "{}:{}",
        binaries().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let shell = "mount -t tmpfs tmpfs /run && exec python3 -c \"$0\"";
    command
        .args(["--mount", "--net", "--", "sh", "-c", shell, launch])
        .env("PATH", path);
    let said = run(&mut command).ok();
    assert!(
        said.contains("NetworkDriver") && said.trim().ends_with("0o600"),
        "{said}"
    );
}

#[test]
fn the_managed_plugin_passes_calls_on_to_the_hosts_daemon() {
    let engines = Engines::up(1);
    let (lab, docker) = (&engines.lab, |line: &str| engines.docker("h1", line));
    lab.ctl(
        "h1",
        &format!("network create --attachable {SUBNETS} my-net"),
    )
    .ok();
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let netd = binaries().join("netd").display().to_string();
    let variables = [
        format!("PLUGIN_NETD={netd}"),
        "DOCKER_PLUGIN=/run/plugin".to_owned(),
    ];
    lab.exec(
        "h1",
        &[
            "make",
            "-C",
            repository,
            "docker-plugin",
            &variables[0],
            &variables[1],
        ],
    )
    .ok();
    docker("plugin create managed /run/plugin").ok();
    docker("plugin enable managed").ok();
    docker(
        "network create -d managed:latest --ipam-driver managed:latest -o netd.network=my-net \
         my-net",
    )
    .ok();
    docker(&format!("run -d --name one --network my-net {SLEEP}")).ok();
    docker(&format!("run -d --name two --network my-net {SLEEP}")).ok();
    engines.reaches("h1", "one", "two");
    engines.is_clean("my-net", &[("h1", "one"), ("h1", "two")]);
    // In swarm mode an engine goes on with containers of its own; its services take no driver of
    // this kind.
    docker("swarm init --advertise-addr 192.168.100.11 --listen-addr 192.168.100.11:2378").ok();
    docker(&format!("run -d --name three --network my-net {SLEEP}")).ok();
    engines.reaches("h1", "three", "one");
    let said = docker(&format!("service create --detach --network my-net {SLEEP}"));
    assert!(said.code != 0 && said.err.contains("my-net"), "{said:?}");
    docker("swarm leave --force").ok();
    docker("rm -f one two three").ok();
    docker("network rm my-net").ok();
    docker("plugin disable managed").ok();
    engines.is_clean("my-net", &[]);
}
