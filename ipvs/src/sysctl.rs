//! Values below /proc/sys that a balancer needs in its network namespace. The files stay open: an
//! open file belongs to the namespace in which it was opened, whoever reads it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

/// Longer than any value here.
const LENGTH: usize = 32;

/// How connections are tracked where they are balanced; seconds.
pub(crate) const TRACKING: &[Setting] = &[
    // A packet beyond the window belongs to its connection all the same: untranslated it would end
    // it.
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    // Who is silent, on both sides or one, may be so for longer than TCP's keepalive (two hours).
    (
        "net/netfilter/nf_conntrack_tcp_timeout_established",
        "432000",
    ),
    ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "10800"),
    ("net/netfilter/nf_conntrack_tcp_timeout_fin_wait", "10800"),
    // A client and a server have 16384 ports between them (`BALANCED_PORTS`): thousands of
    // connections a second.
    ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5"),
    // The kernel's own: a keepalive every 25 s (WireGuard's) suffices for a flow of UDP.
    ("net/netfilter/nf_conntrack_udp_timeout", "30"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "120"),
];

/// A path below /proc/sys, and the value.
pub(crate) type Setting = (&'static str, &'static str);

/// The values of one namespace.
pub(crate) struct Sysctls(Vec<(Setting, File)>);

impl Sysctls {
    /// In the calling thread's network namespace. What the kernel has not is left out.
    pub(crate) fn open(settings: impl IntoIterator<Item = Setting>) -> io::Result<Self> {
        let mut files = Vec::new();
        for (path, value) in settings {
            match OpenOptions::new()
                .read(true)
                .write(true)
                .open(format!("/proc/sys/{path}"))
            {
                Ok(file) => files.push(((path, value), file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(files))
    }

    /// Those that are not as they should be, for people.
    pub(crate) fn damage(&self) -> Vec<String> {
        let wrong = self
            .0
            .iter()
            .filter(|((_, value), file)| read(file).as_deref() != Some(*value));
        wrong
            .map(|((path, value), _)| format!("set {path} = {value}"))
            .collect()
    }

    /// Writes those that are not as they should be.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let mut wrong = self
            .0
            .iter()
            .filter(|((_, value), file)| read(file).as_deref() != Some(*value));
        wrong.try_for_each(|((_, value), file)| file.write_all_at(value.as_bytes(), 0))
    }
}

fn read(file: &File) -> Option<String> {
    let mut text = [0; LENGTH];
    let length = file.read_at(&mut text, 0).ok()?;
    Some(
        String::from_utf8_lossy(&text[..length])
            .trim_end()
            .to_owned(),
    )
}
