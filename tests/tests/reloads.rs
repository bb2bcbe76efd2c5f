//! Reloads of a host's firewall, which begin by taking away every rule that there is: no connection
//! is reset by them, whoever began it and by whichever way.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use tests::{Lab, beside, eventually, holds, run};

/// Somebody on the hosts' LAN who is no host.
const OUTSIDE: [&str; 2] = ["192.168.100.200", "fd00:6c61:62::200"];
const HOST: [&str; 2] = ["192.168.100.11", "fd00:6c61:62::11"];

/// Returns each byte, for as long as the client likes.
const ECHO: &str = r#"
import asyncio
async def echo(reader, writer):
    try:
        while byte := await reader.read(1):
            writer.write(byte)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def main():
    hosts = "0.0.0.0", "::"
    servers = [await asyncio.start_server(echo, host, 80, backlog=999) for host in hosts]
    await asyncio.gather(*(server.serve_forever() for server in servers))
asyncio.run(main())
"#;

/// One byte there and back.
const ONE: &str = r#"
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as called:
    called.sendall(b"?")
    assert called.recv(1) == b"?"
"#;

/// Holds so many connections, on each of which a byte comes and goes ten times a second, and
/// begins ten new ones a second, until its input ends. Says what has failed, and how; a new one
/// that ends by the error `refusal` (`none`: there is no such) is begun again.
const CALLERS: &str = r#"
import asyncio, errno, sys
count, port, refusal, addresses = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
ended, exchanges, new = asyncio.Event(), 0, 0
async def ask(reader, writer):
    global exchanges
    writer.write(b"?")
    await asyncio.wait_for(reader.readexactly(1), 60)
    exchanges += 1
async def hold(address):
    reader, writer = await asyncio.open_connection(address, port)
    await ask(reader, writer)
    held.release()
    while not ended.is_set():
        await ask(reader, writer)
        await asyncio.sleep(.1)
    writer.close()
async def begin(address):
    global new
    while not ended.is_set():
        try:
            reader, writer = await asyncio.open_connection(address, port)
        except OSError as error:
            if errno.errorcode.get(error.errno) != refusal:
                raise
            continue
        await ask(reader, writer)
        writer.close()
        new += 1
        await asyncio.sleep(.1)
async def said(what, address, task):
    try:
        await task
    except Exception as error:
        print("failed", what, address, type(error).__name__, error, flush=True)
        held.release()
async def main():
    global held
    held = asyncio.Semaphore(0)
    of = [addresses[at % len(addresses)] for at in range(count)]
    callers = [said("held", address, hold(address)) for address in of]
    callers += [said("new", address, begin(address)) for address in addresses]
    callers = [asyncio.create_task(caller) for caller in callers]
    for _ in of:
        await held.acquire()
    print("held", flush=True)
    await asyncio.get_event_loop().run_in_executor(None, sys.stdin.read)
    ended.set()
    await asyncio.gather(*callers)
    print("exchanges", exchanges, "new", new, flush=True)
asyncio.run(main())
"#;

/// Programs that hold connections.
struct Callers(Child, BufReader<ChildStdout>);

impl Callers {
    fn begin(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child, said)
    }

    /// What failed, and how much did not.
    fn end(mut self) -> (Vec<String>, String) {
        drop(self.0.stdin.take());
        let mut lines: Vec<String> = self.1.lines().map(Result::unwrap).collect();
        assert!(self.0.wait().unwrap().success());
        let counts = lines.pop().unwrap();
        (lines, counts)
    }
}

