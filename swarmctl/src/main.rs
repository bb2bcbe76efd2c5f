//! `swarmctl`: arguments become requests to the local daemon, answers become tables or JSON. And
//! the lab: simulated hosts on one machine.

#![warn(unreachable_pub)]

mod arguments;
mod daemon;
mod failure;
mod lab;
mod names;
mod output;
mod publish;
mod values;
mod verbs;
mod watching;

use std::{
    io::{self, ErrorKind},
    process::ExitCode,
};

use anyhow::Result;
use api::LeaveRequest;
use clap::Parser;
use model::Failure;
use tokio::runtime::Runtime;

use arguments::{Arguments, IpamVerb, LabProcess, Verb};
use daemon::Daemon;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    failure::tell_as(arguments::telling(&words));
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error).into(),
    };
    match run(arguments) {
        Ok(code) => code.into(),
        // The reader of our output, such as `head`, has closed it.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => failure::tell(&error).into(),
    }
}

/// The lab enters and makes namespaces, which takes a process of one thread: no runtime exists
/// before it returns.
fn run(arguments: Arguments) -> Result<u8> {
    match arguments.verb {
        Verb::Lab(lab) => lab::run(lab),
        Verb::LabBoot(LabProcess { lab, host }) => lab::boot(&lab, host),
        Verb::LabHost(_) => lab::host(),
        Verb::LabSwitch { .. } => lab::switch(),
        Verb::Names(verb) => names::names(verb),
        Verb::Completion { shell } => {
            let script = arguments::completion(&shell).map_err(Failure::from)?;
            output::print(script.trim_end()).map(|()| 0)
        }
        verb => {
            let runtime = Runtime::new()?;
            let result = runtime
                .block_on(async { ask(&Daemon::connect(&arguments.socket).await?, verb).await });
            // A read of stdin may be under way and never end.
            runtime.shutdown_background();
            result
        }
    }
}

async fn ask(daemon: &Daemon, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Init(init) => verbs::init(daemon, init).await,
        Verb::Join(join) => verbs::join(daemon, join).await,
        Verb::Leave { force } => verbs::leave(daemon, LeaveRequest { force }).await,
        Verb::Token {
            role,
            rotate,
            quiet,
        } => {
            if rotate {
                verbs::rotate_token(daemon, role).await?;
            }
            let printed = if quiet {
                verbs::Printed::Token
            } else {
                verbs::Printed::Command
            };
            verbs::token(daemon, role, printed).await
        }
        Verb::Status { output } => verbs::status(daemon, output).await,
        Verb::Node(verb) => verbs::node(daemon, verb).await,
        Verb::Network(verb) => verbs::network(daemon, verb).await,
        Verb::Ipam(IpamVerb::Check) => verbs::check_ledger(daemon).await,
        Verb::Service(verb) => verbs::service(daemon, verb).await,
        Verb::Task(verb) => verbs::task(daemon, verb).await,
        Verb::Events(events) => verbs::events(daemon, events).await,
        Verb::Exec(exec) => verbs::exec(daemon, exec).await,
        Verb::Debug { what } => verbs::debug(daemon, what).await,
        Verb::Lab(_)
        | Verb::LabBoot(_)
        | Verb::LabHost(_)
        | Verb::LabSwitch { .. }
        | Verb::Names(_)
        | Verb::Completion { .. } => Ok(0),
    }
}
