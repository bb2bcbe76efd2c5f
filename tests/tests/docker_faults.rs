//! Docker Engine and netd die in the middle of every method that the one calls of the other, and
//! come back; and engines that have lost what they knew.

use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use tests::{
    Lab, PATIENCE, Said,
    between::{Held, NAME, Relay},
    docker::{ATTACH, DOCKER, Docker, Engines, Generation, SLEEP, SUBNETS, answers, kill, serving},
    eventually, holds, run, within,
};

/// So long netd is left alone with a manager that does not answer.
const HELD_UP: Duration = Duration::from_millis(300);

/// What was cut off works again within this time: well before the minute after which it is given up
/// anyhow.
const AGAIN: Duration = Duration::from_secs(20);

/// Who dies, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// netd, before it has heard of the call.
    NetdBefore,
    /// netd, while it waits for the manager, who hears of it afterwards.
    NetdAtWork,
    /// netd, when it has answered and the engine does not know yet.
    NetdAfter,
    /// The engine, before netd has heard of the call.
    EngineBefore,
    /// The engine, when netd has answered.
    EngineAfter,
    /// The host loses its power when netd has answered.
    HostAfter,
}
use Death::{EngineAfter, EngineBefore, HostAfter, NetdAfter, NetdAtWork, NetdBefore};

