//! Names inside containers of Docker Engine: the cluster's, whatever resolvers the host and the
//! engine have, and the engine's own, whether netd lives or not.

use tests::{
    Lab, Said,
    docker::{Docker, Engines, Generation, SLEEP, kill},
    eventually, holds,
};

/// What asks for a name as the first thing that its container does.
const ASK: &str = "busybox /bin/busybox nslookup";

/// The virtual IP of a service.
fn vip(lab: &Lab, service: &str) -> String {
    let service = lab.json("h2", &format!("service inspect {service}"));
    let vip = &service[0]["status"]["virtual_ips"][0];
    vip.as_str().expect("an address").to_owned()
}

/// Engines on `my-net` and its service `web`.
fn beside_web() -> (Engines, String) {
    let engines = Engines::on_my_net(2);
    let lab = &engines.lab;
    let create = "service create --name web --network my-net -- netd whoami --port 80";
    lab.ctl("h1", create).ok();
    let web = vip(lab, "web");
    (engines, web)
}

/// A container that has just begun knows the name; it is not asked again. Engines before 28 start
/// its program whether netd has been in time or not: a starved one gets another chance.
#[track_caller]
fn begins(engines: &Engines, options: &str, name: &str, answer: &str) {
    let line = format!("run --rm --network my-net {options} {ASK} {name}");
    let is_known = |said: &Said| said.out.contains(answer);
    let mut said = engines.docker("h1", &line);
    if !is_known(&said) && Generation::asked() != Generation::Sid {
        said = engines.docker("h1", &line);
    }
    assert!(is_known(&said), "{line}: {said:?}");
}

/// A container that runs knows the name.
#[track_caller]
fn knows(engines: &Engines, container: &str, name: &str, answer: &str) {
    let said = engines.inside("h1", container, &format!("nslookup {name}"));
    assert!(said.out.contains(answer), "{container}, {name}: {said:?}");
}

#[test]
fn names_of_the_cluster_need_no_resolver_of_the_host() {
    let (engines, web) = beside_web();
    let docker = |line: &str| engines.docker("h1", line);
    docker(&format!("run -d --name early --network my-net {SLEEP}")).ok();
    // One that is not there, the host's own, and an address that nobody answers at.
    for resolver in ["", "127.0.0.53", "192.0.2.8"] {
        engines.asks("h1", resolver);
        for _ in 0..3 {
            begins(&engines, "", "web", &web);
        }
        begins(&engines, "--dns 198.51.100.9", "tasks.web", "10.0.9.");
        knows(&engines, "early", "web", &web);
    }
    docker("rm -f early").ok();
    kill(&engines.lab, "h1");
    let with_dns = ["env", "DOCKERD_OPTIONS=--dns 10.88.0.53"];
    let _daemon = Docker::start(&engines.lab, "h1", &with_dns);
    begins(&engines, "", "web", &web);
}

#[test]
fn an_engines_own_names_go_on_without_netd() {
    let (engines, web) = beside_web();
    let (lab, docker) = (&engines.lab, |line: &str| engines.docker("h1", line).ok());
    lab.ctl("h1", "network create --attachable elsewhere").ok();
    let hidden = "service create --name hidden --network elsewhere";
    lab.ctl("h1", &format!("{hidden} -- netd whoami --port 80"))
        .ok();
    let hidden = vip(lab, "hidden");
    docker("network create br");
    docker(&format!("run -d --name own --network br {SLEEP}"));
    docker(&format!("run -d --name both --network br {SLEEP}"));
    docker("network connect my-net both");
    // An alias in the engine hides no service of the cluster.
    docker(&format!(
        "run -d --name guest --network my-net --network-alias web {SLEEP}"
    ));
    let own = engines.addresses("h1", "own", "br").remove(0);
    let guest = engines.addresses("h1", "guest", "my-net").remove(0);
    let all = |when: &str| {
        eventually(when, || {
            let said = engines.inside("h1", "both", "nslookup web");
            let is_ours = said.out.contains(&web) && !said.out.contains(&guest);
            holds(is_ours, said)
        });
        knows(&engines, "both", "own", &own);
        eventually("the container has a name in the cluster", || {
            let said = engines.inside("h1", "both", "nslookup guest");
            holds(said.out.contains(&guest), said)
        });
        knows(&engines, "both", &web, "web.my-net");
        let said = engines.inside("h1", "both", "nslookup hidden");
        assert!(!said.out.contains(&hidden), "{said:?}");
    };
    all("at first");

    // As where systemd has given up on it.
    let netd = "/usr/local/bin/netd";
    lab.exec("h1", &["mount", "--bind", "/bin/false", netd])
        .ok();
    lab.exec("h1", &["pkill", "-9", "-f", &format!("^{netd}")])
        .ok();
    eventually("netd is gone", || {
        let said = lab.ctl("h1", "status");
        holds(said.code != 0, said)
    });
    eventually("the engine answers for itself", || {
        let said = engines.inside("h1", "both", "nslookup own");
        holds(said.out.contains(&own), said)
    });
    knows(&engines, "both", "guest", &guest);
    lab.exec("h1", &["umount", netd]).ok();
    all("after netd has come back");
}
