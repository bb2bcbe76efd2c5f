//! Stands between the CNI plugin and a host's netd, and kills one of the two at a moment of a call.
//! A call is one HTTP/2 stream over a Unix socket; of its frames only their ends are looked for
//! (RFC 9113, section 4.1).

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};

use crate::{Lab, first_process};

/// What a client of HTTP/2 begins with.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The daemon.
    Netd,
    /// The plugin's process.
    Plugin,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The plugin has asked; netd has nothing of it.
    Asked,
    /// netd has had all of it for so long.
    Handed(Duration),
    /// netd has answered; the plugin has nothing of it.
    Answered,
}

/// What is known of calls.
#[derive(Debug, Default)]
struct State {
    planned: Option<(Victim, Moment)>,
    /// How long the last call that nobody was killed in took netd.
    took: Option<Duration>,
}

/// A socket for the plugin in front of that of a host's netd.
pub struct Relay {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Relay {
    /// In front of the netd of this host.
    #[track_caller]
    pub fn start(lab: &Lab, host: &str) -> Self {
        // Hosts have the machine's /tmp.
        let socket = std::env::temp_dir().join(format!("relay-{}-{host}", lab.name()));
        let netd = PathBuf::from(format!(
            "/proc/{}/root/run/netd/netd.sock",
            first_process(lab, host)
        ));
        let listener = UnixListener::bind(&socket).expect("the relay's socket");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for plugin in listener.incoming().flatten() {
                let (netd, state) = (netd.clone(), shared.clone());
                // A call that breaks off is what this is for.
                thread::spawn(move || pass(plugin, &netd, &state));
            }
        });
        Self { socket, state }
    }

    /// `NETD_SOCKET` of the plugin.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Kills at this moment of the next call.
    pub fn plan(&self, victim: Victim, moment: Moment) {
        lock(&self.state).planned = Some((victim, moment));
    }

    /// Whether what was planned has been done.
    pub fn is_done(&self) -> bool {
        lock(&self.state).planned.is_none()
    }

    /// How long the last undisturbed call took netd.
    #[track_caller]
    pub fn took(&self) -> Duration {
        lock(&self.state)
            .took
            .expect("a call that nobody was killed in")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its thread ends with the test.
        let _ = fs::remove_file(&self.socket);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call. Both connections end with it.
fn pass(plugin: UnixStream, netd: &Path, state: &Mutex<State>) -> io::Result<()> {
    let request = until_end(&plugin, PREFACE)?;
    let netd = UnixStream::connect(netd)?;
    let planned = lock(state).planned.take();
    let strike = |victim: Victim| match victim {
        Victim::Netd => end(&netd),
        Victim::Plugin => end(&plugin),
    };
    if let Some((victim, Moment::Asked)) = planned {
        return strike(victim);
    }
    (&netd).write_all(&request)?;
    let handed = Instant::now();
    if let Some((victim, Moment::Handed(delay))) = planned {
        thread::sleep(delay);
        return strike(victim);
    }
    let answer = until_end(&netd, 0)?;
    if let Some((victim, Moment::Answered)) = planned {
        return strike(victim);
    }
    lock(state).took = Some(handed.elapsed());
    (&plugin).write_all(&answer)?;
    plugin.shutdown(Shutdown::Write)
}

/// Kill -9 of whoever is at the other end.
fn end(peer: &UnixStream) -> io::Result<()> {
    match getsockopt(peer, PeerCredentials)?.pid() {
        // 0 would be ourselves.
        pid if pid > 1 => Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// All that comes up to the end of a stream. Frames begin after this many bytes.
fn until_end(mut from: &UnixStream, preface: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut frame) = (Vec::new(), preface);
    loop {
        while let Some(header) = bytes.get(frame..frame + FRAME_HEADER) {
            let length =
                usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let is_last = matches!(header[3], DATA | HEADERS) && header[4] & END_STREAM != 0;
            frame += FRAME_HEADER + length;
            if is_last {
                let missing = frame.saturating_sub(bytes.len());
                let mut rest = vec![0; missing];
                from.read_exact(&mut rest)?;
                bytes.extend(rest);
                return Ok(bytes);
            }
        }
        let mut some = [0; 4096];
        match from.read(&mut some)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend(&some[..count]),
        }
    }
}
