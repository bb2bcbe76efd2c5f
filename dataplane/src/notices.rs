//! Notices of changes in namespaces. For each notice the kernel walks all listening sockets of the
//! machine, so a socket per namespace would cost quadratic time. Hence one socket listens to all,
//! in a namespace of its own in which each of ours has a number (nsid).

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    mem,
    os::fd::AsRawFd,
    task::{Context, Poll},
};

use netlink_sys::Socket;
use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};
use tokio::io::unix::AsyncFd;

use super::{doubt::Doubt, state::Place};

/// For what comes while a change is under way, in bytes.
const BUFFER: usize = 8 << 20;
/// As much of a notice as is looked at, in bytes: what names its link comes early.
const START: usize = 512;

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This in these places.
    From(BTreeMap<Place, Doubt>),
    /// Notices were lost: all may have.
    Lost,
}

impl Default for News {
    fn default() -> Self {
        Self::From(BTreeMap::new())
    }
}

/// What has been heard on one socket, by the number of the namespace; `None`: its own.
type Heard = BTreeMap<Option<i32>, Doubt>;

/// The listening sockets.
pub(crate) struct Notices {
    host: AsyncFd<Socket>,
    ours: AsyncFd<Socket>,
    places: BTreeMap<i32, Place>,
    news: News,
}

impl Notices {
    /// Of sockets with memberships: in the host's namespace, and in one that only has numbers of
    /// ours. On a thread with a tokio runtime.
    // `AsyncFd::register` is unsafe for what it asks: that the descriptor stays the socket's own.
    // It does: nothing takes it out of here.
    #[allow(deprecated)]
    pub(crate) fn of(host: Socket, ours: Socket) -> io::Result<Self> {
        ours.set_listen_all_namespaces(true)?;
        for socket in [&host, &ours] {
            socket.set_non_blocking(true)?;
            // Without the capability in the machine's own user namespace the system's limit stays.
            let _ = setsockopt(socket, sockopt::RcvBufForce, &BUFFER);
        }
        Ok(Self {
            host: AsyncFd::new(host)?,
            ours: AsyncFd::new(ours)?,
            places: BTreeMap::new(),
            news: News::default(),
        })
    }

    /// The namespace of this place has this number.
    pub(crate) fn follow(&mut self, place: Place, number: i32) {
        self.places.insert(number, place);
    }

    /// Places that are gone need no numbers.
    pub(crate) fn keep(&mut self, stays: impl Fn(Place) -> bool) {
        self.places.retain(|_, place| stays(*place));
    }

    /// What has changed since this was asked last.
    pub(crate) fn take(&mut self) -> News {
        let read = |socket: &AsyncFd<Socket>| {
            let mut found = Heard::new();
            read_all(socket.get_ref(), &mut found).map(|()| found)
        };
        let read = [read(&self.host), read(&self.ours)];
        self.note(read);
        mem::take(&mut self.news)
    }

    /// Ready when there is something to be taken.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let read = [poll_all(&self.host, context), poll_all(&self.ours, context)];
        self.note(read);
        if self.news == News::default() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn note(&mut self, [host, ours]: [io::Result<Heard>; 2]) {
        let (News::From(places), Ok(host), Ok(ours)) = (&mut self.news, host, ours) else {
            self.news = News::Lost;
            return;
        };
        let host = host.into_values().map(|doubt| (Place::Host, doubt));
        let ours = ours
            .into_iter()
            .filter_map(|(number, doubt)| Some((*self.places.get(&number?)?, doubt)));
        for (place, doubt) in host.chain(ours).filter(|(_, doubt)| !doubt.is_none()) {
            places.entry(place).or_default().add(doubt);
        }
    }
}

fn poll_all(socket: &AsyncFd<Socket>, context: &mut Context<'_>) -> io::Result<Heard> {
    let mut found = Heard::new();
    while let Poll::Ready(ready) = socket.poll_read_ready(context) {
        let mut ready = ready?;
        read_all(ready.get_inner(), &mut found)?;
        ready.clear_ready();
    }
    Ok(found)
}

/// Adds what notices name.
fn read_all(socket: &Socket, found: &mut Heard) -> io::Result<()> {
    let mut control = cmsg_space!(libc::c_int);
    let mut start = [0; START];
    loop {
        let mut parts = [IoSliceMut::new(&mut start)];
        let (number, length) = match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            Ok(notice) => (notice.cmsgs()?.find_map(namespace_number), notice.bytes),
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let doubt = Doubt::of_notice(start.get(..length).unwrap_or(&start));
        found.entry(number).or_default().add(doubt);
    }
}

fn namespace_number(control: ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(found) = control else {
        return None;
    };
    let of_namespace = found.cmsg_header.cmsg_level == libc::SOL_NETLINK
        && found.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID;
    Some(i32::from_ne_bytes(
        found.data_bytes.try_into().ok().filter(|_| of_namespace)?,
    ))
}
