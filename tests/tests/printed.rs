//! What README.md and docs/ print of Docker and CNI, run as it is printed. The tour is run by
//! demo.sh, the configuration list of docs/cni.md by the CNI project's library in runtimes.rs.

#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::{Value, json};
use tests::{
    Lab, Said, binaries,
    cni::{Runtime, addresses, eth0},
    docker::Docker,
    eventually, holds,
};

fn text(file: &str) -> String {
    fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The commands of a file from this heading on, up to the next of its level.
fn commands(file: &str, heading: &str) -> Vec<String> {
    let text = text(file);
    let level = heading.split_inclusive(' ').next().unwrap();
    let lines = text
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with(level));
    let commands = lines
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| line.split("  #").next().unwrap());
    let is_command = |line: &&str| line.starts_with(|first: char| first.is_ascii_lowercase());
    commands
        .map(str::trim_end)
        .filter(is_command)
        .map(str::to_owned)
        .collect()
}

/// Words that a file prints within a line.
#[track_caller]
fn inline<'a>(file: &str, words: &'a str) -> &'a str {
    assert!(
        text(file).contains(&format!("`{words}`")),
        "{file} does not print {words} any more"
    );
    words
}

fn sh(lab: &Lab, host: &str, command: &str) -> Said {
    lab.exec(host, &["sh", "-c", command])
}

#[test]
fn the_readme_attaches_dockers_containers() {
    let lab = Lab::up(2);
    let _engines = ["h1", "h2"].map(|host| Docker::start(&lab, host, &[]));
    let commands = commands("README.md", "## Under Docker");
    assert_eq!(commands.len(), 3, "{commands:?}");
    sh(&lab, "h1", &commands[0]).ok();
    lab.ctl(
        "h1",
        "service create --name web --network my-net -- netd whoami --port 80",
    )
    .ok();
    for host in ["h1", "h2"] {
        sh(&lab, host, &commands[1]).ok();
        let command = commands[2].replace('…', "busybox /bin/busybox wget -q -O - http://web/");
        eventually("services are reached by name", || {
            let said = sh(&lab, host, &command);
            holds(said.out.contains("task: web.1"), said)
        });
    }
}

#[test]
fn the_page_about_docker_is_true_to_the_word() {
    let lab = Lab::up(2);
    let _engines = ["h1", "h2"].map(|host| Docker::start(&lab, host, &[]));
    let commands = commands(
        "docs/docker.md",
        "# Docker Engine on the cluster's networks",
    );
    let [create, attach, run, encrypted, macvlan, plugin, managed] = commands.as_slice() else {
        panic!("a command that nobody runs here: {commands:#?}")
    };
    sh(&lab, "h1", create).ok();
    for host in ["h1", "h2"] {
        sh(&lab, host, attach).ok();
    }
    // There is no registry: the image is a stand-in of that name.
    let image = "d=$(mktemp -d); mkdir $d/bin; cp /bin/busybox $d/bin; \
                 tar -C $d -c . | docker import -c 'CMD [\"/bin/busybox\", \"sleep\", \
                 \"1000000\"]' - postgres; rm -r $d";
    sh(&lab, "h1", image).ok();
    sh(&lab, "h1", run).ok();
    eventually("the container is found from another engine", || {
        let said = sh(
            &lab,
            "h2",
            "docker run --rm --network my-net busybox /bin/busybox ping -c 1 -W 2 db",
        );
        holds(said.code == 0, said)
    });

    // Kernels without ESP or VLANs refuse, and say so; what else is printed holds.
    for (command, lacking, without, with) in [
        (encrypted, "ESP", "-o encrypted ", ""),
        (macvlan, "vlan", "parent=eth0.50", "parent=eth0"),
    ] {
        let said = sh(&lab, "h1", command);
        if said.code != 0 {
            assert!(said.err.contains(lacking), "{said:?}");
            sh(&lab, "h1", &command.replace(without, with)).ok();
        }
    }
    let inspected = sh(&lab, "h1", "docker network inspect back lan").ok();
    assert!(
        inspected.contains("10.1.0.0/24") && inspected.contains("192.168.50.0/24"),
        "{inspected}"
    );

    lab.ctl(
        "h1",
        inline(
            "docs/docker.md",
            "swarmctl service create --external --name web --network my-net",
        )
        .strip_prefix("swarmctl ")
        .unwrap(),
    )
    .ok();
    let labels = [
        "--label netd.service=web",
        "--label netd.port=http=80,dns=53/udp",
    ];
    let labels = labels
        .map(|label| inline("docs/docker.md", label))
        .join(" ");
    let serve = "--name shop --network my-net busybox /bin/busybox httpd -f -p 80";
    sh(&lab, "h1", &format!("docker run -d {labels} {serve}")).ok();
    for (asking, answer) in [
        ("wget -S -O - http://web/", "HTTP/1.1 404"),
        ("nslookup -type=srv _http._tcp.shop", " 80 "),
    ] {
        eventually(asking, || {
            let said = sh(
                &lab,
                "h2",
                &format!("docker run --rm --network my-net busybox /bin/busybox {asking}"),
            );
            holds(said.out.contains(answer) || said.err.contains(answer), said)
        });
    }

    sh(&lab, "h2", "docker network rm my-net").ok();
    inline("docs/docker.md", "make docker-plugin");
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let netd = binaries().join("netd").display().to_string();
    let variables = format!("PLUGIN_NETD={netd} DOCKER_PLUGIN=/run/here/target/docker-plugin");
    sh(
        &lab,
        "h2",
        &format!("make -C {repository} docker-plugin {variables}"),
    )
    .ok();
    sh(&lab, "h2", &format!("cd /run/here && {plugin}")).ok();
    sh(&lab, "h2", managed).ok();
    eventually(
        "the container is found by way of the managed plugin",
        || {
            let said = sh(
                &lab,
                "h2",
                "docker run --rm --network my-net busybox /bin/busybox ping -c 1 -W 2 db",
            );
            holds(said.code == 0, said)
        },
    );
}

