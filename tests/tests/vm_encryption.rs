//! Encrypted networks on a kernel that has ESP: nothing crosses the wire in the clear, whatever
//! happens, and nothing that should get through is lost.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tests::{Lab, eventually, holds, run, vm};

/// In every packet that tasks send: it must never be seen on the wire.
const MARK: &str = "NOBODY-MUST-SEE-THIS";

/// Looks at every frame on the lab's switch for the mark and for a VNI in the clear, until told to
/// stop.
const CAPTURE: &str = "import json, os, socket, sys
vni, mark, path = bytes.fromhex(sys.argv[1]), sys.argv[2].encode(), sys.argv[3]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
s.settimeout(.2)
plain, esp, others, largest, fragments = [], 0, 0, 0, 0
open(path + '.up', 'w')
while not os.path.exists(path + '.stop'):
    try: f = s.recv(65535)
    except TimeoutError: continue
    kind, p = f[12:14], f[14:]
    proto, inner, size = 0, b'', 0
    if kind == b'\\x08\\x00':
        proto, inner, size = p[9], p[(p[0] & 15) * 4:], int.from_bytes(p[2:4], 'big')
        fragments += proto == 50 and int.from_bytes(p[6:8], 'big') & 0x3fff != 0
    elif kind == b'\\x86\\xdd':
        proto, inner, size = p[6], p[40:], 40 + int.from_bytes(p[4:6], 'big')
        fragments += proto == 44
    vxlan = proto == 17 and inner[8:12] == b'\\x08\\0\\0\\0'
    if mark in f or vxlan and inner[12:16] == vni: plain.append(f.hex())
    elif vxlan: others += 1
    elif proto == 50: esp, largest = esp + 1, max(largest, size)
missed = int.from_bytes(s.getsockopt(263, 6, 8)[4:], sys.byteorder)
print(json.dumps(dict(plain=plain[:3], esp=esp, others=others, largest=largest,
    fragments=fragments, missed=missed)))";

/// Echoes datagrams and one connection after the other, of both families.
const ECHO: &str = "import socket, threading
def datagrams():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(('::', 7))
    while True: s.sendto(*s.recvfrom(9999))
threading.Thread(target=datagrams, daemon=True).start()
l = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(c):
    while (d := c.recv(999)): c.sendall(d)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()";

/// Twenty-five datagrams a second until told to stop; says which were not answered.
const PING: &str = "import os, socket, sys, time
target, name, mark = sys.argv[1], sys.argv[2], sys.argv[3].encode()
s = socket.socket(socket.AF_INET6 if ':' in target else socket.AF_INET, socket.SOCK_DGRAM)
sent, back, due, end = 0, set(), time.monotonic(), None
while end is None or time.monotonic() < end:
    now = time.monotonic()
    if end is None and now >= due:
        try: s.sendto(mark + b' %d' % sent, (target, 7))
        except OSError: pass
        sent, due = sent + 1, max(due + .04, now)
        if os.path.exists('/tmp/stop-' + name): end = now + 2
    s.settimeout(max(.001, (end or due) - now))
    try: back.add(int(s.recv(99).split()[1]))
    except OSError: pass
print('sent', sent, 'lost', sorted(set(range(sent)) - back)[:20], flush=True)";

/// Talks on one connection until told to stop.
const TALK: &str = "import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 7), 30)
mark = sys.argv[3].encode()
while not os.path.exists('/tmp/stop-' + sys.argv[2]):
    s.sendall(mark)
    assert s.recv(99) == mark
    time.sleep(.05)
print('whole', flush=True)";

/// Whether one datagram is answered.
const REACH: &str = "import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.sendto(sys.argv[2].encode(), (sys.argv[1], 7))
s.recv(99)";

/// A datagram that fills the link is answered; one byte more is refused.
const FILL: &str = "import errno, socket, sys
target, mtu, mark = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
v6 = ':' in target
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(41 if v6 else 0, 23 if v6 else 10, 2)
s.settimeout(5)
room = mtu - (48 if v6 else 28)
s.sendto(mark.ljust(room, b'.'), (target, 7))
assert len(s.recv(9999)) == room
try: s.sendto(b'.' * (room + 1), (target, 7))
except OSError as error: assert error.errno == errno.EMSGSIZE
else: raise SystemExit('a larger packet was taken')";