/// A method of either driver, how many of its calls pass before, and who dies in the next.
type Fault = (&'static str, usize, Death);

const REQUEST: &str = "IpamDriver.RequestAddress";
const RELEASE: &str = "IpamDriver.ReleaseAddress";
const CREATE: &str = "NetworkDriver.CreateEndpoint";
const DELETE: &str = "NetworkDriver.DeleteEndpoint";
const JOIN: &str = "NetworkDriver.Join";
const LEAVE: &str = "NetworkDriver.Leave";
const PROGRAM: &str = "NetworkDriver.ProgramExternalConnectivity";
const REVOKE: &str = "NetworkDriver.RevokeExternalConnectivity";
const LOOK: &str = "NetworkDriver.EndpointOperInfo";
const MAKE: &str = "NetworkDriver.CreateNetwork";
const REMOVE: &str = "NetworkDriver.DeleteNetwork";

/// Of a container that is started, time and again until it runs, and removed: it has an IPv4 and an
/// IPv6 address, asked for and given up in this order. What leaves something behind comes first.
/// Only calls that ask the cluster can be held up by it, and of the addresses only the last one
/// that is given up does.
const NETD_AND_CONTAINERS: &[(&[Fault], Fault)] = &[
    (&[(REQUEST, 0, NetdAtWork)], (RELEASE, 0, NetdBefore)),
    (&[(REQUEST, 0, NetdAfter)], (RELEASE, 1, NetdBefore)),
    (&[(REQUEST, 1, NetdAfter)], (RELEASE, 1, NetdAtWork)),
    (
        &[(REQUEST, 0, NetdBefore), (LOOK, 0, NetdAfter)],
        (RELEASE, 1, NetdAfter),
    ),
    (&[(CREATE, 0, NetdBefore)], (RELEASE, 0, NetdAfter)),
    (&[(CREATE, 0, NetdAfter)], (DELETE, 0, NetdBefore)),
    (&[(JOIN, 0, NetdBefore)], (DELETE, 0, NetdAfter)),
    (&[(JOIN, 0, NetdAtWork)], (LEAVE, 0, NetdBefore)),
    (&[(JOIN, 0, NetdAfter)], (LEAVE, 0, NetdAfter)),
    (&[(PROGRAM, 0, NetdBefore)], (REVOKE, 0, NetdBefore)),
    (&[(PROGRAM, 0, NetdAtWork)], (REVOKE, 0, NetdAtWork)),
    (&[(PROGRAM, 0, NetdAfter)], (REVOKE, 0, NetdAfter)),
];
const ENGINES_AND_CONTAINERS: &[(&[Fault], Fault)] = &[
    (&[(JOIN, 0, HostAfter)], (RELEASE, 0, HostAfter)),
    (&[(REQUEST, 0, EngineBefore)], (RELEASE, 0, EngineBefore)),
    (&[(REQUEST, 0, EngineAfter)], (RELEASE, 0, EngineAfter)),
    (&[(REQUEST, 1, EngineAfter)], (RELEASE, 1, EngineBefore)),
    (&[(CREATE, 0, EngineBefore)], (RELEASE, 1, EngineAfter)),
    (&[(CREATE, 0, EngineAfter)], (DELETE, 0, EngineBefore)),
    (&[(JOIN, 0, EngineBefore)], (DELETE, 0, EngineAfter)),
    (&[(JOIN, 0, EngineAfter)], (LEAVE, 0, EngineBefore)),
    (&[(PROGRAM, 0, EngineBefore)], (LEAVE, 0, EngineAfter)),
    (&[(PROGRAM, 0, EngineAfter)], (REVOKE, 0, EngineBefore)),
    (&[(LOOK, 0, EngineAfter)], (REVOKE, 0, EngineAfter)),
];

/// Of a network that is made, time and again, and removed, with all of these in one go: what an
/// engine was at when it died it goes on with when it comes back.
const NETD_AND_NETWORKS: &[(&[Fault], &[Fault])] = &[
    (
        &[
            ("IpamDriver.RequestPool", 0, NetdAfter),
            (REQUEST, 0, NetdAfter),
            (MAKE, 0, NetdBefore),
        ],
        &[
            (RELEASE, 0, NetdBefore),
            ("IpamDriver.ReleasePool", 0, NetdBefore),
            (REMOVE, 0, NetdBefore),
        ],
    ),
    (&[(MAKE, 0, NetdAtWork)], &[(REMOVE, 0, NetdAtWork)]),
    (&[(MAKE, 0, NetdAfter)], &[(REMOVE, 0, NetdAfter)]),
];
const ENGINES_AND_NETWORKS: &[(&[Fault], &[Fault])] = &[
    (&[(MAKE, 0, HostAfter)], &[(REMOVE, 0, HostAfter)]),
    (
        &[
            ("IpamDriver.RequestPool", 0, EngineAfter),
            (REQUEST, 0, EngineAfter),
            (MAKE, 0, EngineBefore),
        ],
        &[
            (RELEASE, 0, EngineBefore),
            ("IpamDriver.ReleasePool", 0, EngineBefore),
            (REMOVE, 0, EngineBefore),
        ],
    ),
    (&[(MAKE, 0, EngineAfter)], &[(REMOVE, 0, EngineAfter)]),
];

/// What an engine asks when it begins to know of netd. Nothing depends on whether netd has heard
/// that.
const INTRODUCTIONS: [&str; 3] = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "IpamDriver.GetCapabilities",
];
/// Bookworm's engine asks so when it begins, too; later ones do when they make a network.
const SPACES: &str = "IpamDriver.GetDefaultAddressSpaces";

/// A host whose engine calls its netd by a relay.
struct Patient<'a> {
    engines: &'a Engines,
    lab: &'a Lab,
    host: &'static str,
    relay: Relay,
    daemon: Option<Docker>,
    /// What has been called by relays that are no more.
    seen: BTreeSet<String>,
    /// Faults so far.
    count: usize,
}

impl<'a> Patient<'a> {
    fn new(engines: &'a Engines, host: &'static str) -> Self {
        let (lab, relay) = (&engines.lab, Relay::start(&engines.lab, host));
        Self {
            engines,
            lab,
            host,
            relay,
            daemon: None,
            seen: BTreeSet::new(),
            count: 0,
        }
    }

    fn docker(&self, line: &str) -> Said {
        self.engines.docker(self.host, line)
    }

    fn is_there(&self, line: &str) -> bool {
        self.docker(line).code == 0
    }

