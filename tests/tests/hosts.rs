//! Hosts of the cluster, and machines that are no members, call tasks of an overlay by address and
//! by name, and are seen as who they are.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;
use tests::{Lab, Said, beside, eventually, field, holds, run};

/// A machine on the hosts' LAN that is no member.
const OUTSIDE: [&str; 2] = ["192.168.100.200", "fd00:6c61:62::200"];
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
const CURL: [&str; 4] = ["curl", "-sSg", "-m", "2"];

/// Asks over one connection again and again, says that it does, and ends once nobody answers.
const HELD: &str = r#"
import http.client, sys, time
far = http.client.HTTPConnection(sys.argv[1], 80, timeout=3)
end, count = time.monotonic() + 60, 0
far.connect()
sock = far.sock
while time.monotonic() < end:
    try:
        far.request("GET", "/")
        far.getresponse().read()
        assert far.sock is sock
    except OSError:
        sys.exit(0)
    count += 1
    if count == 1:
        print("held", flush=True)
    time.sleep(0.1)
sys.exit("it is still answered")
"#;

fn url(address: &str) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]/"),
        false => format!("http://{address}/"),
    }
}

/// A machine outside runs a command.
fn outside(lab: &Lab, words: &[&str]) -> Said {
    run(beside(lab).args(words))
}

fn outside_calls(lab: &Lab, address: &str) -> Said {
    outside(lab, &[&CURL[..], &[&url(address)]].concat())
}

/// The addresses of each running task of `web`, IPv4 first.
fn tasks(lab: &Lab) -> BTreeMap<String, [String; 2]> {
    let mut found = BTreeMap::new();
    for task in lab.running("h1", "web") {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let addresses = [text(&task["addresses"][0]), text(&task["addresses"][1])];
        found.insert(text(&task["name"]), addresses);
    }
    found
}

/// Waits until a call from this host is answered, by one that sees it with its own addresses.
fn host_calls(lab: &Lab, host: &str, address: &str) {
    let own = match address.contains(':') {
        true => "fd6e:6574:6401:".to_owned(),
        false => format!("192.168.100.1{}", &host[1..]),
    };
    eventually(&format!("{host} calls {address}"), || {
        let said = lab.exec(host, &[&CURL[..], &[&url(address)]].concat());
        holds(said.code == 0, &said)?;
        let client = field(&said.out, "client").concat();
        holds(client.starts_with(&own), client)
    });
}