/// Sends a VXLAN packet past all that guards this host: as a frame.
const INJECT: &str = "import socket, struct, sys
here, there, outer_to, outer_from, port, vni, inner_to, inner_from, to, source, text = sys.argv[1:]
mac = lambda text: bytes.fromhex(text.replace(':', ''))
def ip(source, to, payload):
    h = struct.pack('!BBHHHBBH4s4s', 69, 0, 20 + len(payload), 1, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton(to))
    total = sum(struct.unpack('!10H', h))
    total = (total & 0xffff) + (total >> 16)
    total = ~((total & 0xffff) + (total >> 16)) & 0xffff
    return h[:10] + struct.pack('!H', total) + h[12:] + payload
def udp(port, payload): return struct.pack('!HHHH', 40000, port, 8 + len(payload), 0) + payload
inner = mac(inner_to) + mac(inner_from) + b'\\x08\\0' + ip(source, to, udp(9, text.encode()))
vxlan = b'\\x08\\0\\0\\0' + bytes.fromhex(vni) + inner
frame = mac(outer_to) + mac(outer_from) + b'\\x08\\0' + ip(here, there, udp(int(port), vxlan))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for _ in range(3): s.send(frame)";

/// Writes down what comes to port 9.
const LISTEN: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 9))
while True: print(s.recv(999).decode(), flush=True)";

/// Sends an ESP packet that this host has just sent five times more.
const REPLAY: &str = "import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 3))
while True:
    f, (_, _, kind, *_) = s.recvfrom(65535)
    to = socket.inet_aton(sys.argv[1])
    if kind == 4 and f[12:14] == b'\\x08\\0' and f[23] == 50 and f[30:34] == to: break
for _ in range(5): s.send(f)";

/// Tells whoever asks at port 80 of TCP, 81 of UDP and 82 of SCTP who he is.
const TELL: &str = "import socket, threading
def tell(a): return a[0].removeprefix('::ffff:').encode()
def streams(protocol, port):
    l = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    l.setsockopt(41, socket.IPV6_V6ONLY, 0)
    l.bind(('::', port))
    l.listen()
    while True:
        c, a = l.accept()
        c.settimeout(5)
        try:
            if c.recv(99): c.sendall(tell(a))
        except OSError: pass
        c.close()
for protocol, port in (6, 80), (132, 82):
    threading.Thread(target=streams, args=(protocol, port)).start()
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(('::', 81))
while True: s.sendto(tell((a := s.recvfrom(99)[1])), a)";

/// Asks it.
const WHO: &str = "import socket, sys
protocol, host, port, mark = sys.argv[1:]
kind = socket.SOCK_DGRAM if protocol == '17' else socket.SOCK_STREAM
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, kind, int(protocol))
s.settimeout(5)
s.connect((host, int(port)))
s.sendall(mark.encode())
print(s.recv(99).decode())";

/// TCP, UDP, SCTP, and where they are told who they are.
const PROTOCOLS: [(&str, &str); 3] = [("6", "80"), ("17", "81"), ("132", "82")];

/// Three hosts with a task each on an encrypted network and on one that is not, and an eye on the
/// wire.
struct Scene {
    lab: Lab,
    capture: Option<Child>,
    path: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(capture) = &mut self.capture {
            drop(capture.kill());
            drop(capture.wait());
        }
    }
}

/// A process in the namespace of the lab's switch, which sees what passes between hosts.
fn on_switch(lab: &Lab, words: &[&str]) -> Command {
    let switch = format!("swarmctl\0lab-switch\0--lab\0{}\0", lab.name());
    let mut processes = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let is_switch = |path: &PathBuf| {
        std::fs::read(path.join("cmdline")).is_ok_and(|line| line == switch.as_bytes())
    };
    let process = processes.find(is_switch).expect("the switch of the lab");
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}/ns/net", process.display()))
        .args(words);
    command
}

impl Scene {
    fn new(lab: Lab) -> Self {
        let path = std::env::temp_dir().join(format!("capture-{}", lab.name()));
        let mut scene = Self {
            lab,
            capture: None,
            path,
        };
        let create =
            "network create --opt encrypted --subnet 10.0.9.0/24 --subnet fd00:9::/64 secret";
        eventually("every node has said what its kernel can do", || {
            let said = scene.lab.ctl("h1", create);
            holds(said.code == 0, said)
        });
        scene
            .lab
            .ctl("h1", "network create --subnet 10.0.8.0/24 plain")
            .ok();
        let word = scene.vni("secret");
        let path = scene.path.to_str().unwrap().to_owned();
        let mut command = on_switch(&scene.lab, &["python3", "-c", CAPTURE, &word, MARK, &path]);
        scene.capture = Some(command.stdout(Stdio::piped()).spawn().unwrap());
        eventually("the capture runs", || {
            holds(scene.path.with_extension("up").exists(), "not yet")
        });
        scene
    }

