//! netd or the CNI plugin is killed in the middle of every operation, at every moment of it; then
//! the runtime does what runtimes do. Nothing is lost, given twice, or left.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Lab, Said,
    cni::{Pod, Runtime, addresses, ended, eth0, outcome},
    eventually, holds,
    relay::{Moment, Relay, Victim},
};

/// Over the time that netd takes for an operation, and a little beyond, it is killed at so many
/// moments.
const STEPS: u32 = 8;
const LATER: u64 = 11;
/// Of a process that was killed, as shells tell.
const KILLED: i32 = 128 + 9;

const LINKS: &str =
    "for n in $(ip netns list | cut -d ' ' -f 1); do ip -o -n $n link | sed \"s/^/$n /\"; done
ip -o link | sed 's/^/- /'";

/// A host whose plugin asks netd by way of a relay.
struct Scene<'a> {
    lab: &'a Lab,
    runtime: Runtime<'a>,
    relay: &'a Relay,
    /// The host's links while nothing is attached.
    empty: BTreeSet<String>,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, host: &'a str, relay: &'a Relay) -> Self {
        lab.ctl(
            "h1",
            "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
        )
        .ok();
        let runtime = Runtime {
            socket: Some(relay.socket()),
            ..Runtime::new(lab, host, "my-net")
        };
        let mut scene = Self {
            lab,
            runtime,
            relay,
            empty: BTreeSet::new(),
        };
        scene.empty = scene.links();
        scene
    }

    /// Every link of the host and of the network namespaces that have a name there.
    fn links(&self) -> BTreeSet<String> {
        let text = self.lab.exec(self.runtime.host, &["sh", "-c", LINKS]).out;
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (namespace, name) = (words.next()?, words.nth(1)?);
            (name != "lo:").then(|| format!("{namespace} {name}"))
        });
        words.collect()
    }

    /// Starts an operation in which somebody is killed, and waits for both.
    fn killed(
        &self,
        (victim, moment): (Victim, Moment),
        verb: &str,
        pod: Pod<'_>,
        more: Option<&Value>,
    ) -> Said {
        self.relay.plan(victim, moment);
        let said = self.call(verb, pod, more);
        assert!(self.relay.is_done(), "{verb}: nobody was killed: {said:?}");
        assert!(
            victim == Victim::Netd || said.code == KILLED,
            "{verb}: {said:?}"
        );
        said
    }

    fn call(&self, verb: &str, pod: Pod<'_>, more: Option<&Value>) -> Said {
        let mut plugin = self.runtime.plugins[0].clone();
        let about = if verb == "GC" || verb == "STATUS" {
            eth0("")
        } else {
            pod
        };
        if verb == "GC" {
            plugin["cni.dev/valid-attachments"] =
                json!([{ "containerID": pod.id, "ifname": pod.interface }]);
        }
        let namespace = if about.id.is_empty() {
            String::new()
        } else {
            pod.namespace()
        };
        ended(self.runtime.start(verb, about, &namespace, &plugin, more))
    }

    /// What a runtime gets that asks until it is answered; a refusal may only be that it is to ask
    /// later.
    fn insist(&self, first: Option<Said>, verb: &str, pod: Pod<'_>, more: Option<&Value>) -> Value {
        let mut first = first.filter(|said| said.code != KILLED);
        eventually(verb, || {
            match outcome(first.take().unwrap_or_else(|| self.call(verb, pod, more))) {
                Ok(result) => Ok(result),
                Err(error)
                    if verb == "STATUS" && matches!(error["code"].as_u64(), Some(50 | 51)) =>
                {
                    Err(error.to_string())
                }
                Err(error) if error["code"] == LATER => Err(error.to_string()),
                Err(error) => panic!("{verb} {pod:?}: {error}"),
            }
        })
    }

    /// These are attached, in the ledger, in the kernel and to themselves, and nothing else is.
    #[track_caller]
    fn has_exactly(&self, living: &[(Pod<'_>, &Value)]) {
        let expected: BTreeSet<String> = living
            .iter()
            .flat_map(|(_, result)| addresses(result))
            .collect();
        eventually("the network has what is attached", || {
            let network = self.lab.json("h1", "network inspect my-net").remove(0);
            let endpoints = network["status"]["endpoints"].as_array().unwrap().iter();
            let of = |endpoint: &Value| endpoint["addresses"].as_array().unwrap().clone();
            let seen: Vec<Value> = endpoints.flat_map(of).collect();
            let named: BTreeSet<String> = seen
                .iter()
                .map(|address| address.as_str().unwrap().to_owned())
                .collect();
            holds(seen.len() == expected.len() && named == expected, &seen)
        });
        for (pod, result) in living {
            self.insist(None, "CHECK", *pod, Some(result));
            let link = self.runtime.seen(*pod, pod.interface).unwrap();
            let global = link["addr_info"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|info| info["scope"] == "global");
            let seen: BTreeSet<String> = global
                .map(|info| info["local"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(seen, addresses(result).into_iter().collect(), "{pod:?}");
        }
        if living.is_empty() {
            eventually("no link is left", || {
                holds(self.links() == self.empty, self.links())
            });
        }
        self.lab.ctl("h1", "ipam check").ok();
    }

    /// DEL, again if netd does not run yet, and then the namespace.
    #[track_caller]
    fn remove(&self, pod: Pod<'_>) {
        eventually("netd does what DEL says", || {
            let said = self.call("DEL", pod, None);
            assert_eq!((said.code, said.out.as_str()), (0, ""), "{pod:?}");
            holds(said.err.is_empty(), said.err)
        });
        assert_eq!(self.runtime.seen(pod, pod.interface), None, "{pod:?}");
        self.lab
            .exec(self.runtime.host, &["ip", "netns", "del", pod.id])
            .ok();
    }

    /// Everybody who may be killed in an operation, at every moment of it; it has just been done
    /// once without.
    fn deaths(&self) -> Vec<(Victim, Moment)> {
        let took = self.relay.took();
        let spread = (0..=STEPS).map(|step| Moment::Handed(took * step / STEPS));
        let moments = [Moment::Asked]
            .into_iter()
            .chain(spread)
            .chain([Moment::Answered]);
        moments
            .flat_map(|moment| [(Victim::Netd, moment), (Victim::Plugin, moment)])
            .collect()
    }
}

/// A lab whose last host is asked.
fn on_last_of<T>(hosts: u32, work: impl FnOnce(&Scene<'_>) -> T) -> T {
    let (lab, host) = (Lab::up(hosts), format!("h{hosts}"));
    let relay = Relay::start(&lab, &host);
    work(&Scene::new(&lab, &host, &relay))
}

fn attach(scene: &Scene<'_>) {
    let first = scene.runtime.add(eth0("first"));
    let kept = (eth0("first"), &first);
    for (number, death) in scene.deaths().into_iter().enumerate() {
        let id = format!("c{number}");
        let pod = eth0(&id);
        scene.runtime.make(pod);
        let said = scene.killed(death, "ADD", pod, None);
        // Of runtimes whose plugin was killed some ask again, and some take it back at once.
        if number % 4 != 1 {
            let result = scene.insist(Some(said), "ADD", pod, None);
            assert_eq!(scene.insist(None, "ADD", pod, None), result, "{death:?}");
            scene.has_exactly(&[kept, (pod, &result)]);
        }
        scene.remove(pod);
        scene.has_exactly(&[kept]);
    }
    scene.remove(eth0("first"));
    scene.has_exactly(&[]);
}

fn detach(scene: &Scene<'_>) {
    let first = scene.runtime.add(eth0("first"));
    let kept = (eth0("first"), &first);
    scene.runtime.add(eth0("c"));
    scene.remove(eth0("c"));
    for (number, death) in scene.deaths().into_iter().enumerate() {
        let id = format!("c{number}");
        let pod = eth0(&id);
        scene.runtime.add(pod);
        let said = scene.killed(death, "DEL", pod, None);
        // Who was told that it is done removes the namespace; who was not asks again.
        if said.code != 0 || number % 4 == 2 {
            assert_eq!(
                said.code,
                if death.0 == Victim::Plugin { KILLED } else { 0 },
                "{death:?}: {said:?}"
            );
            scene.remove(pod);
        } else {
            scene
                .lab
                .exec(scene.runtime.host, &["ip", "netns", "del", &id])
                .ok();
        }
        scene.has_exactly(&[kept]);
    }
    scene.remove(eth0("first"));
    scene.has_exactly(&[]);
}

fn collect(scene: &Scene<'_>) {
    let first = scene.runtime.add(eth0("first"));
    let kept = (eth0("first"), &first);
    scene.insist(None, "GC", kept.0, None);
    for (number, death) in scene.deaths().into_iter().enumerate() {
        let id = format!("c{number}");
        scene.runtime.add(eth0(&id));
        let said = scene.killed(death, "GC", kept.0, None);
        scene.insist(Some(said), "GC", kept.0, None);
        scene.has_exactly(&[kept]);
        let left = || scene.runtime.seen(eth0(&id), "eth0");
        eventually("the interface is gone", || holds(left().is_none(), left()));
        scene
            .lab
            .exec(scene.runtime.host, &["ip", "netns", "del", &id])
            .ok();
    }
    scene.remove(eth0("first"));
    scene.has_exactly(&[]);
}

/// What changes nothing.
fn look(scene: &Scene<'_>, verb: &str) {
    let first = scene.runtime.add(eth0("first"));
    let kept = (eth0("first"), &first);
    let more = Some(&first).filter(|_| verb == "CHECK");
    scene.insist(None, verb, kept.0, more);
    for death in scene.deaths() {
        let said = scene.killed(death, verb, kept.0, more);
        scene.insist(Some(said), verb, kept.0, more);
        scene.has_exactly(&[kept]);
    }
    scene.remove(eth0("first"));
    scene.has_exactly(&[]);
}

#[test]
fn killed_while_attaching_leaves_a_whole_interface_or_none() {
    on_last_of(1, attach);
}

#[test]
fn killed_while_attaching_by_a_remote_leader_leaves_all_or_none() {
    on_last_of(3, attach);
}

#[test]
fn killed_while_detaching_leaves_nothing() {
    on_last_of(1, detach);
}

#[test]
fn killed_while_detaching_by_a_remote_leader_leaves_nothing() {
    on_last_of(3, detach);
}

#[test]
fn killed_while_collecting_garbage_leaves_the_living() {
    on_last_of(1, collect);
}

#[test]
fn killed_while_checking_changes_nothing() {
    on_last_of(1, |scene| ["CHECK", "STATUS"].map(|verb| look(scene, verb)));
}
