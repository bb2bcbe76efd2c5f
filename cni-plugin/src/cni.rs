//! `netd-cni`, the CNI plugin (CNI specification 1.1). It translates standard input and environment
//! into a request to the local netd, and the reply into a CNI result. It decides nothing and exits
//! within milliseconds.

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use api::{ContainerReply, ContainerRequest};
use serde_json::{Value, json};

use crate::{
    call::{self, Unanswered, Wait},
    config::{self, Asked, PLUGIN},
    environment::{Environment, Operation},
    error::{CniError, Code},
    input, namespace, result,
    version::{NEWEST, SUPPORTED},
};

/// How long VERSION waits for a configuration on standard input: runtimes write it at once, people
/// on a terminal write none.
const STDIN_PATIENCE: Duration = Duration::from_millis(500);

/// The program.
pub fn main() -> ExitCode {
    if env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        eprintln!(
            "netd-cni {}: the CNI plugin of netd",
            env!("CARGO_PKG_VERSION")
        );
        eprintln!("CNI protocol versions supported: {}", SUPPORTED.join(", "));
        return ExitCode::SUCCESS;
    }
    let mut version = NEWEST.to_owned();
    let (output, code) = match run(&mut version) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (Some(error.json(&version)), ExitCode::FAILURE),
    };
    let printed = output.map_or(Ok(()), |value| writeln!(io::stdout(), "{value}"));
    match printed {
        Ok(()) => code,
        Err(error) => {
            eprintln!("netd-cni: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Executes the operation. `said` becomes the configuration's version, which errors carry, too.
fn run(said: &mut String) -> Result<Option<Value>, CniError> {
    // What is no UTF-8 does not count as missing: it is refused for what it is.
    let variable = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
    let environment = Environment::read(variable)?;
    if environment.operation == Operation::Version {
        let version = said_version(&first_value().unwrap_or_default()).unwrap_or(NEWEST.to_owned());
        return Ok(Some(
            json!({ "cniVersion": version, "supportedVersions": SUPPORTED }),
        ));
    }
    let input = standard_input()?;
    if let Some(version) = serde_json::from_slice(&input)
        .ok()
        .and_then(|value| said_version(&value))
    {
        *said = version;
    }
    let asked = config::read(&environment, &program(), &input)?;
    match environment.operation {
        Operation::Add => add(&environment, asked).map(Some),
        Operation::Check => answered(&asked.request, Wait::Restart).map(|_| None),
        Operation::Del => Ok(call::give_up(&asked.request, "netd-cni: DEL").map(|()| None)?),
        Operation::Status => status(&asked.request).map_err(CniError::of_status),
        Operation::Gc | Operation::Version => answered(&asked.request, Wait::No).map(|_| None),
    }
}

fn add(environment: &Environment, asked: Asked) -> Result<Value, CniError> {
    let ContainerRequest::Add(interface) = &asked.request else {
        return Err(odd());
    };
    if !environment.own_namespace && !interface.only_addresses {
        namespace::refuse_own("CNI_NETNS", &environment.namespace)?;
    }
    let ContainerReply::Attached(attached) = answered(&asked.request, Wait::Restart)? else {
        return Err(odd());
    };
    Ok(result::of(
        asked.version,
        interface,
        &attached,
        asked.previous,
        &asked.dns,
    ))
}

/// STATUS. Without the daemon running containers have packets but no DNS.
fn status(request: &ContainerRequest) -> Result<Option<Value>, CniError> {
    match call::ask(request, Wait::No) {
        Ok(_) => Ok(None),
        Err(Unanswered::Refused(refusal)) => Err(refusal.into()),
        Err(silent) => Err(CniError {
            code: Code::Degraded,
            ..silent.into()
        }),
    }
}

fn answered(request: &ContainerRequest, wait: Wait) -> Result<ContainerReply, CniError> {
    Ok(call::ask(request, wait)?)
}

fn standard_input() -> Result<Vec<u8>, CniError> {
    input::read().map_err(|error| {
        CniError::new(
            Code::Io,
            format!("error reading from stdin: {error}"),
            "the runtime gives the configuration there",
        )
    })
}

/// Reads the first JSON value on standard input without waiting for the end of input.
fn first_value() -> Option<Value> {
    let (sender, configuration) = mpsc::channel();
    thread::spawn(move || {
        let first = serde_json::Deserializer::from_reader(io::stdin().lock())
            .into_iter::<Value>()
            .next();
        // The receiver may have timed out.
        let _ = sender.send(first);
    });
    configuration
        .recv_timeout(STDIN_PATIENCE)
        .ok()
        .flatten()?
        .ok()
}

fn said_version(configuration: &Value) -> Option<String> {
    configuration
        .get("cniVersion")?
        .as_str()
        .filter(|version| !version.is_empty())
        .map(str::to_owned)
}

/// What the plugin's file is called: `type` in configurations.
fn program() -> String {
    let first = env::args_os().next().unwrap_or_default();
    Path::new(&first)
        .file_name()
        .map_or(PLUGIN.to_owned(), |name| {
            name.to_string_lossy().into_owned()
        })
}

fn odd() -> CniError {
    CniError::new(
        Code::Later,
        "netd's answer makes no sense",
        "install netd and netd-cni of the same version",
    )
}