    /// The last word of a VXLAN header of this network, in hexadecimal digits.
    fn vni(&self, network: &str) -> String {
        let vni = self.lab.json("h1", &format!("network inspect {network}"))[0]["status"]["vni"]
            .as_u64()
            .unwrap();
        format!("{:08x}", vni << 8)
    }

    /// Runs a task on every host, on both networks, which answers.
    fn populate(&self, replicas: usize) {
        let create = format!(
            "service create --name web --replicas {replicas} --network secret --network plain"
        );
        self.lab
            .ctl("h1", &format!("{create} -- sleep infinity"))
            .ok();
        (1..=replicas).for_each(|slot| self.serve(slot));
    }

    fn serve(&self, slot: usize) {
        self.background(slot, ECHO, "echo", "");
        eventually("the task listens", || {
            let said = self.lab.inside(
                "h1",
                &format!("web.{slot}"),
                &["grep", "-q", ":0007 ", "/proc/net/tcp6"],
            );
            holds(said.code == 0, said)
        });
    }

    fn host(&self, slot: usize) -> String {
        let tasks = self.lab.running("h1", "web");
        let task = tasks.iter().find(|task| task["slot"] == slot).unwrap();
        task["node"].as_str().unwrap().to_owned()
    }

    /// A task on this host.
    fn slot_on(&self, host: &str) -> usize {
        let tasks = self.lab.running("h1", "web");
        let task = tasks.iter().find(|task| task["node"] == host).unwrap();
        task["slot"].as_u64().unwrap() as usize
    }

    /// The addresses of a task: IPv4 and IPv6 on the encrypted network, IPv4 on the other.
    fn addresses(&self, slot: usize) -> Vec<String> {
        let tasks = self.lab.running("h1", "web");
        let task = tasks.iter().find(|task| task["slot"] == slot).unwrap();
        let addresses = task["addresses"].as_array().unwrap();
        addresses
            .iter()
            .map(|address| address.as_str().unwrap().to_owned())
            .collect()
    }

    /// Starts a program in a task; what it says is kept under the name.
    fn background(&self, slot: usize, program: &str, name: &str, target: &str) {
        let line = "nohup python3 -c \"$0\" $1 $2 $3 > /tmp/said-$2 2>&1 &";
        let words = ["sh", "-c", line, program, target, name, MARK];
        self.lab.inside("h1", &format!("web.{slot}"), &words).ok();
    }

    /// Ends it and returns what it said.
    fn finish(&self, slot: usize, name: &str) -> String {
        let line = format!("touch /tmp/stop-{name}; cat /tmp/said-{name}");
        eventually("it has ended", || {
            let said = self
                .lab
                .inside("h1", &format!("web.{slot}"), &["sh", "-c", &line]);
            if said.code == 0 && !said.out.is_empty() {
                Ok(said.out)
            } else {
                Err(format!("{said:?}"))
            }
        })
    }

    /// Waits until a task is answered by another, in both families.
    fn reaches(&self, from: usize, to: usize) {
        for target in &self.addresses(to)[..2] {
            eventually("the other task answers", || {
                let said = self.lab.inside(
                    "h1",
                    &format!("web.{from}"),
                    &["python3", "-c", REACH, target, MARK],
                );
                holds(said.code == 0, said)
            });
        }
    }

    /// What hosts say of each other.
    fn peers(&self) -> Vec<Value> {
        let said = self.lab.ctl("h1", "network inspect --peers secret");
        serde_json::from_str(&said.out).unwrap_or_default()
    }

    fn peer(&self, node: &str, other: &str) -> Value {
        let found = self
            .peers()
            .into_iter()
            .find(|peer| peer["node"] == node && peer["hostname"] == other);
        found
            .map(|mut peer| peer["encryption"].take())
            .unwrap_or_default()
    }