    /// Runs a command, in the middle of which somebody dies and comes back, or several do one after
    /// the other.
    fn run(&mut self, faults: &[Fault], words: &[String]) -> Said {
        self.expect(faults.first());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.lab.command(self.host, &words);
        let mut command = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker");
        self.suffer(faults, Some(&mut command));
        Said::of(command.wait_with_output().expect("docker"))
    }

    /// The engine starts anew, in the middle of which somebody dies, as in [`Self::run`].
    fn restart(&mut self, faults: &[Fault]) {
        kill(self.lab, self.host);
        self.expect(faults.first());
        self.start();
        self.suffer(faults, None);
    }

    fn expect(&self, fault: Option<&Fault>) {
        if let Some(&(method, after, _)) = fault {
            self.relay.hold(method, after);
        }
    }

    /// Every other time its containers outlive it.
    fn start(&mut self) {
        let lives = if self.count.is_multiple_of(2) {
            "--live-restore"
        } else {
            "--live-restore=false"
        };
        let options = format!("DOCKERD_OPTIONS={lives}");
        self.daemon = Some(Docker::spawn(self.lab, self.host, &["env", &options]));
    }

    /// The first is expected already. What an engine was at when it died it goes on with when it
    /// starts.
    fn suffer(&mut self, faults: &[Fault], mut command: Option<&mut Child>) {
        for (index, &(method, _, death)) in faults.iter().enumerate() {
            let caller = command
                .as_deref_mut()
                .or(self.daemon.as_mut().map(Docker::process));
            let mut held = self.relay.held(caller.expect("somebody who calls"));
            let is_heard = !matches!(death, NetdBefore | EngineBefore);
            if death == NetdAtWork {
                self.signal_netd("h1", "STOP");
            }
            if is_heard {
                held.pass_on();
                let patience = if death == NetdAtWork {
                    HELD_UP
                } else {
                    PATIENCE
                };
                assert_eq!(held.is_answered(patience), death != NetdAtWork, "{method}");
            }
            self.count += 1;
            self.strike(death, held, faults.get(index + 1));
            if matches!(death, EngineBefore | EngineAfter | HostAfter) {
                command = None;
            }
        }
        if command.is_none() {
            answers(self.lab, self.host);
        }
    }

    fn strike(&mut self, death: Death, held: Held, next: Option<&Fault>) {
        match death {
            NetdBefore | NetdAtWork | NetdAfter => {
                self.relay.close();
                run(self.lab.verb("crash").arg(self.host)).ok();
                if death == NetdAtWork {
                    self.signal_netd("h1", "CONT");
                }
                self.expect(next);
                drop(held);
                self.relay.open();
            }
            EngineBefore | EngineAfter => {
                kill(self.lab, self.host);
                drop(held);
                self.expect(next);
                self.start();
            }
            HostAfter => {
                run(self.lab.verb("kill").arg(self.host)).ok();
                drop(held);
                run(self.lab.verb("start").arg(self.host)).ok();
                self.seen.append(&mut self.relay.seen());
                self.relay = Relay::start(self.lab, self.host);
                self.expect(next);
                self.start();
            }
        }
    }

    fn signal_netd(&self, host: &str, signal: &str) {
        self.lab
            .exec(
                host,
                &["sh", "-c", &format!("kill -{signal} $(cat /run/netd.pid)")],
            )
            .ok();
    }

