//! The binary as a CNI runtime starts it.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const CONFIGURATION: &str = r#"{"cniVersion":"1.0.0","name":"my-net","type":"netd-cni"}"#;

fn plugin(command: Option<&str>) -> Command {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_netd-cni"));
    plugin.env_remove("CNI_COMMAND").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(command) = command {
        plugin.env("CNI_COMMAND", command);
    }
    plugin
}

/// Runs it to its end with this on stdin, closed.
fn run(command: &str, stdin: &str) -> Output {
    let mut child = plugin(Some(command)).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn version_echoes_the_version_asked_for_and_lists_what_is_supported() {
    let output = run("VERSION", r#"{"cniVersion":"0.4.0"}"#);
    assert!(output.status.success());
    let expected = json!({ "cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
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
        assert_eq!(stdout(&run("VERSION", stdin))["cniVersion"], "1.1.0", "{stdin}");
    }
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let output = plugin(None).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let about = String::from_utf8(output.stderr).unwrap();
    assert!(about.starts_with("netd-cni ") && about.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{about}");
}

#[test]
fn refusals_are_json_with_cause_and_next_step() {
    for (command, code) in [("ADD", 100), ("CHECK", 100), ("STATUS", 50), ("add", 4), ("", 4)] {
        let output = run(command, CONFIGURATION);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let error = stdout(&output);
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(code), &json!("1.0.0")), "{command}");
        let text = |key: &str| error[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(text("msg") && text("details"), "{error}");
    }
}

#[test]
fn taking_down_what_never_was_succeeds_as_often_as_asked() {
    for command in ["DEL", "DEL", "GC"] {
        let output = run(command, CONFIGURATION);
        assert!(output.status.success() && output.stdout.is_empty(), "{command}");
    }
}
