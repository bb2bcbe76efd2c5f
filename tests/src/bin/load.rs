//! `load HOST RATE CLIENTS`: that many clients call `http://HOST/` at RATE requests per second in
//! sum, every other one on a connection that it keeps, until there is a file /tmp/stop. Then it
//! prints what it saw as one line of JSON.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// The resolver is asked again after so long.
const RESOLVED: Duration = Duration::from_millis(500);
/// While it does not answer (its daemon was killed), its last answer is used for as long as it
/// said.
const TTL: Duration = Duration::from_secs(5);
/// The most failures that are told one by one.
const TOLD: usize = 50;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [host, rate, clients] = &words[..] else {
        bail!("usage: load HOST RATE CLIENTS")
    };
    let (rate, clients): (f64, u32) = (rate.parse()?, clients.parse()?);
    let (start, stop) = (Instant::now(), AtomicBool::new(false));
    let period = Duration::from_secs_f64(f64::from(clients) / rate);
    let seen = thread::scope(|scope| {
        let spawn = |number: u32| {
            let first = start + period * number / clients;
            let (stop, client) = (&stop, Client::new(host, number));
            scope.spawn(move || client.run(first, period, stop))
        };
        let threads: Vec<_> = (0..clients).map(spawn).collect();
        while !Path::new("/tmp/stop").exists() {
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .fold(Seen::default(), Seen::and)
    });
    let failures: Vec<_> = seen
        .failures
        .iter()
        .take(TOLD)
        .map(|(begun, reason)| json!([begun, reason]))
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    let slowest = u64::try_from(seen.slowest.as_millis())?;
    println!(
        "{}",
        json!({"requests": seen.requests, "failed": seen.failures.len(), "retried": seen.retried,
            "slowest": slowest,
               "seconds": seconds, "tasks": seen.tasks, "failures": failures})
    );
    // A log lasts as long as its task.
    loop {
        thread::park();
    }
}

/// What one client or all have seen.
#[derive(Default)]
struct Seen {
    requests: u64,
    /// Sent once more, because the server closed a connection in use before it said anything (RFC
    /// 9110 section 9.2.2).
    retried: u64,
    slowest: Duration,
    /// When each request that failed was begun, in milliseconds since the epoch, and why it failed.
    failures: Vec<(u64, String)>,
    /// How often each task answered.
    tasks: BTreeMap<String, u64>,
}

impl Seen {
    fn and(mut self, other: Self) -> Self {
        self.requests += other.requests;
        self.retried += other.retried;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
        self.failures.sort();
        for (task, count) in other.tasks {
            *self.tasks.entry(task).or_default() += count;
        }
        self
    }
}

struct Client {
    host: String,
    number: u32,
    keeps: bool,
    resolved: Option<(Instant, Vec<SocketAddr>)>,
    connection: Option<BufReader<TcpStream>>,
    seen: Seen,
}

impl Client {
    fn new(host: &str, number: u32) -> Self {
        let (host, keeps) = (host.to_owned(), number.is_multiple_of(2));
        Self {
            host,
            number,
            keeps,
            resolved: None,
            connection: None,
            seen: Seen::default(),
        }
    }

    /// Calls at its times. Late calls are not made up for: a machine that is slow gets fewer.
    fn run(mut self, first: Instant, period: Duration, stop: &AtomicBool) -> Seen {
        let mut due = first;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due = Instant::now().max(due + period);
            let (begun, clock) = (
                Instant::now(),
                UNIX_EPOCH.elapsed().unwrap_or_default().as_millis(),
            );
            if let Err(error) = self.call() {
                self.connection = None;
                self.seen
                    .failures
                    .push((u64::try_from(clock).unwrap_or(0), format!("{error:#}")));
            }
            self.seen.requests += 1;
            self.seen.slowest = self.seen.slowest.max(begun.elapsed());
        }
        self.seen
    }

    fn call(&mut self) -> Result<()> {
        if let Some(kept) = self.connection.take() {
            match self.ask(kept) {
                Err(error) if is_closed(&error) => self.seen.retried += 1,
                result => return result,
            }
        }
        let address = self.address()?;
        let stream = TcpStream::connect_timeout(&address, LIMIT)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        self.ask(BufReader::new(stream))
            .with_context(|| format!("ask {address}"))
    }

    fn ask(&mut self, mut connection: BufReader<TcpStream>) -> Result<()> {
        let how = if self.keeps { "keep-alive" } else { "close" };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: {how}\r\n\r\n",
            self.host
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        // From here on something has been said: what goes wrong now is a failure.
        let rest = answer(&line, &mut connection)
            .map_err(|error| anyhow::anyhow!("in the answer: {error:#}"))?;
        *self.seen.tasks.entry(rest.task).or_default() += 1;
        self.connection = rest.keeps.then_some(connection);
        Ok(())
    }

    fn address(&mut self) -> Result<SocketAddr> {
        let age = self.resolved.as_ref().map(|(since, _)| since.elapsed());
        if age.is_none_or(|age| age > RESOLVED) {
            match (self.host.as_str(), 80).to_socket_addrs() {
                Ok(found) => self.resolved = Some((Instant::now(), found.collect())),
                Err(_) if age.is_some_and(|age| age < TTL) => {}
                Err(error) => return Err(error).with_context(|| format!("resolve {}", self.host)),
            }
        }
        let known = self
            .resolved
            .as_ref()
            .map_or(&[][..], |(_, addresses)| addresses);
        known
            .get(self.number as usize / 2 % known.len().max(1))
            .copied()
            .context("a name without addresses")
    }
}

struct Rest {
    keeps: bool,
    task: String,
}

fn answer(status: &str, connection: &mut BufReader<TcpStream>) -> Result<Rest> {
    if !status.starts_with("HTTP/1.1 200 ") {
        bail!("the answer is {status:?}");
    }
    let (mut length, mut keeps) = (0, true);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(("connection", value)) => keeps = value == "keep-alive",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    let text = String::from_utf8(body)?;
    let task = text
        .lines()
        .find_map(|line| line.strip_prefix("task: "))
        .context("an answer without a task")?;
    Ok(Rest {
        keeps,
        task: task.to_owned(),
    })
}

/// Whether the server had closed a connection that was in use, before it said anything to this
/// request.
fn is_closed(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset))
}
