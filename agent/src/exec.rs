//! Runs a command inside a running task of this host for a stream of input and output.

use std::{path::Path, process::Stdio, time::Duration};

use api::proto::{ExecInput, ExecOutput, ExecStart, exec_input, exec_output};
use futures::{Stream, StreamExt};
use model::{Kind, Refusal, TaskId};
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
use tonic::Status;

use super::directory::{Progress, TaskDirectory};

/// Pieces of output read ahead of a slow client.
const AHEAD: usize = 16;
const PIECE: usize = 32 << 10;
/// After the command has ended, how long its pipes, which a child in the background may hold, have
/// to be silent.
const SILENCE: Duration = Duration::from_millis(200);

/// Runs `start.argv` in this task. `directory` is that of all tasks, `program` is `netd` itself.
/// The last part is the exit code or a refusal. When the stream is dropped, or `input` fails, the
/// command is killed.
pub async fn exec<I>(
    directory: &Path,
    program: &Path,
    task: TaskId,
    start: ExecStart,
    input: I,
) -> impl Stream<Item = ExecOutput> + Send + 'static + use<I>
where
    I: Stream<Item = Result<ExecInput, Status>> + Send + 'static,
{
    let (output, stream) = mpsc::channel(AHEAD);
    match begin(directory, program, task, &start) {
        Ok(child) => {
            tokio::spawn(attend(child, input, output));
        }
        Err(refusal) => {
            let _ = output.send(refused(&refusal)).await;
        }
    }
    ReceiverStream::new(stream)
}

fn refused(refusal: &Refusal) -> ExecOutput {
    part(exec_output::Part::Refusal(
        serde_json::to_vec(refusal).unwrap_or_default(),
    ))
}

fn part(part: exec_output::Part) -> ExecOutput {
    ExecOutput { part: Some(part) }
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

fn begin(
    directory: &Path,
    program: &Path,
    task: TaskId,
    start: &ExecStart,
) -> Result<Running, Refusal> {
    let place = TaskDirectory::of(directory, task);
    if place.progress() != Progress::Running {
        return Err(not_running(&start.task));
    }
    if start.argv.is_empty() {
        let next = format!(
            "give one, as in `swarmctl exec {} -- ip address`",
            start.task
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
    let child = command(program, &place, &start.env, &start.argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let failed = |error| {
        Refusal::new(
            Kind::Unavailable,
            format!("cannot start {}: {error}", program.display()),
            "try again",
        )
    };
    let child = child.map_err(failed)?;
    let group = Pid::from_raw(child.id().unwrap_or_default().cast_signed());
    Ok(Running { child, group })
}

/// The command that enters a task, in a process group of its own, without input.
pub(super) fn command(
    program: &Path,
    place: &TaskDirectory,
    env: &[String],
    argv: &[String],
) -> Command {
    let mut command = Command::new(program);
    command
        .arg("task-exec")
        .arg(place.path())
        .args(env)
        .arg("--")
        .args(argv);
    command.env_clear().stdin(Stdio::null()).process_group(0);
    command
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
    input: impl Stream<Item = Result<ExecInput, Status>> + Send + 'static,
    output: mpsc::Sender<ExecOutput>,
) {
    let (ended, has_ended) = watch::channel(false);
    let out = running.child.stdout.take().map(|pipe| {
        tokio::spawn(copy(
            pipe,
            exec_output::Part::Stdout,
            output.clone(),
            has_ended.clone(),
        ))
    });
    let err = running.child.stderr.take().map(|pipe| {
        tokio::spawn(copy(
            pipe,
            exec_output::Part::Stderr,
            output.clone(),
            has_ended,
        ))
    });
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
    let _ = output.send(part(exec_output::Part::ExitCode(code))).await;
}

/// Feeds standard input. Ends only when the client has gone: one that merely has no more to say is
/// waited for.
async fn feed(
    mut stdin: Option<ChildStdin>,
    input: impl Stream<Item = Result<ExecInput, Status>> + Send,
) {
    let mut input = std::pin::pin!(input);
    while let Some(piece) = input.next().await {
        match piece.map(|piece| piece.part) {
            Ok(Some(exec_input::Part::Stdin(bytes))) => {
                // A command that has closed its input does not read: that is its own affair.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Ok(Some(exec_input::Part::StdinClosed(true))) => stdin = None,
            Ok(_) => {}
            Err(_) => return,
        }
    }
    drop(stdin);
    std::future::pending().await
}

async fn copy(
    mut pipe: impl AsyncRead + Unpin,
    wrap: fn(Vec<u8>) -> exec_output::Part,
    output: mpsc::Sender<ExecOutput>,
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
                if output
                    .send(part(wrap(buffer[..length].to_vec())))
                    .await
                    .is_err()
                {
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
