//! The same between hosts that encrypt: a tunnel made by hand over ESP made by hand, and a network
//! of ours. Needs a kernel with ESP; in the virtual machine of `make test-vm` time is counted in
//! instructions, so two rounds tell.

use anyhow::Result;
use tests::{Lab, eventually, holds};

use super::{OURS, Path, Servers, address, in_turn, path, pinned, sandbox, shell, tasks};

const ROUNDS: usize = 2;

/// Measures and prints.
pub fn compare() -> Result<()> {
    let lab = Lab::up(2);
    let mut servers = Servers {
        lab: &lab,
        running: Vec::new(),
    };
    let bare = shell(
        &lab,
        OURS[1],
        "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1",
    );
    servers.start(OURS[1], &[])?;
    OURS.iter()
        .enumerate()
        .for_each(|(index, host)| made_by_hand(&lab, host, index + 1));
    let mut paths = vec![
        path("bare link", OURS[0], &[], &bare),
        path("VXLAN made by hand", OURS[0], &[], "10.98.0.2"),
        path("VXLAN made by hand over ESP", OURS[0], &[], "10.99.0.2"),
    ];
    paths.extend(ours(&lab)?);
    in_turn(&lab, &paths, ROUNDS)
}

/// The algorithm and the window are ours; addresses are on the devices themselves.
fn made_by_hand(lab: &Lab, host: &str, number: usize) {
    let (own, other) = (
        format!("192.168.100.1{number}"),
        format!("192.168.100.1{}", 3 - number),
    );
    let key = format!("0x{}", "5a".repeat(36));
    let form =
        format!("mode transport flag esn replay-window 1024 aead 'rfc4106(gcm(aes))' {key} 128");
    let association = |from: &str, to: &str, spi: usize| {
        format!("ip xfrm state add src {from} dst {to} proto esp spi 0x99{spi} reqid 77 {form}")
    };
    let policy = |from: &str, to: &str, direction: &str| {
        let template = format!("tmpl src {from} dst {to} proto esp reqid 77 mode transport");
        format!(
            "ip xfrm policy add src {from} dst {to} proto udp dport 4800 dir {direction} {template}"
        )
    };
    let tunnel = |name: &str, id: usize, port: u16, mtu: u32| {
        let ends = format!("local {own} remote {other} dstport {port} nolearning");
        format!(
            "ip link add {name} type vxlan id {id} {ends}; \
             ip addr add 10.{id}.0.{number}/24 dev {name}; ip link set {name} mtu {mtu} up"
        )
    };
    let lines = [
        association(&own, &other, number),
        association(&other, &own, 3 - number),
        policy(&own, &other, "out"),
        policy(&other, &own, "in"),
        tunnel("secret", 99, 4800, 1416),
        tunnel("clear", 98, 4801, 1450),
    ];
    shell(lab, host, &lines.join("\n"));
}

/// Tasks on an encrypted network and on one that is not.
fn ours(lab: &Lab) -> Result<Vec<Path>> {
    eventually("every node has said what its kernel can do", || {
        let said = lab.ctl(
            "h1",
            "network create --encrypted --subnet 10.0.9.0/24 secret",
        );
        holds(said.code == 0, said)
    });
    lab.ctl("h1", "network create --subnet 10.0.8.0/24 clear")
        .ok();
    let serve = pinned(&[], &["serve"])?.join(" ");
    let create = "service create --name peer --replicas 2 --network secret --network clear";
    lab.ctl("h1", &format!("{create} -- {serve}")).ok();
    let [near, far] = tasks(lab, "peer")?;
    Ok(vec![
        path(
            "ours, task to task",
            OURS[0],
            &sandbox(&near),
            address(&far, 1),
        ),
        path(
            "ours, encrypted",
            OURS[0],
            &sandbox(&near),
            address(&far, 0),
        ),
    ])
}
