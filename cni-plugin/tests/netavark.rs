//! The binary as Podman and netavark start it, on a machine where no daemon answers.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const NETWORK: &str = r#"{ "name": "dbnet", "id": "20cd59c25599", "driver": "netd-netavark",
    "options": { "netd.network": "my-net" } }"#;
const CONTAINER: &str = r#"{ "container_id": "c1", "container_name": "web",
    "network": { "name": "dbnet", "options": { "netd.network": "my-net" } },
    "network_options": { "interface_name": "eth0" } }"#;

/// Runs it to its end with this on stdin, closed.
fn run(words: &[&str], stdin: &[u8]) -> Output {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_netd-netavark"));
    plugin
        .args(words)
        .env_clear()
        .env("NETD_SOCKET", "/nonexistent/netd.sock")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = plugin.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // What does not look at it may have ended already.
    let _ = pipe.write_all(stdin);
    drop(pipe);
    child.wait_with_output().unwrap()
}

/// Its error, in the form that netavark reads: that field and no other.
#[track_caller]
fn refused(words: &[&str], stdin: &[u8]) -> String {
    let output = run(words, stdin);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = answer["error"].as_str().unwrap().to_owned();
    assert_eq!(answer, json!({ "error": error }));
    assert!(error.contains("; next: "), "{error}");
    error
}

#[test]
fn info_tells_its_version_and_that_of_the_api() {
    for words in [&["info"][..], &[]] {
        let output = run(words, b"");
        assert!(output.status.success());
        let info: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": "1.0.0" });
        assert_eq!(info, expected);
    }
}

#[test]
fn malformed_and_endless_input_is_refused() {
    let endless = vec![b' '; (4 << 20) + 1];
    for words in [
        &["create"][..],
        &["setup", "/proc/1/ns/net"],
        &["teardown", "/x"],
    ] {
        for stdin in [&b""[..], b"{", b"[]", b"7", b"{}", b"\xff", &endless] {
            refused(words, stdin);
        }
    }
    let error = refused(&["create"], &endless);
    assert!(error.contains("4194304 bytes"), "{error}");
}

#[test]
fn the_host_itself_is_not_attached() {
    for (namespace, words) in [
        ("/proc/self/ns/net", "the host's own"),
        ("/nonexistent", "No such file"),
    ] {
        let error = refused(&["setup", namespace], CONTAINER.as_bytes());
        assert!(
            error.starts_with("container web: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn without_a_daemon_create_fails_and_teardown_succeeds() {
    let error = refused(&["create"], NETWORK.as_bytes());
    for word in ["network dbnet: ", "/nonexistent/netd.sock", "as root"] {
        assert!(error.contains(word), "{error}");
    }
    for namespace in ["/run/netns/gone", ""] {
        let output = run(&["teardown", namespace], CONTAINER.as_bytes());
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
