//! Runs a command inside a running task of this host for a stream of input and output.

use std::{io, process::Stdio, time::Duration};

use futures::{StreamExt, stream, stream::BoxStream};
use model::{Kind, Refusal};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{directory::TaskDirectory, error::TaskError, program::Program};
use crate::executor::{Input, Output, Progress, Start};

/// Pieces of output read ahead of a slow client.
const AHEAD: usize = 16;
const PIECE: usize = 32 << 10;
/// After the command has ended, how long its pipes, which a child in the background may hold, have
/// to be silent.
const SILENCE: Duration = Duration::from_millis(200);

/// Runs `start.argv` in the task of this directory. `program` is `netd` itself.
pub(super) fn exec(
    program: &Program,
    place: &TaskDirectory,
    start: &Start,
    input: BoxStream<'static, Input>,
) -> BoxStream<'static, Output> {
    match begin(program, place, start) {
        Ok(child) => {
            let (output, parts) = mpsc::channel(AHEAD);
            tokio::spawn(attend(child, input, output));
            ReceiverStream::new(parts).boxed()
        }
        Err(refusal) => stream::iter([Output::Refused(refusal)]).boxed(),
    }
}

/// A command and its process group, which is killed when this is dropped.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) group: Pid,
}

impl Drop for Running {
    fn drop(&mut self) {
        // While the child is not reaped its pid is not used again.
        if self.child.id().is_some() {
            let _ = killpg(self.group, Signal::SIGKILL);
        }
    }
}

fn begin(program: &Program, place: &TaskDirectory, start: &Start) -> Result<Running, Refusal> {
    if place.progress() != Progress::Running {
        return Err(not_running(&start.name));
    }
    if start.argv.is_empty() {
        let next = format!(
            "give one, as in `swarmctl exec {} -- ip address`",
            start.name
        );
        return Err(Refusal::new(
            Kind::Invalid,
            "no command to run was given",
            next,
        ));
    }
    if let Some(wrong) = start.env.iter().find(|pair| !pair.contains('=')) {
        let next = "write it as NAME=VALUE";
        return Err(Refusal::new(
            Kind::Invalid,
            format!("{wrong:?} is not an environment variable"),
            next,
        ));
    }
    let failed = |error: io::Error| {
        let cause = format!("cannot start task-exec: {error}");
        Refusal::new(Kind::Unavailable, cause, "try again")
    };
    let child = command(program, place, &start.env, &start.argv)
        .map_err(|error| failed(io::Error::other(error)))?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let group = Pid::from_raw(child.id().unwrap_or_default().cast_signed());
    Ok(Running { child, group })
}

/// The command that enters a task, in a process group of its own, without input.
pub(super) fn command(
    program: &Program,
    place: &TaskDirectory,
    env: &[String],
    argv: &[String],
) -> Result<Command, TaskError> {
    let mut command = Command::from(program.command()?);
    command
        .arg("task-exec")
        .arg(place.path())
        .args(env)
        .arg("--")
        .args(argv);
    command.env_clear().stdin(Stdio::null()).process_group(0);
    Ok(command)
}

fn not_running(task: &str) -> Refusal {
    let service = task.split('.').next().unwrap_or(task);
    let next = format!("`swarmctl service ps {service}` lists its tasks and how they stand");
    Refusal::new(
        Kind::Precondition,
        format!("task {task} does not run on this host"),
        next,
    )
}

/// Moves bytes until the command has ended or the client has gone.
async fn attend(
    mut running: Running,
    input: BoxStream<'static, Input>,
    output: mpsc::Sender<Output>,
) {
    let (ended, has_ended) = watch::channel(false);
    let out = running.child.stdout.take().map(|pipe| {
        tokio::spawn(copy(
            pipe,
            Output::Stdout,
            output.clone(),
            has_ended.clone(),
        ))
    });
    let err = running
        .child
        .stderr
        .take()
        .map(|pipe| tokio::spawn(copy(pipe, Output::Stderr, output.clone(), has_ended)));
    let stdin = running.child.stdin.take();
    let status = tokio::select! {
        status = running.child.wait() => status,
        () = output.closed() => return,
        () = feed(stdin, input) => return,
    };
    ended.send_replace(true);
    for pump in [out, err].into_iter().flatten() {
        let _ = pump.await;
    }
    // task-exec itself exits with 128 + signal; a signal that hit it directly is told the same way.
    let code = status.map_or(255, |status| {
        use std::os::unix::process::ExitStatusExt;
        status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .unwrap_or(255)
    });
    let _ = output.send(Output::Exited(code)).await;
}

/// Feeds standard input. Ends only when the client has gone: one that merely has no more to say is
/// waited for.
async fn feed(mut stdin: Option<ChildStdin>, mut input: BoxStream<'static, Input>) {
    while let Some(piece) = input.next().await {
        match piece {
            Input::Bytes(bytes) => {
                // A command that has closed its input does not read: that is its own affair.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::Closed => stdin = None,
            Input::Lost => return,
        }
    }
    drop(stdin);
    std::future::pending().await
}

async fn copy(
    mut pipe: impl AsyncRead + Unpin,
    wrap: fn(Vec<u8>) -> Output,
    output: mpsc::Sender<Output>,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut buffer) => read,
            () = silence(&mut ended) => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if output.send(wrap(buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn silence(ended: &mut watch::Receiver<bool>) {
    // Its sender lives as long as the command is attended.
    let _ = ended.wait_for(|ended| *ended).await;
    let _ = timeout(SILENCE, std::future::pending::<()>()).await;
}
