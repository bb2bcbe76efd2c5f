//! The binary as a CNI runtime starts it, on a machine where no daemon answers.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const CONFIGURATION: &str =
    r#"{"cniVersion":"1.1.0","name":"dbnet","type":"netd-cni","network":"my-net"}"#;

fn plugin(command: Option<&str>) -> Command {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_netd-cni"));
    plugin
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    plugin.envs([
        ("NETD_SOCKET", "/nonexistent/netd.sock"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
    ]);
    if let Some(command) = command {
        plugin.env("CNI_COMMAND", command);
    }
    plugin
}

/// Runs it to its end with this on stdin, closed.
fn run(plugin: &mut Command, stdin: &str) -> Output {
    let mut child = plugin.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // What does not look at it may have ended already.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(plugin: &mut Command, code: u32) -> Value {
    let output = run(plugin, CONFIGURATION);
    let error = stdout(&output);
    assert_eq!(
        (output.status.code(), &error["code"], &error["cniVersion"]),
        (Some(1), &json!(code), &json!("1.1.0"))
    );
    let text = |key: &str| error[key].as_str().is_some_and(|text| !text.is_empty());
    assert!(text("msg") && text("details"), "{error}");
    error
}

#[test]
fn version_echoes_the_requested_one_and_lists_all() {
    let output = run(&mut plugin(Some("VERSION")), r#"{"cniVersion":"0.4.0"}"#);
    assert!(output.status.success());
    let expected =
        json!({ "cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
    assert_eq!(stdout(&output), expected);
}

#[test]
fn version_does_not_wait_for_a_stdin_that_stays_open() {
    let mut child = plugin(Some("VERSION")).spawn().unwrap();
    let open = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output)["cniVersion"], "1.1.0");
    drop(open);
}

#[test]
fn version_answers_whatever_is_on_stdin() {
    for stdin in ["", "{", "[1]", "\u{0}", r#"{"cniVersion":7}"#] {
        assert_eq!(
            stdout(&run(&mut plugin(Some("VERSION")), stdin))["cniVersion"],
            "1.1.0",
            "{stdin}"
        );
    }
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let output = plugin(None).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let about = String::from_utf8(output.stderr).unwrap();
    assert!(
        about.starts_with("netd-cni ") && about.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        "{about}"
    );
}

#[test]
fn refusals_are_json_with_cause_and_next_step() {
    refused(&mut plugin(Some("add")), 4);
    let error = refused(plugin(Some("DEL")).env_remove("CNI_IFNAME"), 4);
    assert!(
        error["msg"].as_str().unwrap().contains("CNI_IFNAME"),
        "{error}"
    );
    refused(plugin(Some("ADD")).env("CNI_NETNS", "/proc/self/ns/net"), 8);
    refused(plugin(Some("ADD")).env("CNI_NETNS", "/nonexistent"), 8);
}

#[test]
fn without_a_daemon_add_is_retried_and_del_succeeds() {
    let error = refused(
        plugin(Some("ADD")).envs([("CNI_NETNS", "/proc/1/ns/net"), ("CNI_NETNS_OVERRIDE", "1")]),
        11,
    );
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("/nonexistent/netd.sock"),
        "{error}"
    );
    refused(&mut plugin(Some("STATUS")), 51);
    refused(&mut plugin(Some("GC")), 11);
    for _ in 0..2 {
        let output = run(&mut plugin(Some("DEL")), CONFIGURATION);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
