//! A task's log: one record per line, `<milliseconds> <O or E> <bytes>\n`, in `log`; at
//! [`ROTATE_AT`] bytes it becomes `log.1` and a new one begins. Writing and parsing only.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use super::directory::Handle;
use crate::executor::Source;

/// The file that is written to.
pub(crate) const CURRENT: &str = "log";
/// The one before.
pub(crate) const PREVIOUS: &str = "log.1";
/// Bytes of one file: a task never keeps more than twice this.
const ROTATE_AT: u64 = 10 << 20;
/// Longer lines are broken into several records.
const LINE_LENGTH: u64 = 16 << 10;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    /// Where it came from.
    pub source: Source,
    /// Without the line's end.
    pub line: Vec<u8>,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let source = if self.source == Source::Stdout {
            'O'
        } else {
            'E'
        };
        let mut bytes = format!("{} {source} ", self.time).into_bytes();
        bytes.extend_from_slice(&self.line);
        bytes.push(b'\n');
        bytes
    }

    /// The record that this line of the file holds, without its end; `None` if it holds none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.splitn(3, |&byte| byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let source = match parts.next()? {
            b"O" => Source::Stdout,
            b"E" => Source::Stderr,
            _ => return None,
        };
        Some(Self {
            time,
            source,
            line: parts.next()?.to_vec(),
        })
    }
}

/// Writes a task's log.
pub(crate) struct LogWriter {
    directory: Arc<Handle>,
    file: File,
    size: u64,
}

impl LogWriter {
    /// The log of the task of this directory.
    pub(crate) fn open(directory: Arc<Handle>) -> io::Result<Self> {
        let file = directory.append(CURRENT)?;
        let size = file.metadata()?.len();
        Ok(Self {
            directory,
            file,
            size,
        })
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.size >= ROTATE_AT {
            self.directory.rename(CURRENT, PREVIOUS)?;
            self.file = self.directory.append(CURRENT)?;
            self.size = 0;
        }
        let bytes = record.encode();
        self.size += bytes.len() as u64;
        self.file.write_all(&bytes)
    }
}

/// Copies a pipe into the log until nobody holds its other end.
pub(crate) fn pump(pipe: impl Read, source: Source, log: &Mutex<LogWriter>) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match pipe.by_ref().take(LINE_LENGTH).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => line.pop_if(|last| *last == b'\n'),
        };
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        // A full disk loses lines; it must not stop the task.
        if let Ok(mut log) = log.lock() {
            let _ = log.write(&Record { time, source, line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        for line in [&b""[..], b"hello", b" two  spaces ", &[0xff, 0, b' ']] {
            let record = Record {
                time: 17,
                source: Source::Stderr,
                line: line.to_vec(),
            };
            let bytes = record.encode();
            assert_eq!(Record::parse(&bytes[..bytes.len() - 1]), Some(record));
        }
        assert_eq!(Record::parse(b"no record"), None);
    }
}