    /// Waits until every host sends with the keys of this epoch and accepts no others.
    fn keys_are_of(&self, epoch: u64) {
        eventually("the keys have changed everywhere", || {
            let peers = self.peers();
            let changed = |peer: &Value| {
                let with = &peer["encryption"];
                with["epoch"] == epoch
                    && with["accepts"]
                        .as_array()
                        .is_some_and(|accepts| accepts.len() == 1)
            };
            holds(!peers.is_empty() && peers.iter().all(changed), peers)
        });
    }

    /// Waits until no host has anything to do or to say against itself.
    fn settles(&self) {
        eventually("all is as it should be", || {
            let said = self.lab.ctl("h1", "network verify");
            holds(said.code == 0, said)
        });
    }

    fn shell(&self, host: &str, line: &str) -> String {
        self.lab.exec(host, &["sh", "-c", line]).ok()
    }

    /// Packets that a host's rules have dropped for coming, or going, in the clear.
    fn dropped(&self, host: &str, chain: &str) -> u64 {
        let text = self.shell(host, &format!("nft -j list chain inet netd {chain}"));
        let listing: Value = serde_json::from_str(&text).unwrap();
        let rules = listing["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|item| item["rule"]["expr"].as_array());
        rules
            .flatten()
            .filter_map(|expression| expression["counter"]["packets"].as_u64())
            .sum()
    }

    /// Packets that a host's policies have dropped.
    fn refused(&self, host: &str) -> u64 {
        let text = self.shell(host, "cat /proc/net/xfrm_stat");
        let counts = text
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace));
        let policies = [
            "XfrmInNoPols",
            "XfrmInTmplMismatch",
            "XfrmInPolBlock",
            "XfrmOutPolBlock",
            "XfrmOutNoStates",
        ];
        let counts = counts.filter(|(name, _)| policies.contains(name));
        counts
            .map(|(_, count)| count.trim().parse::<u64>().unwrap())
            .sum()
    }

    /// Ends the capture: there was so much to see, and none of it in the clear.
    fn nothing_was_in_the_clear(&mut self, least: u64) -> Value {
        std::fs::write(self.path.with_extension("stop"), "").unwrap();
        let output = self.capture.take().unwrap().wait_with_output().unwrap();
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&seen["plain"], &seen["missed"]),
            (&Value::from(Vec::<Value>::new()), &Value::from(0)),
            "{seen}"
        );
        assert!(
            seen["esp"].as_u64().unwrap() > least,
            "there was something to see: {seen}"
        );
        seen
    }

    /// The same of full packets, none of which came in pieces.
    fn nothing_was_seen(&mut self, largest: u64) {
        let seen = self.nothing_was_in_the_clear(500);
        assert_eq!(
            (&seen["largest"], &seen["fragments"]),
            (&Value::from(largest), &Value::from(0)),
            "{seen}"
        );
    }

    /// What injects plaintext at the first of two tasks, on `h1`, as if from the second, on `h2`.
    fn injection(
        &self,
        network: &str,
        port: u16,
        [to, from]: [usize; 2],
        text: &str,
    ) -> Vec<String> {
        let address = if network == "secret" { 0 } else { 2 };
        let vni = self.vni(network);
        let router = |host: &str| {
            let show = format!(
                "ip netns exec $n cat /sys/class/net/vx-{}/address 2>/dev/null",
                &vni[..6]
            );
            let line =
                format!("for n in $(ip netns | grep -o '^netd-[0-9a-z]*'); do {show}; done; true");
            self.shell(host, &line).trim().to_owned()
        };
        let mac = |host: &str| {
            self.shell(host, "cat /sys/class/net/eth0/address")
                .trim()
                .to_owned()
        };
        let (outer, inner) = ([mac("h1"), mac("h2")], [router("h1"), router("h2")]);
        let addresses = [to, from].map(|slot| self.addresses(slot)[address].clone());
        let head = ["python3", "-c", INJECT, "192.168.100.12", "192.168.100.11"].map(str::to_owned);
        let numbers = [port.to_string(), vni];
        [
            &head[..],
            &outer,
            &numbers,
            &inner,
            &addresses,
            &[text.to_owned()],
        ]
        .concat()
    }

    fn inject(&self, injection: &[String]) {
        let words: Vec<&str> = injection.iter().map(String::as_str).collect();
        self.lab.exec("h2", &words).ok();
    }
}

fn lost_nothing(said: &str) {
    assert!(said.trim_end().ends_with("lost []"), "{said}");
}

