//! Stands between an engine and its netd as the plugin `between`: passes calls on, and holds one up
//! where it is told to, so that either side can be made to die at that very moment.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Result, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Child,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Lab, PATIENCE, eventually, first_process};

/// What the engine knows it as, in place of `netd`.
pub const NAME: &str = "between";
const PLUGINS: &str = "/run/docker/plugins";
const PAUSE: Duration = Duration::from_millis(50);

/// One of a host.
pub struct Relay {
    place: Arc<Place>,
    held: Receiver<Held>,
}

struct Place {
    /// Where the engine calls.
    engine: PathBuf,
    /// Where netd answers.
    netd: PathBuf,
    orders: Mutex<Orders>,
    holding: Sender<Held>,
}

#[derive(Default)]
struct Orders {
    /// A method, and how many of its calls pass before.
    hold: Option<(String, usize)>,
    seen: BTreeSet<String>,
}

/// A call that is held up. Dropped, it is cut off for both.
pub struct Held {
    _engine: UnixStream,
    netd: UnixStream,
    request: Vec<u8>,
}

impl Relay {
    /// Stands between from now on, until the host loses its power.
    #[track_caller]
    pub fn start(lab: &Lab, host: &str) -> Self {
        let directory = PathBuf::from(format!("/proc/{}/root{PLUGINS}", first_process(lab, host)));
        let (holding, held) = channel();
        let (engine, netd) = (
            directory.join(format!("{NAME}.sock")),
            directory.join("netd.sock"),
        );
        // The directory is netd's, which may just have been started.
        let listener = eventually("a socket for the engine", || {
            UnixListener::bind(&engine).map_err(|error| error.to_string())
        });
        let place = Arc::new(Place {
            engine,
            netd,
            orders: Mutex::default(),
            holding,
        });
        let relay = Self {
            place: place.clone(),
            held,
        };
        // It ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let place = place.clone();
                // The engine hangs up when it likes.
                thread::spawn(move || drop(place.attend(stream)));
            }
        });
        relay
    }

    /// Holds up the next call of this method, after so many others.
    pub fn hold(&self, method: &str, after: usize) {
        self.place.orders().hold = Some((method.to_owned(), after));
    }

    /// The call that is held up, of the many that a command makes.
    #[track_caller]
    pub fn held(&self, command: &mut Child) -> Held {
        let start = Instant::now();
        loop {
            match self.held.recv_timeout(PAUSE) {
                Ok(held) => return held,
                Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => {}
                Err(error) => panic!("{:?}: {error}", self.place.orders().hold),
            }
            let ended = command.try_wait().expect("a command");
            assert!(
                ended.is_none(),
                "it ended without such a call: {:?}",
                self.place.orders().hold
            );
        }
    }

    /// As if nobody listened, which is so while netd is dead.
    pub fn close(&self) {
        fs::rename(
            &self.place.engine,
            self.place.engine.with_extension("closed"),
        )
        .expect("a socket");
    }

    /// Listens again, once netd does.
    #[track_caller]
    pub fn open(&self) {
        eventually("netd listens again", || {
            UnixStream::connect(&self.place.netd)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        fs::rename(
            self.place.engine.with_extension("closed"),
            &self.place.engine,
        )
        .expect("a socket");
    }

    /// The methods that have been called.
    pub fn seen(&self) -> BTreeSet<String> {
        self.place.orders().seen.clone()
    }
}

impl Place {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attend(&self, mut engine: UnixStream) -> Result<()> {
        loop {
            let request = read(&mut engine)?;
            let mut netd = UnixStream::connect(&self.netd)?;
            if self.is_meant(&request) {
                // Nobody waits any more after a failure.
                let _ = self.holding.send(Held {
                    _engine: engine,
                    netd,
                    request,
                });
                return Ok(());
            }
            netd.write_all(&request)?;
            engine.write_all(&read(&mut netd)?)?;
        }
    }

    fn is_meant(&self, request: &[u8]) -> bool {
        let line = String::from_utf8_lossy(
            request
                .split(|byte| *byte == b'\r')
                .next()
                .unwrap_or_default(),
        )
        .into_owned();
        let method = line
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned();
        let mut orders = self.orders();
        orders.seen.insert(method.clone());
        match &mut orders.hold {
            Some((meant, 0)) if *meant == method => orders.hold.take().is_some(),
            Some((meant, left)) if *meant == method => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }
}

impl Held {
    /// Hands the call to netd.
    pub fn pass_on(&mut self) {
        self.netd.write_all(&self.request).expect("netd hears");
    }

    /// Reads netd's answer, and keeps it; whether there is one within this time.
    pub fn is_answered(&mut self, within: Duration) -> bool {
        self.netd.set_read_timeout(Some(within)).expect("a time");
        read(&mut self.netd).is_ok()
    }
}

/// One message of HTTP, with its content.
fn read(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(head) = message.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&message[..head]).to_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if message.len() >= head + 4 + length.unwrap_or(0) {
                return Ok(message);
            }
        }
        match stream.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => message.extend_from_slice(&part[..count]),
        }
    }
}