    /// A container with addresses of its own choice is started and removed.
    fn container(&mut self, starts: &[Fault], end: Fault) {
        let (host, number) = (self.host, self.host.trim_start_matches('h'));
        let name = format!("c-{host}");
        let (ip, ip6) = (format!("10.0.9.20{number}"), format!("fd00:9::20{number}"));
        let mac = format!("--mac-address=02:42:0a:00:09:0{number}");
        let mut options = vec![
            "-p",
            "8080:80",
            "--stop-signal",
            "KILL",
            "--ip",
            &ip,
            "--ip6",
            &ip6,
        ];
        options.extend((self.count % 4 < 2).then_some(mac.as_str()));
        let first = serving(&name, &options);
        let mut said = Vec::new();
        for &fault in starts {
            let words = if self.is_there(&format!("inspect {name}")) {
                words(&format!("start {name}"))
            } else {
                first.clone()
            };
            said.push(self.run(&[fault], &words));
        }
        if self
            .docker(&format!("inspect -f {{{{.State.Running}}}} {name}"))
            .out
            .trim()
            != "true"
        {
            within(AGAIN, "the same command works", || {
                let is_there = self.is_there(&format!("inspect {name}"));
                let words = if is_there {
                    words(&format!("start {name}"))
                } else {
                    first.clone()
                };
                let again = self.run(&[], &words);
                holds(
                    again.code == 0,
                    format!("{starts:?}: {said:?}, and again: {again:?}"),
                )
            });
        }
        let is_of_engine = |&(_, _, death): &Fault| matches!(death, EngineBefore | EngineAfter);
        if Generation::asked() == Generation::Sid && starts.iter().any(is_of_engine) {
            // An engine of 28 that died while it started a container takes the end of that attempt
            // for the end of the next one, seconds later, and gives up the networks of that,
            // whatever their drivers are. Only another container is safe from it.
            self.again(&format!("rm -f {name}"), "started again");
            self.run(&[], &first).ok();
        }
        assert_eq!(
            self.engines.addresses(host, &name, "my-net"),
            [ip.as_str(), &ip6],
            "{starts:?}"
        );
        self.engines.reaches_soon(host, &name, "far");
        for whom in [&name, &ip, &ip6] {
            self.engines.reaches_soon("h1", "far", whom);
        }
        eventually("its port is open", || {
            let said = self.lab.exec(
                "h1",
                &[
                    "curl",
                    "-sS",
                    "-m",
                    "3",
                    &format!("http://192.168.100.1{number}:8080/"),
                ],
            );
            holds(said.out == format!("{name}\n"), said)
        });
        let said = self.run(&[end], &words(&format!("rm -f {name}")));
        if self.is_there(&format!("inspect {name}")) {
            self.again(&format!("rm -f {name}"), &format!("{end:?}: {said:?}"));
        }
        self.engines
            .reaches_soon("h1", "far", &format!("stay-{host}"));
    }

    /// A command that was cut off works when it is given again, as soon as it is known who has
    /// died.
    #[track_caller]
    fn again(&self, line: &str, before: &str) {
        within(AGAIN, "the same command works", || {
            let again = self.docker(line);
            holds(again.code == 0, format!("{before}, and again: {again:?}"))
        });
    }

    /// A network of the engine's own is made, used by another host as well, and removed.
    fn network(&mut self, starts: &[Fault], ends: &[Fault]) {
        let (host, number) = (self.host, self.host.trim_start_matches('h'));
        let (name, here, there) = (
            format!("own-{host}"),
            format!("here-{host}"),
            format!("there-{host}"),
        );
        let make = format!(
            "network create -d {NAME} --ipam-driver {NAME} --ipv6 --subnet 10.7{number}.0.0/24 \
             --subnet fd00:7{number}::/64 --ip-range 10.7{number}.0.128/25 --aux-address \
             router=10.7{number}.0.128 {name}"
        );
        let (is_there, remove) = (
            format!("network inspect {name}"),
            format!("network rm {name}"),
        );
        let mut said = Vec::new();
        for &fault in starts {
            if self.is_there(&is_there) {
                // The one before has done no harm.
                self.docker(&remove).ok();
            }
            said.push(self.run(&[fault], &words(&make)));
        }
        if !self.is_there(&is_there) {
            self.again(&make, &format!("{starts:?}: {said:?}"));
        }
        let start = |host: &str, container: &str| {
            let line =
                format!("run -d --stop-signal KILL --name {container} --network {name} {SLEEP}");
            self.engines.docker(host, &line).ok();
        };
        start(host, &here);
        eventually("the cluster knows the name", || {
            let said = self.engines.docker(
                "h1",
                &format!("{ATTACH} -o netd.network={name} --ipv6 {name}"),
            );
            holds(said.code == 0, said)
        });
        start("h1", &there);
        let addresses = self.engines.addresses(host, &here, &name);
        assert_eq!(
            addresses[0],
            format!("10.7{number}.0.129"),
            "out of the range, beside what is set aside"
        );
        for whom in [&here, &addresses[0], &addresses[1]] {
            self.engines.reaches_soon("h1", &there, whom);
        }
        self.engines.docker("h1", &format!("rm -f {there}")).ok();
        self.engines.docker("h1", &remove).ok();
        self.docker(&format!("rm -f {here}")).ok();
        let said = self.run(ends, &words(&remove));
        if self.is_there(&is_there) {
            self.again(&remove, &format!("{ends:?}: {said:?}"));
        }
    }

