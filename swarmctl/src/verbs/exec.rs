//! `exec`: a command inside a running task, with its streams and its exit code.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use api::proto::{ExecInput, ExecOutput, ExecStart, exec_input, exec_output};
use model::{Kind, Refusal, other_version};
use tokio::{io::AsyncReadExt, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::{arguments::Exec, daemon::Daemon};

/// Input chunks in flight.
const QUEUE: usize = 16;
const CHUNK: usize = 16 * 1024;

/// Runs the command; its exit code is ours.
pub(crate) async fn exec(daemon: &Daemon, exec: Exec) -> Result<u8> {
    let (input, parts) = mpsc::channel(QUEUE);
    let env = exec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let start = ExecStart {
        task: exec.task.clone(),
        argv: exec.argv,
        env,
    };
    send(&input, exec_input::Part::Start(start)).await;
    // The reader may block on input for ever; it ends with the process.
    if exec.interactive || !std::io::stdin().is_terminal() {
        tokio::spawn(forward(input));
    } else {
        tokio::spawn(end(input));
    }
    let call = daemon.agent().exec(ReceiverStream::new(parts)).await;
    let mut output = call.map_err(|status| daemon.broken(&status))?.into_inner();
    while let Some(ExecOutput { part }) = output
        .message()
        .await
        .map_err(|status| daemon.broken(&status))?
    {
        match part {
            Some(exec_output::Part::Stdout(bytes)) => write(&mut std::io::stdout(), &bytes)?,
            Some(exec_output::Part::Stderr(bytes)) => write(&mut std::io::stderr(), &bytes)?,
            Some(exec_output::Part::ExitCode(code)) => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Some(exec_output::Part::Refusal(json)) => {
                let refusal: Refusal =
                    serde_json::from_slice(&json).unwrap_or_else(|_| other_version("netd"));
                return Err(refusal.about(format!("task {}", exec.task)).into());
            }
            None => {}
        }
    }
    let cause = format!(
        "the connection to task {} ended before the command did",
        exec.task
    );
    Err(Refusal::new(
        Kind::Unavailable,
        cause,
        format!("check whether {} still runs, and try again", exec.task),
    )
    .about(format!("task {}", exec.task))
    .into())
}

/// Sends standard input until it ends, then the end.
async fn forward(input: mpsc::Sender<ExecInput>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if !send(&input, exec_input::Part::Stdin(buffer[..length].to_vec())).await {
            return;
        }
    }
    end(input).await;
}

/// Says that the command gets no more input.
async fn end(input: mpsc::Sender<ExecInput>) {
    send(&input, exec_input::Part::StdinClosed(true)).await;
    // The stream stays open: some relays take its end for the caller's.
    input.closed().await;
}

/// Whether the other side still listens.
async fn send(input: &mpsc::Sender<ExecInput>, part: exec_input::Part) -> bool {
    input.send(ExecInput { part: Some(part) }).await.is_ok()
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use api::proto::{
        Json, LogLine, LogsRequest,
        agent_server::{Agent, AgentServer},
    };
    use futures::Stream;
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status, Streaming, transport::Server};

    use super::*;

    type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

    /// Ends `exit` at once with this code; has no other task than `web.1`.
    struct Shell;

    #[tonic::async_trait]
    impl Agent for Shell {
        type ExecStream = Reply<ExecOutput>;
        type LogsStream = Reply<LogLine>;

        async fn exec(
            &self,
            request: Request<Streaming<ExecInput>>,
        ) -> Result<Response<Reply<ExecOutput>>, Status> {
            let start = request
                .into_inner()
                .message()
                .await?
                .and_then(|input| input.part);
            let part = match start {
                Some(exec_input::Part::Start(start)) if start.task == "web.1" => {
                    exec_output::Part::ExitCode(start.argv[1].parse().unwrap())
                }
                _ => exec_output::Part::Refusal(
                    serde_json::to_vec(&Refusal::not_found("task", "web.2", "swarmctl service ps"))
                        .unwrap(),
                ),
            };
            Ok(Response::new(Box::pin(tokio_stream::iter([Ok(
                ExecOutput { part: Some(part) },
            )]))))
        }

        async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Reply<LogLine>>, Status> {
            Err(Status::unimplemented("no logs"))
        }

        async fn examine(&self, _: Request<Json>) -> Result<Response<Json>, Status> {
            Err(Status::unimplemented("nothing to see"))
        }
    }

    #[tokio::test]
    async fn the_commands_exit_code_or_the_refusal_is_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netd.sock");
        let connections = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        tokio::spawn(
            Server::builder()
                .add_service(AgentServer::new(Shell))
                .serve_with_incoming(connections),
        );
        let daemon = Daemon::connect(&socket).await.unwrap();
        let run = |task: &str| {
            let argv = vec!["exit".into(), "7".into()];
            exec(
                &daemon,
                Exec {
                    interactive: false,
                    env: Vec::new(),
                    task: task.into(),
                    argv,
                },
            )
        };
        assert_eq!(run("web.1").await.unwrap(), 7);
        assert!(
            run("web.2")
                .await
                .unwrap_err()
                .to_string()
                .contains("there is no task \"web.2\"")
        );
    }
}
