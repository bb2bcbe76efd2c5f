//! Encrypted networks where the kernel may lack ESP: never a network that only looks encrypted.

use serde_json::Value;
use tests::{Lab, eventually, holds};

#[test]
fn a_kernel_that_cannot_encrypt_is_named_in_the_refusal() {
    let lab = Lab::up(2);
    let create = "network create --encrypted secret";
    let capabilities = eventually("every node has said what its kernel can do", || {
        let said = lab.ctl("h1", create);
        holds(!said.err.contains("not known yet"), &said)?;
        Ok(lab.json("h1", "node ls")[0]["capabilities"].clone())
    });
    let networks = lab.json("h1", "network ls");
    if capabilities
        .as_array()
        .unwrap()
        .contains(&Value::from("esp"))
    {
        assert_eq!(
            (networks.len(), &networks[0]["spec"]["encrypted"]),
            (1, &Value::from(true))
        );
        return;
    }
    assert_eq!(networks, Vec::<Value>::new());
    for refused in [create, "network create --opt encrypted secret"] {
        let refusal = lab.ctl("h2", refused).refused();
        let named = [
            "\"secret\" was not created",
            "CONFIG_INET_ESP",
            "h1",
            "h2",
            "next:",
        ];
        assert!(named.iter().all(|part| refusal.contains(part)), "{refusal}");
    }
    let refusal = lab.ctl("h1", "network rotate-key").refused();
    assert!(refusal.contains("no network is encrypted"), "{refusal}");
    lab.ctl("h1", "network create --opt encrypted=false plain")
        .ok();
}
