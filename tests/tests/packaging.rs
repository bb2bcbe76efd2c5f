//! What packaging/ holds, looked at by systemd's own programs; there need be no systemd at work.
//! And where `make install` puts what others start.

use std::process::Command;

use tests::{Lab, run};

/// A host beside the host: netd's files and the engine's are in another /run, and it has a network
/// of its own.
const ACTIVATE: &str = "
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins
ip link set lo up
socket=/run/docker/plugins/netd.sock
systemd-socket-activate -l $socket --fdname=docker netd --directory /run/state 2>/run/log &
netd=$!
until grep -q Listening /run/log; do sleep .05; done
before=$(stat -c %i $socket)
curl -sS --unix-socket $socket -X POST http://netd/Plugin.Activate
echo
stat -c '%a %i' $socket | sed s/$before/same/
kill -9 $netd
wait $netd || true";

#[test]
fn systemd_understands_the_unit_files() {
    let lab = Lab::up(1);
    // Hosts have the program that the unit starts.
    let units = ["netd.service", "netd-docker.socket"];
    let units = units.map(|unit| format!("{}/../packaging/{unit}", env!("CARGO_MANIFEST_DIR")));
    let said = lab.exec(
        "h1",
        &[
            "systemd-analyze",
            "verify",
            "--man=no",
            &units[0],
            &units[1],
        ],
    );
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (0, "", "")
    );
}

#[test]
fn an_early_engine_is_answered_by_netd_started_by_systemd() {
    let lab = Lab::up(1);
    let said = lab
        .exec(
            "h1",
            &["unshare", "--net", "--mount", "sh", "-ec", ACTIVATE],
        )
        .ok();
    let lines: Vec<&str> = said.lines().collect();
    // The socket is the one that was handed over, and root's only.
    assert_eq!(
        lines,
        [
            r#"{"Implements":["NetworkDriver","IpamDriver"]}"#,
            "600 same"
        ]
    );
}

#[test]
fn plugins_are_installed_where_runtimes_look_for_them() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut install = Command::new("make");
    install.args(["--dry-run", "-C", source, "install", "DESTDIR=/there"]);
    let said = run(&mut install).ok();
    for place in [
        "/there/opt/cni/bin target/release/netd-cni",
        "/there/usr/local/lib/netavark target/release/netd-netavark",
    ] {
        assert!(
            said.contains(&format!("install -D -m 755 -t {place}\n")),
            "{said}"
        );
    }
}
