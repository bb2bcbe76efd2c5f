//! The virtual machine has what it is for, and labs run in it.

use std::{collections::BTreeSet, process::Command};

use tests::{Lab, field, run, vm};

/// Runs a line of words in a network namespace that is removed afterwards.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let namespace = Self(format!("{name}-{}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0])).ok();
        namespace
    }

    #[track_caller]
    fn ip(&self, line: &str) -> String {
        run(Command::new("ip")
            .args(["-n", &self.0])
            .args(line.split_whitespace()))
        .ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

#[test]
fn an_esp_state_with_aes_gcm_is_added_and_removed() {
    vm::required();
    let host = Namespace::new("esp");
    let state = "src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100";
    let key = format!("0x{}", "5a".repeat(36));
    host.ip(&format!(
        "xfrm state add {state} mode transport replay-window 64 aead rfc4106(gcm(aes)) {key} 128"
    ));
    assert!(host.ip("xfrm state").contains("rfc4106(gcm(aes))"));
    host.ip(&format!("xfrm state delete {state}"));
    assert_eq!(host.ip("xfrm state"), "");
}

#[test]
fn vlan_and_ipvlan_links_are_made() {
    vm::required();
    let host = Namespace::new("links");
    host.ip("link add eth0 type veth peer name eth1");
    host.ip("link add link eth0 name eth0.50 type vlan id 50");
    host.ip("link add link eth0 name l2 type ipvlan mode l2");
    host.ip("link add link eth1 name l3 type ipvlan mode l3");
    let links = host.ip("-d link");
    for kind in [
        "vlan protocol 802.1Q id 50",
        "ipvlan  mode l2",
        "ipvlan  mode l3",
    ] {
        assert!(links.contains(kind), "{kind}: {links}");
    }
}

#[test]
fn the_module_of_ipvs_loads() {
    vm::required();
    run(Command::new("modprobe").arg("ip_vs")).ok();
    assert!(
        std::fs::read_to_string("/proc/net/ip_vs")
            .unwrap()
            .starts_with("IP Virtual Server")
    );
}

#[test]
fn a_service_on_an_overlay_answers_by_name() {
    vm::required();
    let lab = Lab::tour(3);
    for family in ["-4", "-6"] {
        let text = lab
            .inside(
                "h2",
                "shell.1",
                &["curl", "-sS", family, "http://web/[1-3]"],
            )
            .ok();
        let hosts = BTreeSet::from_iter(field(&text, "host"));
        assert!(
            !hosts.is_empty() && hosts.is_subset(&BTreeSet::from(["h1", "h2", "h3"])),
            "{text}"
        );
    }
}
