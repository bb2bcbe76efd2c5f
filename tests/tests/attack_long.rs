//! The attacks of tests/tests/attack.rs at the size that once ended clusters, one after the other,
//! with their figures: `make attack`.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use tests::{
    Lab,
    attack::{Attack, cost, create},
};

const MEMBERS: [&str; 3] = ["h1", "h2", "h3"];
/// Each of them ended a manager, or filled its disk.
const ATTACKS: [&str; 5] = [
    "idle 20000 90",
    "silent 20000 90",
    "unfinished 20 200 4000000 40",
    "garbage 10000",
    "wrong 16 30",
];

#[test]
fn every_attack_alone_and_all_at_once() {
    let lab = Lab::up(4);
    lab.ctl("h4", "leave").ok();
    let idle = MEMBERS.map(|host| cost(&lab, host));
    println!("idle: h1 {}", idle[0]);
    println!("create before: {:?}", create(&lab, "h2"));
    for what in ATTACKS {
        let attack = Attack::begin(&lab, "h4", what, &["192.168.100.11"]);
        report(&lab, what, Duration::from_secs(20));
        println!("  {}", attack.end());
    }
    let all = ATTACKS.map(|what| {
        let addresses = ["192.168.100.11", "192.168.100.12", "192.168.100.13"];
        Attack::begin(&lab, "h4", what, &addresses)
    });
    report(&lab, "all at once", Duration::from_secs(60));
    for attack in all {
        println!("  {}", attack.end());
    }
    sleep(Duration::from_secs(60));
    println!("create a minute later: {:?}", create(&lab, "h2"));
    for (host, idle) in MEMBERS.into_iter().zip(idle) {
        let after = cost(&lab, host);
        println!("a minute later: {host} {after}");
        assert!(after.memory * 2 < idle.memory * 3, "{idle}; {after}");
        assert!(after.descriptors < idle.descriptors + 32, "{after}");
        assert!(after.log < idle.log + (1 << 20), "{after}");
    }
}

/// Creates services for this long, and tells what that and the attack cost.
fn report(lab: &Lab, what: &str, during: Duration) {
    let (start, mut took, mut most) = (Instant::now(), Vec::new(), cost(lab, "h1"));
    while start.elapsed() < during {
        took.push(create(lab, "h2"));
        let now = cost(lab, "h1");
        most.memory = most.memory.max(now.memory);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.log = now.log;
    }
    took.sort();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: h1 at most {most}; create by h2: median {median:?}, slowest {slowest:?}");
}
