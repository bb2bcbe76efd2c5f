//! Hosts without a certificate attack every member at once: members go on, and nothing is left of
//! it. The long half is tests/tests/attack_long.rs.

use tests::{
    Lab,
    attack::{Attack, cost, create},
    eventually, holds,
};

const MEMBERS: [&str; 3] = ["h1", "h2", "h3"];
const ADDRESSES: [&str; 3] = ["192.168.100.11", "192.168.100.12", "192.168.100.13"];

#[test]
fn strangers_take_little_and_leave_nothing() {
    let lab = Lab::up(5);
    for stranger in ["h4", "h5"] {
        lab.ctl(stranger, "leave").ok();
    }
    let before = MEMBERS.map(|host| cost(&lab, host));
    println!("create before: {:?}", create(&lab, "h2"));

    let attacks = [
        "idle 600 12",
        "silent 600 12",
        "unfinished 15 200 4000000 12",
        "garbage 900",
        "wrong 6 12",
    ];
    let attacks = attacks.map(|what| Attack::begin(&lab, "h4", what, &ADDRESSES));
    for host in MEMBERS {
        let took = create(&lab, host);
        println!("create by {host} meanwhile: {took:?}");
    }
    let during = MEMBERS.map(|host| cost(&lab, host));
    // Who has a token gets in past all of them.
    let token = lab.ctl("h1", "token worker -q").ok();
    let join = format!("join --token {} {}:2377", token.trim(), ADDRESSES[1]);
    lab.ctl("h5", &join).ok();
    for attack in attacks {
        println!("{}", attack.end());
    }
    println!("create after: {:?}", create(&lab, "h3"));

    for (index, host) in MEMBERS.into_iter().enumerate() {
        let (before, during) = (before[index], during[index]);
        println!("{host} before: {before}; during: {during}");
        assert!(during.memory < before.memory + (64 << 10), "{during}");
        assert!(during.descriptors < before.descriptors + 400, "{during}");
        let after = eventually("its descriptors are free again", || {
            let after = cost(&lab, host);
            holds(after.descriptors < before.descriptors + 32, after).map(|()| after)
        });
        println!("{host} after: {after}");
        assert!(after.memory < before.memory * 2, "{after}");
        assert!(after.log < before.log + (64 << 10), "{after}");
    }
}