#[test]
fn no_plaintext_crosses_the_wire_and_new_keys_lose_nothing() {
    vm::required();
    let mut scene = Scene::new(Lab::up(3));
    scene.populate(3);
    let [a, b, c] = ["h1", "h2", "h3"].map(|host| scene.slot_on(host));
    [(a, b), (b, c), (c, a)]
        .into_iter()
        .for_each(|(from, to)| scene.reaches(from, to));
    for target in &scene.addresses(b)[..2] {
        let fill = ["python3", "-c", FILL, target, "1416", MARK];
        scene.lab.inside("h1", &format!("web.{a}"), &fill).ok();
    }
    keys_change_under_traffic(&scene, [a, b, c]);
    what_is_lost_is_replaced(&scene, [a, b, c]);
    daemons_and_hosts_die(&scene, [a, b]);
    each_barrier_holds_alone(&scene, [a, b]);
    scene.nothing_was_seen(1500);
    what_is_injected_is_dropped(&scene, [a, b]);
    what_is_replayed_is_dropped(&scene, [a, b]);
    when_the_last_network_goes_so_does_all_of_it(&scene);
}

fn keys_change_under_traffic(scene: &Scene, [a, b, c]: [usize; 3]) {
    scene.keys_are_of(1);
    scene.background(a, PING, "ping4", &scene.addresses(b)[0]);
    scene.background(b, PING, "ping6", &scene.addresses(c)[1]);
    scene.background(c, TALK, "talk", &scene.addresses(a)[0]);
    scene.lab.ctl("h2", "network rotate-key").ok();
    let refusal = scene.lab.ctl("h1", "network rotate-key").refused();
    assert!(
        refusal.contains("a change of keys is under way") && refusal.contains("next:"),
        "{refusal}"
    );
    scene.keys_are_of(2);
    lost_nothing(&scene.finish(a, "ping4"));
    lost_nothing(&scene.finish(b, "ping6"));
    assert_eq!(scene.finish(c, "talk").trim(), "whole");
    let with = scene.peer("h1", "h2");
    assert!(
        with["sent_packets"].as_u64() > Some(0) && with["received_packets"].as_u64() > Some(0),
        "{with}"
    );
    assert!(
        with["last_seen"].is_u64() && with["forged"] == 0 && with["replayed"] == 0,
        "{with}"
    );
}

/// A pair that has lost its associations gets others; the third host's flows do not notice.
fn what_is_lost_is_replaced(scene: &Scene, [a, b, c]: [usize; 3]) {
    let before = (scene.peer("h1", "h2"), scene.peer("h1", "h3"));
    scene.background(a, PING, "ping", &scene.addresses(c)[0]);
    scene.background(a, PING, "through", &scene.addresses(b)[0]);
    scene.shell("h2", "ip xfrm state flush; ip xfrm policy flush");
    scene.reaches(a, b);
    scene.reaches(b, c);
    lost_nothing(&scene.finish(a, "ping"));
    scene.finish(a, "through");
    let after = (scene.peer("h1", "h2"), scene.peer("h1", "h3"));
    assert_ne!(
        after.0["sends_with"], before.0["sends_with"],
        "what was received with is not received with again"
    );
    assert_ne!(after.0["accepts"], before.0["accepts"]);
    assert_eq!(after.1["sends_with"], before.1["sends_with"]);
    scene.shell("h1", "ip xfrm policy flush");
    scene.reaches(a, b);
    scene.settles();
}

/// Daemons are killed one after the other, then a whole host, which is a manager; it comes back and
/// takes part again.
fn daemons_and_hosts_die(scene: &Scene, [a, b]: [usize; 2]) {
    scene.background(a, PING, "deaths", &scene.addresses(b)[0]);
    for host in ["h1", "h2"] {
        run(scene.lab.verb("crash").arg(host)).ok();
        scene.settles();
    }
    let before = scene.peer("h3", "h1");
    run(scene.lab.verb("kill").arg("h3")).ok();
    eventually("its task runs elsewhere", || {
        let tasks = scene.lab.running("h1", "web");
        holds(
            tasks.len() == 3 && tasks.iter().all(|task| task["node"] != "h3"),
            tasks,
        )
    });
    run(scene.lab.verb("start").arg("h3")).ok();
    scene.settles();
    lost_nothing(&scene.finish(a, "deaths"));
    scene.lab.ctl("h1", "service scale web=6").ok();
    let slot = eventually("the host that was away runs a task again", || {
        let tasks = scene.lab.running("h1", "web");
        let there = tasks.iter().find(|task| task["node"] == "h3");
        there
            .and_then(|task| task["slot"].as_u64())
            .ok_or_else(|| format!("{tasks:?}"))
    }) as usize;
    scene.serve(slot);
    scene.reaches(a, slot);
    scene.reaches(slot, a);
    assert_ne!(
        scene.peer("h3", "h1")["sends_with"],
        before["sends_with"],
        "a sequence of packets began twice"
    );
    scene.settles();
}