/// Callers from outside and at the host's loopback by a published port, and a task by the virtual
/// IP: fifty connections each.
fn callers(lab: &Lab, refusal: &str) -> Vec<Callers> {
    let arguments = |port: &str, addresses: &[&str]| {
        let words = ["python3", "-c", CALLERS, "50", port, refusal];
        let words = words.iter().chain(addresses);
        words.map(ToString::to_string).collect::<Vec<_>>()
    };
    let at_home = |addresses: &[&str]| {
        let words = arguments("8080", addresses);
        lab.command("h1", &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let service = lab.json("h1", "service inspect echo").remove(0);
    let vips: Vec<&str> = service["status"]["virtual_ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vip| vip.as_str().unwrap())
        .collect();
    let tasks = lab.running("h1", "echo");
    let task = tasks.iter().find(|task| task["node"] == "h1").unwrap();
    let words = arguments("80", &vips);
    let words = words.iter().map(String::as_str);
    let exec = ["swarmctl", "exec", task["name"].as_str().unwrap(), "--"];
    let inside: Vec<&str> = exec.into_iter().chain(words).collect();
    vec![
        Callers::begin(beside(lab).args(arguments("8080", &HOST[..1]))),
        Callers::begin(beside(lab).args(arguments("8080", &HOST[1..]))),
        Callers::begin(&mut at_home(&["127.0.0.1", "::1"])),
        Callers::begin(&mut lab.command("h1", &inside)),
    ]
}

/// As `apt install ufw; ufw enable` leaves a host, cluster traffic and nothing else allowed.
const UFW: &str = "mount -t tmpfs tmpfs /run/lock && cp -a /etc/ufw /run/ufw && \
    mount --bind /run/ufw /etc/ufw && \
    ufw allow 2377/tcp && ufw allow 4789/udp && ufw --force enable";

/// firewalld as its package leaves it, on a bus of its own.
const FIREWALLD: &str = "mkdir -p /run/dbus && cp -a /etc/firewalld /run/firewalld.d && \
    dbus-daemon --config-file=/usr/share/dbus-1/system.conf --fork --nopidfile \
        --address=$DBUS_SYSTEM_BUS_ADDRESS && \
    { firewalld --nofork --nopid --system-config /run/firewalld.d >/run/firewalld.log 2>&1 & } && \
    for time in $(seq 50); do firewall-cmd --state && break; sleep .2; done && \
    firewall-cmd --add-port 2377/tcp --add-port 4789/udp --permanent && \
    firewall-cmd --reload || { cat /run/firewalld.log; date; false; }";

/// Makes a host's firewall and reloads it so many times while callers hold on; `reload` is a line
/// of shell.
fn nobody_is_reset(lab: &Lab, (what, times): (&str, usize), make: &str, reload: &str) {
    // While it reloads, firewalld rejects what it has no rule for yet.
    let refusal = if what == "firewalld" {
        "EHOSTUNREACH"
    } else {
        "none"
    };
    let callers = callers(lab, refusal);
    // Both find their files and sockets where they always are, in a view of the host's own.
    let script = format!(
        "export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/bus; exec >&2; {make}\n\
         test $? = 0 || exit 1; \
         for time in $(seq {times}); do {{ {reload}; }} || exit 1; sleep .4; done; \
         kill $(jobs -p) 2>/dev/null; true"
    );
    let said = lab.exec("h1", &["unshare", "-m", "bash", "-c", &script]);
    let ended: Vec<_> = callers.into_iter().map(Callers::end).collect();
    for (failed, counts) in ended {
        println!("{what}: {counts}");
        assert_eq!(failed, [""; 0], "{what}: {counts}");
    }
    assert_eq!(said.code, 0, "{what}: {said:?}");
}

/// What a host's administrator writes by hand, and `systemctl reload nftables` loads.
const BY_HAND: &str = "
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname lo accept
    meta l4proto icmpv6 accept
    tcp dport 2377 accept
    udp dport 4789 accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
  }
}
";

/// Two hosts with a task of a service on each, and somebody beside them.
fn lab() -> Lab {
    let lab = Lab::up(2);
    let address = format!(
        "ip address add {}/24 dev br0; ip address add {}/64 dev br0 nodad",
        OUTSIDE[0], OUTSIDE[1]
    );
    run(beside(&lab).args(["sh", "-c", &address])).ok();
    let create = "swarmctl service create --name echo --replicas 2 --publish 8080:80 -- python3 -c";
    let create: Vec<&str> = create.split(' ').chain([ECHO]).collect();
    lab.exec("h1", &create).ok();
    for address in HOST {
        eventually("the port is open", || {
            let said = run(beside(&lab).args(["python3", "-c", ONE, address, "8080"]));
            holds(said.code == 0, said)
        });
    }
    lab
}

/// How often a firewall is reloaded that takes seconds for it.
fn reloads() -> usize {
    let number = std::env::var("RELOADS").ok();
    number.map_or(5, |number| number.parse().expect("a number"))
}

#[test]
fn flushes_of_all_rules_reset_no_connection() {
    let lab = lab();
    nobody_is_reset(&lab, ("flushes", 20), "true", "nft flush ruleset");
    let file = format!("cat > /run/by-hand.nft <<'END'{BY_HAND}END\n");
    nobody_is_reset(&lab, ("by hand", 20), &file, "nft -f /run/by-hand.nft");
}

#[test]
fn reloads_of_ufw_reset_no_connection() {
    nobody_is_reset(&lab(), ("ufw", reloads()), UFW, "ufw reload");
}

#[test]
fn reloads_of_firewalld_reset_no_connection() {
    // On a busy machine it reloads, and says so too late.
    let reload = "firewall-cmd --reload || firewall-cmd --state";
    nobody_is_reset(&lab(), ("firewalld", reloads()), FIREWALLD, reload);
}