    /// Every method that has been called had its turn.
    fn had_all(&self, faults: impl Iterator<Item = Fault>) {
        let struck: BTreeSet<String> = faults.map(|(method, ..)| method.to_owned()).collect();
        let seen: BTreeSet<String> = self.seen.union(&self.relay.seen()).cloned().collect();
        assert_eq!(struck, seen, "{}", self.host);
    }
}

fn words(line: &str) -> Vec<String> {
    std::iter::once(DOCKER)
        .chain(line.split_whitespace())
        .map(str::to_owned)
        .collect()
}

/// All that befalls one host.
fn befall(
    mut patient: Patient<'_>,
    introduced: Death,
    containers: &[(&[Fault], Fault)],
    networks: &[(&[Fault], &[Fault])],
) {
    let mut introductions = INTRODUCTIONS.map(|method| (method, 0, introduced)).to_vec();
    let spaces = (SPACES, 0, introduced);
    let mut networks = networks.to_vec();
    if Generation::asked() == Generation::Bookworm {
        introductions.push(spaces);
    } else {
        networks.push((std::slice::from_ref(&spaces), &[]));
    }
    patient.restart(&introductions);
    for (starts, end) in containers {
        patient.container(starts, *end);
    }
    for (starts, ends) in &networks {
        patient.network(starts, ends);
    }
    let of_containers = containers
        .iter()
        .flat_map(|(starts, end)| starts.iter().chain([end]));
    let of_networks = networks
        .iter()
        .flat_map(|(starts, ends)| starts.iter().chain(*ends));
    patient.had_all(
        introductions
            .iter()
            .chain(of_containers)
            .chain(of_networks)
            .copied(),
    );
}