/// The daemon sleeps and one barrier is gone: the other one keeps plaintext in.
fn each_barrier_holds_alone(scene: &Scene, [a, b]: [usize; 2]) {
    scene.background(a, PING, "barriers", &scene.addresses(b)[0]);
    for (gone, counted) in [
        (
            "ip xfrm policy flush; ip xfrm state flush",
            (|scene| scene.dropped("h1", "clear-out")) as fn(&Scene) -> u64,
        ),
        ("nft flush ruleset; ip xfrm state flush", |scene| {
            scene.refused("h1")
        }),
    ] {
        scene.shell("h1", "kill -STOP $(cat /run/netd.pid)");
        let before = counted(scene);
        scene.shell("h1", gone);
        eventually("what would go in the clear is dropped", || {
            let now = counted(scene);
            holds(now > before + 20, (before, now))
        });
        scene.shell("h1", "kill -CONT $(cat /run/netd.pid)");
        scene.reaches(a, b);
        scene.settles();
    }
    scene.finish(a, "barriers");
}

fn what_is_injected_is_dropped(scene: &Scene, [a, b]: [usize; 2]) {
    scene.background(a, LISTEN, "listen", "");
    let heard = || {
        scene
            .lab
            .inside("h1", &format!("web.{a}"), &["cat", "/tmp/said-listen"])
            .ok()
    };
    let control = scene.injection("plain", 4789, [a, b], "control");
    eventually("what may come in the clear is heard", || {
        scene.inject(&control);
        holds(heard().contains("control"), heard())
    });
    for port in [4789, 4790, 4795] {
        let before = scene.dropped("h1", "clear-in");
        scene.inject(&scene.injection("secret", port, [a, b], "injected"));
        eventually("it is dropped and counted", || {
            let now = scene.dropped("h1", "clear-in");
            holds(now >= before + 3, (port, before, now))
        });
    }
    let injection = scene.injection("secret", 4790, [a, b], "injected");
    scene.shell("h1", "kill -STOP $(cat /run/netd.pid); nft flush ruleset");
    let before = scene.refused("h1");
    scene.inject(&injection);
    eventually("the policies drop it too", || {
        holds(scene.refused("h1") >= before + 3, scene.refused("h1"))
    });
    scene.shell("h1", "kill -CONT $(cat /run/netd.pid)");
    scene.settles();
    assert!(!heard().contains("injected"), "{}", heard());
}

fn what_is_replayed_is_dropped(scene: &Scene, [a, b]: [usize; 2]) {
    assert_eq!(
        (scene.host(a), scene.host(b)),
        ("h1".to_owned(), "h2".to_owned())
    );
    let before = scene.peer("h2", "h1");
    scene.background(a, PING, "replay", &scene.addresses(b)[0]);
    scene
        .lab
        .exec(
            "h1",
            &["timeout", "30", "python3", "-c", REPLAY, "192.168.100.12"],
        )
        .ok();
    scene.finish(a, "replay");
    let after = scene.peer("h2", "h1");
    assert!(
        after["replayed"].as_u64() >= before["replayed"].as_u64().map(|count| count + 5),
        "{before} {after}"
    );
}

fn when_the_last_network_goes_so_does_all_of_it(scene: &Scene) {
    scene.lab.ctl("h1", "service rm web").ok();
    eventually("nothing of IPsec is left", || {
        let left = scene
            .lab
            .exec("h1", &["sh", "-c", "ip xfrm state; ip xfrm policy"])
            .ok();
        holds(left.is_empty(), left)
    });
    let logs: BTreeSet<String> = ["h1", "h2", "h3"]
        .map(|host| run(scene.lab.verb("logs").arg(host)).ok())
        .into();
    assert!(logs.iter().all(|log| !log.contains("panicked")), "{logs:?}");
}

