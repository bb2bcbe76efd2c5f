//! IPsec of this host's kernel by netlink: reads, changes, listens. The only place that opens
//! `NETLINK_XFRM`.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    task::Poll,
};

use model::{EspKey, Spi};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket, protocols::NETLINK_XFRM};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};

use super::{
    super::namespace,
    plan::{Association, Observed, Op},
    wire::{self, Answer},
};

/// Larger than any datagram of a dump (32 KiB in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 * 1024;

/// The kernel's IPsec in the namespace that the thread is in which opens it.
pub(super) struct Kernel {
    requests: Socket,
    notices: TokioSocket,
    sequence: u32,
}

impl Kernel {
    /// Opens it, on a thread with a tokio runtime. Errors: the kernel has no IPsec, or root is
    /// lacking.
    pub(super) fn open() -> io::Result<Self> {
        let mut notices = TokioSocket::new(NETLINK_XFRM)?;
        let socket = notices.socket_mut();
        socket.bind_auto()?;
        wire::GROUPS
            .iter()
            .try_for_each(|&group| socket.add_membership(group))?;
        Ok(Self {
            requests: connect()?,
            notices,
            sequence: 0,
        })
    }

    /// Completes when an association or a policy has changed since the last `observe`, whoever's.
    /// Cancel-safe.
    pub(super) async fn changed(&mut self) {
        poll_fn(|context| {
            match self
                .notices
                .poll_recv(context, &mut Vec::with_capacity(DATAGRAM))
            {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }

    /// What there is of ours.
    pub(super) fn observe(&mut self) -> io::Result<Observed> {
        while receive(self.notices.socket_ref()).is_ok() {}
        read(&self.requests, &mut self.sequence)
    }

    /// Makes one change; what is deleted already is no failure.
    pub(super) fn apply(&mut self, op: &Op) -> io::Result<()> {
        let message = match op {
            Op::Close(way) => wire::set_policy(way, &super::plan::BLOCK),
            Op::Set(way, policy) => wire::set_policy(way, policy),
            Op::Add(_, new) => wire::add_association(new),
            Op::Delete(to, spi) => return gone(self.ask(wire::delete_association(*to, *spi))),
            Op::Unset(way, index) | Op::Open(way, index) => {
                return gone(self.ask(wire::delete_policy(way, *index)));
            }
            Op::Record(_) => return Ok(()),
        };
        self.ask(message)
    }

    fn ask(&mut self, message: Vec<u8>) -> io::Result<()> {
        ask(&self.requests, &mut self.sequence, message)
    }
}

/// What there is of ours in the calling thread's namespace.
pub fn observe() -> io::Result<Observed> {
    read(&connect()?, &mut 0)
}

/// Whether this kernel has ESP with our algorithm, for both families: tried in a namespace that is
/// gone afterwards.
pub fn probe() -> io::Result<()> {
    namespace::away(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let (socket, mut sequence) = (connect()?, 0);
        // Addresses for documentation (RFC 5737, RFC 3849).
        let (v4, v6) = (
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        );
        for address in [v4.into(), v6.into()] {
            let new = Association {
                from: address,
                to: address,
                spi: Spi::FIRST,
                key: EspKey::new([1; 36]),
            };
            ask(&socket, &mut sequence, wire::add_association(&new))?;
        }
        Ok(())
    })
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // A refusal need not carry the request back.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut buffer, 0)?;
    Ok(buffer)
}

fn send(socket: &Socket, sequence: &mut u32, mut message: Vec<u8>) -> io::Result<u32> {
    *sequence = sequence.wrapping_add(1);
    wire::number(&mut message, *sequence);
    socket.send(&message, 0)?;
    Ok(*sequence)
}

fn ask(socket: &Socket, sequence: &mut u32, message: Vec<u8>) -> io::Result<()> {
    let number = send(socket, sequence, message)?;
    loop {
        for (of, answer) in wire::answers(&receive(socket)?) {
            match answer {
                Answer::Done if of == number => return Ok(()),
                Answer::Refused(errno) if of == number => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => {}
            }
        }
    }
}

fn read(socket: &Socket, sequence: &mut u32) -> io::Result<Observed> {
    let mut observed = Observed::default();
    for question in [wire::get_policies(), wire::get_associations()] {
        let number = send(socket, sequence, question)?;
        let mut done = false;
        while !done {
            for (_, answer) in wire::answers(&receive(socket)?)
                .into_iter()
                .filter(|(of, _)| *of == number)
            {
                match answer {
                    Answer::Done => done = true,
                    Answer::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Answer::Policy(way, policy, index) => {
                        observed.policies.insert(way, (policy, index));
                    }
                    Answer::Association(found) => {
                        let key = (found.association.to, found.association.spi);
                        observed.associations.insert(key, *found);
                    }
                    Answer::Foreign => {}
                }
            }
        }
    }
    Ok(observed)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    let absent = [Errno::ENOENT, Errno::ESRCH].map(|errno| Some(errno as i32));
    result.or_else(|error| {
        if absent.contains(&error.raw_os_error()) {
            Ok(())
        } else {
            Err(error)
        }
    })
}
