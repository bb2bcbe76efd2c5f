//! Values below /proc/sys, of the network namespace that the calling thread is in.

use std::{fs, io, path::Path};

const ROOT: &str = "/proc/sys";
const IPV6_LINKS: &str = "/proc/sys/net/ipv6/conf";

/// Turns a host that listens to router advertisements away from them (see [`keep_router_advertisements`]).
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The value, without the line's end; `None` where it cannot be read, because its link or the feature is absent.
pub fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(path)).ok()?;
    Some(text.trim_end().to_owned())
}

/// Writes a value.
pub fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new(ROOT).join(path), value)
}

/// Links that take router advertisements go on doing so when the host forwards: 1 means "unless forwarding", 2 means
/// always (Linux, Documentation/networking/ip-sysctl.rst). A host that got its address so would lose it otherwise.
pub fn keep_router_advertisements() -> io::Result<()> {
    for link in fs::read_dir(IPV6_LINKS)? {
        let value = link?.path().join("accept_ra");
        if fs::read_to_string(&value).is_ok_and(|text| text.trim_end() == "1") {
            fs::write(&value, "2")?;
        }
    }
    Ok(())
}