#[test]
fn hosts_that_know_each_other_by_ipv6_are_no_different() {
    vm::required();
    let lab = Lab::up(2);
    let (h1, h2) = ("fd00:6c61:62::11", "fd00:6c61:62::12");
    ["h2", "h1"]
        .into_iter()
        .for_each(|host| drop(lab.ctl(host, "leave --force").ok()));
    lab.ctl("h1", &format!("init --advertise-addr {h1}")).ok();
    let token = lab.ctl("h1", "token worker -q").ok();
    lab.ctl(
        "h2",
        &format!(
            "join --token {} --advertise-addr {h2} [{h1}]:2377",
            token.trim()
        ),
    )
    .ok();
    let mut scene = Scene::new(lab);
    scene.populate(2);
    let [a, b] = ["h1", "h2"].map(|host| scene.slot_on(host));
    scene.reaches(a, b);
    for target in &scene.addresses(b)[..2] {
        scene
            .lab
            .inside(
                "h1",
                &format!("web.{a}"),
                &["python3", "-c", FILL, target, "1396", MARK],
            )
            .ok();
    }
    scene.background(a, PING, "ping", &scene.addresses(b)[0]);
    scene.background(b, TALK, "talk", &scene.addresses(a)[1]);
    scene.lab.ctl("h2", "network rotate-key").ok();
    scene.keys_are_of(2);
    lost_nothing(&scene.finish(a, "ping"));
    assert_eq!(scene.finish(b, "talk").trim(), "whole");
    scene.nothing_was_seen(1500);
}

#[test]
fn callers_of_encrypted_ports_and_vips_are_seen() {
    vm::required();
    ["sctp", "ip_vs"]
        .iter()
        .for_each(|module| drop(run(Command::new("modprobe").arg(module)).ok()));
    let lab = Lab::up(2);
    let outside = ["192.168.100.200", "fd00:6c61:62::200"];
    let add = format!(
        "ip address add {}/24 dev br0; ip address add {}/64 dev br0 nodad",
        outside[0], outside[1]
    );
    run(&mut on_switch(&lab, &["sh", "-c", &add])).ok();
    let mut scene = Scene::new(lab);
    let create = "swarmctl service create --name who --network secret --publish 8080:80 --publish \
                  8081:81/udp";
    let create: Vec<&str> = create
        .split(' ')
        .chain(["--publish", "8082:82/sctp", "--", "python3", "-c", TELL])
        .collect();
    scene.lab.exec("h1", &create).ok();
    let host = scene.lab.running("h1", "who").remove(0)["node"]
        .as_str()
        .unwrap()
        .to_owned();
    // A host without a task leads there, and so does the task's own.
    let other = if host == "h1" { 2 } else { 1 };
    for (number, protocols) in [(other, &PROTOCOLS[..]), (3 - other, &PROTOCOLS[..1])] {
        let called = [
            format!("192.168.100.1{number}"),
            format!("fd00:6c61:62::1{number}"),
        ];
        for (address, client) in called.iter().zip(outside) {
            for (protocol, port) in protocols {
                let words = [
                    "python3",
                    "-c",
                    WHO,
                    protocol,
                    address,
                    &format!("80{port}"),
                    "?",
                ];
                eventually("the caller is told who he is", || {
                    let said = run(&mut on_switch(&scene.lab, &words));
                    holds(said.out.trim() == client, (protocol, address, said))
                });
            }
        }
    }
    scene
        .lab
        .ctl(
            "h1",
            "service create --name asker --replicas 2 --network secret -- sleep infinity",
        )
        .ok();
    let vips =
        scene.lab.json("h1", "service inspect who").remove(0)["status"]["virtual_ips"].clone();
    for asker in scene.lab.running("h1", "asker") {
        for (family, (protocol, port)) in [0, 1]
            .into_iter()
            .flat_map(|family| PROTOCOLS.map(|way| (family, way)))
        {
            let (vip, client) = (
                vips[family].as_str().unwrap(),
                asker["addresses"][family].as_str().unwrap(),
            );
            let words = ["python3", "-c", WHO, protocol, vip, port, MARK];
            eventually("a task is told who it is", || {
                let said = scene
                    .lab
                    .inside("h1", asker["name"].as_str().unwrap(), &words);
                holds(said.out.trim() == client, (protocol, vip, said))
            });
        }
    }
    scene.nothing_was_in_the_clear(30);
}