/// What netd answers the host's own programs, as a code and addresses.
fn asked(lab: &Lab, host: &str, name: &str) -> (String, Vec<String>) {
    let said = lab.exec(host, &["dig", "@127.0.0.110", name, "A"]).ok();
    let status = said
        .split("status: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let records = said
        .lines()
        .filter(|line| !line.starts_with(';') && line.contains("\tA\t"));
    let addresses = records.filter_map(|line| line.rsplit('\t').next().map(str::to_owned));
    (status.unwrap_or_default().to_owned(), addresses.collect())
}

fn has_route(lab: &Lab, host: &str) -> bool {
    lab.exec(host, &["ip", "route"])
        .ok()
        .contains("10.0.9.0/24")
}

#[test]
fn hosts_and_machines_outside_call_what_is_open_to_them() {
    let lab = Lab::up(3);
    for create in [
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 open",
        "network create --internal --subnet 10.0.8.0/24 secret",
        "network create --subnet 10.0.7.0/24 other",
        "service create --name web --replicas 2 --network open -- netd whoami --port 80",
        "service create --name shut --network other -- netd whoami --port 80",
    ] {
        lab.ctl("h1", create).ok();
    }
    let web = tasks(&lab);
    let service = lab.json("h1", "service inspect web");
    let vip = service[0]["status"]["virtual_ips"][0]
        .as_str()
        .expect("an address")
        .to_owned();
    let free = HOSTS.into_iter().find(|host| {
        !lab.running("h1", "web")
            .iter()
            .any(|task| task["node"] == *host)
    });
    let free = free.expect("a host without a task of web");
    assert!(!has_route(&lab, free), "nobody may call before it is said");

    let refusal = lab.ctl("h2", "network update --hosts on secret").refused();
    assert!(
        refusal.contains("internal") && refusal.contains("next:"),
        "{refusal}"
    );
    lab.ctl("h2", "network update --hosts on open").ok();
    for host in HOSTS {
        for address in web.values().flatten().chain([&vip]) {
            host_calls(&lab, host, address);
        }
    }
    let (name, addresses) = web.first_key_value().expect("a task");
    eventually("hosts find names", || {
        let said = asked(&lab, free, "web.open.netd.internal");
        holds(said == ("NOERROR".to_owned(), vec![vip.clone()]), said)
    });
    let said = asked(&lab, free, &format!("{name}.open.netd.internal"));
    assert_eq!(said.1, [addresses[0].clone()]);
    assert_eq!(asked(&lab, free, "shut.other.netd.internal").0, "NXDOMAIN");
    assert_eq!(asked(&lab, free, "example.com").0, "REFUSED");

    // Tasks are told apart from hosts.
    let url_of_task = url(&addresses[0]);
    let said = lab
        .inside("h1", name, &[&CURL[..], &[&url_of_task]].concat())
        .ok();
    assert_eq!(field(&said, "client"), [addresses[0].as_str()]);

    // A machine outside, by a static route to a host that has no task.
    let number = &free[1..];
    for words in [
        format!("address add {}/24 dev br0", OUTSIDE[0]),
        format!("address add {}/64 dev br0 nodad", OUTSIDE[1]),
        format!("route add 10.0.9.0/24 via 192.168.100.1{number}"),
        format!("route add fd00:9::/64 via fd00:6c61:62::1{number}"),
    ] {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        outside(&lab, &words).ok();
    }
    let reached = outside_calls(&lab, &addresses[0]);
    assert_ne!(reached.code, 0, "it is not exposed: {reached:?}");
    let refusal = lab
        .ctl("h1", "network expose --to 10.0.7.0/28 open")
        .refused();
    assert!(refusal.contains("overlaps"), "{refusal}");
    let expose = format!(
        "network expose --to {}/32 --to {}/128 open",
        OUTSIDE[0], OUTSIDE[1]
    );
    lab.ctl("h1", &expose).ok();
    for (address, client) in addresses.iter().zip(OUTSIDE) {
        eventually(&format!("a machine outside calls {address}"), || {
            let said = outside_calls(&lab, address);
            holds(
                said.code == 0 && field(&said.out, "client") == [client],
                said,
            )
        });
    }

    // What is damaged is mended, and a daemon that starts anew goes on.
    lab.exec(free, &["nft", "flush", "ruleset"]).ok();
    lab.exec(free, &["ip", "route", "del", "10.0.9.0/24"]).ok();
    run(lab.verb("crash").arg(free)).ok();
    host_calls(&lab, free, &addresses[0]);
    eventually("a machine outside calls again", || {
        let said = outside_calls(&lab, &addresses[0]);
        holds(said.code == 0, said)
    });

    let mut held = beside(&lab);
    let held = held.args(["python3", "-c", HELD, &addresses[0]]);
    let mut held = held.stdout(Stdio::piped()).spawn().expect("python3 runs");
    let mut line = String::new();
    let out = held.stdout.take().expect("its output");
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line, "held\n");
    let conceal = format!("network expose --rm {}/32 open", OUTSIDE[0]);
    lab.ctl("h1", &conceal).ok();
    eventually("the machine may no longer", || {
        let said = outside_calls(&lab, &addresses[0]);
        holds(said.code != 0, said)
    });
    let cut = held.wait().expect("it ends");
    assert!(cut.success(), "a connection under way ends, too");
    lab.ctl("h1", "network update --hosts off open").ok();
    let rest = format!("network expose --rm {}/128 open", OUTSIDE[1]);
    lab.ctl("h1", &rest).ok();
    eventually("a host without a task has no part in it", || {
        holds(!has_route(&lab, free), free)
    });
    let owner = HOSTS
        .into_iter()
        .find(|host| *host != free)
        .expect("a host");
    let said = lab.exec(
        owner,
        &[
            "dig",
            "+time=1",
            "+tries=1",
            "@127.0.0.110",
            "web.open.netd.internal",
        ],
    );
    assert_ne!(said.code, 0, "{said:?}");
}
