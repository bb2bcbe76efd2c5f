//! Runs the command of a health check inside a task.

use std::{io, os::fd::OwnedFd, process::ExitStatus};

use nix::unistd::Pid;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{
    command::{Running, command},
    directory::TaskDirectory,
    program::Program,
};

/// Bytes of a check's output that are kept: the last ones.
const KEPT: usize = 512;

/// Runs the command of a health check inside a task: how it ended, and the end of what it wrote.
/// When the future is dropped the command is killed.
pub(super) async fn probe(
    program: &Program,
    place: &TaskDirectory,
    argv: &[String],
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (reader, writer) = io::pipe()?;
    let child = command(program, place, &[], argv)
        .map_err(io::Error::other)?
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let group = Pid::from_raw(child.id().unwrap_or_default().cast_signed());
    let mut running = Running { child, group };
    let mut pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let (mut output, mut buffer, mut is_open) = (Vec::new(), [0; KEPT], true);
    let status = loop {
        tokio::select! {
            read = pipe.read(&mut buffer), if is_open => match read {
                Ok(length @ 1..) => keep(&mut output, &buffer[..length]),
                Ok(0) | Err(_) => is_open = false,
            },
            status = running.child.wait() => break status?,
        }
    };
    while let Ok(length @ 1..) = pipe.try_read(&mut buffer) {
        keep(&mut output, &buffer[..length]);
    }
    Ok((status, output))
}

fn keep(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend_from_slice(bytes);
    output.drain(..output.len().saturating_sub(KEPT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_check_writes_the_end_is_kept() {
        let mut output = vec![b'a'; KEPT];
        keep(&mut output, b"end");
        assert_eq!(output.len(), KEPT);
        assert!(output.ends_with(b"aend"));
    }
}
