//! The CNI plugin (CNI specification 1.1). It speaks the protocol and says what it supports; attaching containers of a CNI
//! runtime is not part of this version, so every ADD is refused and there is never anything to take down.

use std::{env, io, process::ExitCode, sync::mpsc, thread, time::Duration};

use serde_json::{Value, json};

const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";
/// How long the configuration on stdin is waited for: runtimes write it before anything else, people write none.
const STDIN_PATIENCE: Duration = Duration::from_millis(500);

/// Error codes of the specification, section "Error"; 100 and up are the plugin's own.
const INVALID_ENVIRONMENT: u32 = 4;
const NOT_AVAILABLE: u32 = 50;
const NOT_SUPPORTED: u32 = 100;

const NEXT: &str = "run it as a service of the cluster instead: swarmctl service create --network NETWORK -- COMMAND";

/// What is printed and how the process ends.
enum Reply {
    Silent,
    Json(Value),
    Error { code: u32, cause: String, next: &'static str },
}

fn main() -> ExitCode {
    let Some(command) = env::var_os("CNI_COMMAND") else {
        eprintln!("netd-cni {}: the CNI plugin of netd", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", SUPPORTED.join(", "));
        return ExitCode::SUCCESS;
    };
    let version = asked_version();
    print(reply(&command.to_string_lossy(), &version), &version)
}

fn reply(command: &str, version: &str) -> Reply {
    let unsupported = "this version of netd does not attach containers of CNI runtimes";
    match command {
        "VERSION" => Reply::Json(json!({ "cniVersion": version, "supportedVersions": SUPPORTED })),
        "STATUS" => Reply::Error { code: NOT_AVAILABLE, cause: unsupported.to_owned(), next: NEXT },
        "ADD" | "CHECK" => Reply::Error { code: NOT_SUPPORTED, cause: unsupported.to_owned(), next: NEXT },
        // No ADD ever succeeded: all is gone already, and a runtime whose DEL fails keeps the dead container for ever.
        "DEL" | "GC" => Reply::Silent,
        other => Reply::Error {
            code: INVALID_ENVIRONMENT,
            cause: format!("CNI_COMMAND is {other:?}"),
            next: "it is one of ADD, DEL, CHECK, STATUS, GC, VERSION",
        },
    }
}

fn print(reply: Reply, version: &str) -> ExitCode {
    match reply {
        Reply::Silent => ExitCode::SUCCESS,
        Reply::Json(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Reply::Error { code, cause, next } => {
            println!("{}", json!({ "cniVersion": version, "code": code, "msg": cause, "details": next }));
            ExitCode::FAILURE
        }
    }
}

/// The `cniVersion` of the configuration on stdin; the newest where none comes. Never waits for the end of stdin.
fn asked_version() -> String {
    let (sender, configuration) = mpsc::channel();
    thread::spawn(move || {
        let first = serde_json::Deserializer::from_reader(io::stdin().lock()).into_iter::<Value>().next();
        // Nobody listens any more where it came too late.
        let _ = sender.send(first);
    });
    let configuration = configuration.recv_timeout(STDIN_PATIENCE).ok().flatten().and_then(Result::ok);
    let version = configuration.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str);
    version.unwrap_or(NEWEST).to_owned()
}
