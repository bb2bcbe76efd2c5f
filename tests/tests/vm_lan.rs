//! Networks on a LAN that this machine's kernel has no devices for: VLANs and ipvlan.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use tests::{Lab, eventually, field, holds, vm};

const HOSTS: [&str; 2] = ["h1", "h2"];
const WEB: &str = "service create --name web --replicas 2 --network lan -- netd whoami --port 80";
const SHELL: &str = "service create --name shell --replicas 2 --network lan -- sleep infinity";

/// Every shell is answered by these hosts' replicas at the virtual IP, and by its own host's at
/// every address.
fn everybody_is_answered(lab: &Lab, families: &[&str]) {
    for (index, family) in families.iter().enumerate() {
        for task in ["shell.1", "shell.2"] {
            let close = [
                "curl",
                "-sS",
                family,
                "-m",
                "5",
                "-H",
                "Connection: close",
                "http://web/[1-4]",
            ];
            eventually("the virtual IP is balanced", || {
                let said = lab.inside("h1", task, &close);
                let hosts = BTreeSet::from_iter(field(&said.out, "host"));
                holds(
                    said.code == 0 && hosts == BTreeSet::from(HOSTS),
                    (task, said),
                )
            });
        }
        for task in lab.running("h1", "web") {
            let address = task["addresses"][index].as_str().unwrap();
            let url = if *family == "-6" {
                format!("http://[{address}]/")
            } else {
                format!("http://{address}/")
            };
            let (host, name) = (
                task["node"].as_str().unwrap(),
                task["name"].as_str().unwrap(),
            );
            eventually("the host reaches its own container", || {
                let said = lab.exec(host, &["curl", "-sS", "-m", "2", &url]);
                holds(said.code == 0, (host, &url, said))
            });
            let own = format!(
                "{}{}",
                ["192.168.100.1", "fd00:6c61:62::1"][index],
                &host[1..]
            );
            let knock = format!(": < /dev/tcp/{own}/2377");
            eventually("the container reaches its own host", || {
                let said = lab.inside("h1", name, &["timeout", "2", "bash", "-c", &knock]);
                holds(
                    said.code == 0 || said.err.contains("refused"),
                    (name, &own, said),
                )
            });
        }
    }
}

fn links(lab: &Lab, host: &str) -> String {
    lab.exec(host, &["ip", "-d", "-o", "link"]).ok()
}

#[test]
fn a_missing_vlan_is_made_and_removed_with_its_last_network() {
    vm::required();
    let lab = Lab::up(2);
    lab.exec(
        "h2",
        &[
            "sh",
            "-c",
            "ip link add link eth0 name eth0.50 type vlan id 50 && ip link set eth0.50 up",
        ],
    )
    .ok();
    let before = HOSTS.map(|host| links(&lab, host));
    let create = "network create --driver macvlan --opt parent=eth0.50";
    lab.ctl(
        "h1",
        &format!("{create} --subnet 192.168.50.0/24 --subnet fd00:50::/64 lan"),
    )
    .ok();
    lab.ctl("h1", &format!("{create} --subnet 192.168.51.0/24 second"))
        .ok();
    lab.ctl("h1", WEB).ok();
    lab.ctl("h1", SHELL).ok();
    lab.ctl(
        "h1",
        "service create --name other --replicas 2 --network second -- sleep infinity",
    )
    .ok();
    let ours = |host: &str| links(&lab, host).contains("nv-50-");
    assert!(ours("h1") && !ours("h2"), "{}", links(&lab, "h2"));
    // The hosts have no IPv6 address that their tunnels end at, and none on the VLAN.
    everybody_is_answered(&lab, &["-4"]);
    let said = lab
        .inside(
            "h1",
            "shell.1",
            &["curl", "-sS", "-6", "-m", "5", "http://web/[1-4]"],
        )
        .ok();
    assert_eq!(field(&said, "task").len(), 4, "{said}");

    lab.ctl("h1", "service rm web shell").ok();
    eventually("the first network's links are gone", || {
        let links = links(&lab, "h1");
        holds(links.matches("ns-").count() == 1 && ours("h1"), links)
    });
    lab.ctl("h1", "service rm other").ok();
    for (host, before) in HOSTS.iter().zip(before) {
        eventually("the host's links are as before", || {
            let now = links(&lab, host);
            holds(
                now.lines().count() == before.lines().count() && !now.contains("nv-"),
                now,
            )
        });
    }
    assert!(
        links(&lab, "h2").contains(" eth0.50@"),
        "the operator's own stays"
    );
}

#[test]
fn tasks_on_ipvlan_have_names_and_vips_and_reach_their_hosts() {
    vm::required();
    let lab = Lab::up(2);
    let create = "network create --driver ipvlan --opt parent=eth0 --opt ipvlan_mode=l2 --subnet \
                  192.168.100.0/24 --ip-range 192.168.100.128/25 --subnet fd00:6c61:62::/64 \
                  --ip-range fd00:6c61:62::8000/120 lan";
    lab.ctl("h1", create).ok();
    lab.ctl("h1", WEB).ok();
    lab.ctl("h1", SHELL).ok();
    everybody_is_answered(&lab, &["-4", "-6"]);

    // An address that somebody on the LAN has is asked for by way of the parent.
    lab.ctl("h1", "service rm web shell").ok();
    lab.exec(
        "h2",
        &[
            "sh",
            "-c",
            "for i in $(seq 128 254); do ip addr add 192.168.100.$i/24 dev eth0; done",
        ],
    )
    .ok();
    lab.ctl("h1", "node update --availability drain h2").ok();
    lab.ctl(
        "h1",
        "service create --detach --name late --network lan -- sleep infinity",
    )
    .ok();
    eventually("an address that somebody has is refused", || {
        let said = lab.ctl("h1", "node inspect h1");
        holds(
            said.out
                .contains("is in use on the LAN by 02:6c:61:62:00:02"),
            said,
        )
    });
}

#[test]
fn tasks_on_layer_3_ipvlan_reach_each_other_and_their_host() {
    vm::required();
    let lab = Lab::up(1);
    lab.ctl(
        "h1",
        "network create --driver ipvlan --opt parent=eth0 --opt ipvlan_mode=l3 --subnet \
         10.50.0.0/24 lan",
    )
    .ok();
    lab.ctl("h1", WEB).ok();
    lab.ctl(
        "h1",
        "service create --name shell --network lan -- sleep infinity",
    )
    .ok();
    let close = [
        "curl",
        "-sS",
        "-m",
        "5",
        "-H",
        "Connection: close",
        "http://web/[1-4]",
    ];
    let said = lab.inside("h1", "shell.1", &close).ok();
    assert_eq!(
        BTreeSet::from_iter(field(&said, "task")),
        BTreeSet::from(["web.1", "web.2"]),
        "{said}"
    );
    let address = lab.running("h1", "web").remove(0)["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    lab.exec(
        "h1",
        &["curl", "-sS", "-m", "5", &format!("http://{address}/")],
    )
    .ok();
    lab.inside(
        "h1",
        "shell.1",
        &["bash", "-c", ": < /dev/tcp/192.168.100.11/2377"],
    )
    .ok();
}