#[test]
fn either_may_die_in_the_middle_of_every_method() {
    let engines = Engines::up(3);
    let lab = &engines.lab;
    lab.ctl(
        "h1",
        &format!("network create --attachable {SUBNETS} my-net"),
    )
    .ok();
    let patients = ["h2", "h3"].map(|host| Patient::new(&engines, host));
    for (host, driver, container) in [
        ("h1", "netd", "far"),
        ("h2", NAME, "stay-h2"),
        ("h3", NAME, "stay-h3"),
    ] {
        let make = format!(
            "network create -d {driver} --ipam-driver {driver} -o netd.network=my-net --ipv6 \
             {SUBNETS}"
        );
        engines.docker(host, &format!("{make} my-net")).ok();
        let line = format!(
            "run -d --name {container} --restart always --stop-signal KILL --network my-net {SLEEP}"
        );
        engines.docker(host, &line).ok();
    }
    thread::scope(|scope| {
        let [first, second] = patients;
        scope.spawn(move || befall(first, NetdAfter, NETD_AND_CONTAINERS, NETD_AND_NETWORKS));
        scope.spawn(move || {
            befall(
                second,
                EngineAfter,
                ENGINES_AND_CONTAINERS,
                ENGINES_AND_NETWORKS,
            )
        });
    });
    engines.is_clean(
        "my-net",
        &[("h1", "far"), ("h2", "stay-h2"), ("h3", "stay-h3")],
    );
    eventually("only what was there before is left", || {
        let names: Vec<_> = lab
            .json("h1", "network ls")
            .iter()
            .map(|network| network["spec"]["name"].clone())
            .collect();
        holds(names == ["my-net"], names)
    });
    for log in ["h1", "h2", "h3"].map(|host| run(lab.verb("logs").arg(host)).ok()) {
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn an_engine_that_lost_its_data_gets_its_holds_released() {
    let engines = Engines::on_my_net(2);
    let (lab, docker) = (&engines.lab, |host: &str, line: &str| {
        engines.docker(host, line)
    });
    let make = format!("{ATTACH} -o netd.name");
    docker("h2", &format!("{make}=shared --subnet 10.80.0.0/24 shared")).ok();
    docker("h2", &format!("{make}=lonely --subnet 10.81.0.0/24 lonely")).ok();
    docker("h2", &format!("{ATTACH} nameless")).ok();
    docker("h1", &format!("{ATTACH} -o netd.network=shared shared")).ok();
    for (host, name, options) in [
        ("h1", "far", "--network my-net"),
        ("h1", "sharer", "--network shared"),
        ("h2", "one", "--network my-net --ip 10.0.9.50 -p 8080:80"),
        ("h2", "two", "--network shared"),
        ("h2", "three", "--network lonely"),
    ] {
        docker(
            host,
            &format!("run -d --name {name} --stop-signal KILL {options} {SLEEP}"),
        )
        .ok();
    }
    engines.reaches_soon("h1", "far", "one");
    engines.reaches_soon("h1", "sharer", "two");

    let forget = "pids=$(docker inspect -f '{{.State.Pid}}' $(docker ps -q)); \
                  kill -9 $(cat /run/docker.pid) $pids; while kill -0 $(cat /run/docker.pid) \
                  2>/dev/null; do sleep .05; done; rm /run/docker.pid; \
                  awk '$2 ~ \"^/var/lib/netd/engine/\" { print $2 }' /proc/mounts | xargs -r \
                  umount -l; rm -rf /var/lib/netd/engine/*";
    lab.exec("h2", &["sh", "-ec", forget]).ok();
    let _daemon = Docker::start(lab, "h2", &[]);
    assert_eq!(docker("h2", "ps -aq").ok(), "");

    // Nothing that is new waits for that.
    docker(
        "h2",
        &format!("{ATTACH} -o netd.network=my-net --ipv6 {SUBNETS} my-net"),
    )
    .ok();
    docker("h2", &format!("run -d --name new --network my-net {SLEEP}")).ok();
    engines.reaches_soon("h2", "new", "far");
    engines.reaches_soon("h1", "far", "new");
    docker("h2", &format!("{make}=lonely --subnet 10.81.0.0/24 lonely")).ok();
    docker(
        "h2",
        &format!("run -d --name three --network lonely {SLEEP}"),
    )
    .ok();
    docker("h2", &format!("{ATTACH} nameless")).ok();

    engines.is_clean("my-net", &[("h1", "far"), ("h2", "new")]);
    engines.is_clean("shared", &[("h1", "sharer")]);
    engines.is_clean("lonely", &[("h2", "three")]);
    eventually("each network is there once, by its name", || {
        let networks = lab.json("h1", "network ls");
        let mut names: Vec<&str> = networks
            .iter()
            .filter_map(|network| network["spec"]["name"].as_str())
            .collect();
        names.sort_unstable();
        holds(names == ["lonely", "my-net", "nameless", "shared"], &names)
    });
    docker(
        "h2",
        &format!("run -d --name one --network my-net --ip 10.0.9.50 -p 8080:80 {SLEEP}"),
    )
    .ok();
    engines.reaches_soon("h1", "far", "10.0.9.50");
    let said = lab.ctl("h1", "network rm shared");
    assert!(
        said.refused().contains("sharer"),
        "another engine's container uses it"
    );
}