#[test]
fn the_pages_about_cni_are_true_to_the_word() {
    let lab = Lab::up(1);
    let plugin = |file, words: &str| serde_json::from_str::<Value>(inline(file, words)).unwrap();
    let of = |network, plugin| Runtime {
        version: "1.0.0",
        plugins: vec![plugin],
        ..Runtime::new(&lab, "h1", network)
    };
    sh(
        &lab,
        "h1",
        inline("README.md", "swarmctl network create --attachable my-net"),
    )
    .ok();
    let printed = of(
        "my-net",
        plugin("README.md", r#"{"type": "netd-cni", "network": "my-net"}"#),
    );
    assert_eq!(addresses(&printed.add(eth0("c1"))).len(), 2);
    printed.del(eth0("c1"), None);
    lab.ctl("h1", "network rm my-net").ok();

    let commands = commands("docs/cni.md", "# Under CNI runtimes");
    assert_eq!(
        commands.len(),
        1,
        "a command that nobody runs here: {commands:#?}"
    );
    sh(&lab, "h1", &commands[0]).ok();
    sh(
        &lab,
        "h1",
        inline(
            "docs/cni.md",
            "swarmctl service create --external --name web --network my-net",
        ),
    )
    .ok();
    let mut labelled = of("my-net", json!({ "type": "netd-cni", "network": "my-net" }));
    let labels = [
        "netd.service=web",
        "netd.port=http=80,dns=53/udp",
        "netd.alias=db,pg",
    ];
    let labels = labels.map(|label| inline("docs/cni.md", label).split_once('=').unwrap());
    let labels = labels.map(|(key, value)| json!({ "key": key, "value": value }));
    labelled.plugins[0]["args"] = json!({ "cni": { "labels": labels } });
    let own = addresses(&labelled.add(eth0("c2"))).remove(0);
    for (name, kind, answer) in [
        ("tasks.web", "A", own.as_str()),
        ("pg", "A", &own),
        ("_http._tcp.c2", "SRV", " 80 "),
    ] {
        eventually(name, || {
            let said = labelled.inside(
                eth0("c2"),
                &["dig", "+short", "+tries=1", "@10.0.9.1", name, kind],
            );
            holds(said.out.contains(answer), said)
        });
    }

    let lan = "network create --attachable --driver macvlan --opt parent=eth0 --subnet \
               192.168.50.0/24 lan";
    lab.ctl("h1", lan).ok();
    let ipam = r#"{ "type": "netd-cni", "network": "lan" }"#;
    let under = format!(r#"{{ "type": "macvlan", "master": "eth0", "ipam": {ipam} }}"#);
    let under = of("lan", plugin("docs/cni.md", &under));
    let held = addresses(&under.add(eth0("c3"))).remove(0);
    assert!(held.starts_with("192.168.50."), "{held}");
    under.del(eth0("c3"), None);
    labelled.del(eth0("c2"), None);
    lab.ctl("h1", "ipam check").ok();
}
