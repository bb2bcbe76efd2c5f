//! The switch between a lab's hosts: a bridge in a namespace of its own, and a cable (veth) to each
//! host. No way out.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
    unistd::{pause, setsid},
};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoVeth},
    },
};
use tokio::runtime::Builder;

use super::{HostName, host::tell_ready};

const BRIDGE: &str = "br0";
const CABLE: &str = "eth0";

/// The switch's process: holds the namespace until it is killed.
pub(crate) fn switch() -> Result<u8> {
    setsid().context("starting a session")?;
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    inside(&current()?, |links| async move {
        links
            .link()
            .add(LinkBridge::new(BRIDGE).up().build())
            .execute()
            .await
            .context("making the bridge")
    })?;
    tell_ready()?;
    loop {
        pause();
    }
}

/// The network namespace of this thread.
pub(crate) fn current() -> Result<File> {
    File::open("/proc/thread-self/ns/net").context("opening the network namespace")
}

/// Connects a host to the switch and gives it its addresses.
pub(crate) fn plug(switch: &File, namespace: &File, host: HostName) -> Result<()> {
    unplug(switch, host)?;
    inside(namespace, |links| cable(links, host, switch))?;
    inside(switch, |links| async move {
        let port = LinkUnspec::new_with_index(index(&host.to_string())?)
            .controller(index(BRIDGE)?)
            .up()
            .build();
        links
            .link()
            .set(port)
            .execute()
            .await
            .context("plugging the cable into the bridge")
    })
}

/// Cuts a host's cable, if it has one.
pub(crate) fn unplug(switch: &File, host: HostName) -> Result<()> {
    inside(switch, |links| async move {
        let Ok(port) = index(&host.to_string()) else {
            return Ok(());
        };
        match links.link().del(port).execute().await {
            // The kernel removes it on its own once the host's namespace is gone.
            Err(_) if index(&host.to_string()).is_err() => Ok(()),
            result => result.context("cutting the cable"),
        }
    })
}

async fn cable(links: Handle, host: HostName, switch: &File) -> Result<()> {
    let port = LinkMessageBuilder::<LinkUnspec>::new()
        .name(host.to_string())
        .setns_by_fd(switch.as_raw_fd())
        .build();
    let cable = LinkVeth::new(CABLE, "")
        .address(host.mac().to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(port)))
        .build();
    links
        .link()
        .add(cable)
        .execute()
        .await
        .context("making the cable")?;
    let cable = index(CABLE)?;
    for (address, prefix) in [(IpAddr::V4(host.v4()), 24), (IpAddr::V6(host.v6()), 64)] {
        let mut request = links.address().add(cable, address, prefix);
        // Nobody else has it, and it must be usable at once (RFC 4429 is about just that).
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        request
            .execute()
            .await
            .with_context(|| format!("giving {host} its address {address}"))?;
    }
    for link in [index("lo")?, cable] {
        links
            .link()
            .set(LinkUnspec::new_with_index(link).up().build())
            .execute()
            .await
            .context("raising a link")?;
    }
    Ok(())
}

/// An interface of this thread's namespace.
fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("looking for interface {name}"))
}

/// Does netlink work inside a network namespace, on a thread of its own: `setns` is per thread.
fn inside<T: Send, F: Future<Output = Result<T>>>(
    namespace: &File,
    work: impl FnOnce(Handle) -> F + Send,
) -> Result<T> {
    let task = || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .context("entering a network namespace")?;
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("opening a netlink socket")?;
            tokio::spawn(connection);
            work(handle).await
        })
    };
    std::thread::scope(|scope| {
        scope
            .spawn(task)
            .join()
            .map_err(|_| anyhow!("the thread in the namespace panicked"))?
    })
}
