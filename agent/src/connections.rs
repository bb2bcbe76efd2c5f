//! Counts the TCP connections that a task still serves, and tells whether it takes datagrams, from
//! its /proc/net/tcp and /proc/net/udp (proc_net(5)).

use std::{collections::BTreeSet, fs};

use nix::unistd::Pid;

/// States of /proc/net/tcp (include/net/tcp_states.h) in which the server's side may still have
/// something to say or to hear: ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING.
const OPEN: [u8; 6] = [1, 3, 4, 8, 9, 11];
const LISTEN: u8 = 10;
/// Of a socket of UDP: connected to nobody (`TCP_CLOSE`).
const UNCONNECTED: u8 = 7;

/// TCP connections to listening ports in the network namespace of this process; `None` if it cannot
/// be read.
pub(crate) fn count(process: Pid) -> Option<u32> {
    let read = |table: &str| fs::read_to_string(format!("/proc/{process}/net/{table}")).ok();
    // A kernel without IPv6 has no second table.
    Some(served(&[read("tcp")?, read("tcp6").unwrap_or_default()]))
}

/// Whether a socket of UDP in the network namespace of this process takes datagrams from anybody.
pub(crate) fn takes_datagrams(process: Pid) -> bool {
    let table = |table: &str| fs::read_to_string(format!("/proc/{process}/net/{table}"));
    ["udp", "udp6"]
        .iter()
        .filter_map(|name| table(name).ok())
        .any(|table| takes(&table))
}

fn takes(table: &str) -> bool {
    let mut sockets = table.lines().filter_map(Socket::parse);
    sockets.any(|socket| socket.state == UNCONNECTED && !socket.is_to_itself)
}

fn served(tables: &[String]) -> u32 {
    let sockets: Vec<Socket> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(Socket::parse)
        .collect();
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|socket| socket.state == LISTEN)
        .map(|it| it.port)
        .collect();
    let serves = |socket: &&Socket| {
        OPEN.contains(&socket.state) && listening.contains(&socket.port) && !socket.is_to_itself
    };
    u32::try_from(sockets.iter().filter(serves).count()).unwrap_or(u32::MAX)
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    port: u16,
    state: u8,
    /// At a loopback address: programs of the task talk to each other.
    is_to_itself: bool,
}

impl Socket {
    /// `sl local_address rem_address st …`; addresses are words of 32 bits, in the host's own
    /// order.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
        let words: Option<Vec<u32>> = (0..address.len())
            .step_by(8)
            .map(|start| u32::from_str_radix(address.get(start..start + 8)?, 16).ok())
            .collect();
        let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
        let is_to_itself = match bytes[..] {
            [127, _, _, _] => true,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, _, _, _] => true,
            [.., last] => {
                bytes.len() == 16 && last == 1 && bytes[..15].iter().all(|byte| *byte == 0)
            }
            [] => false,
        };
        Some(Self {
            port: u16::from_str_radix(port, 16).ok()?,
            state,
            is_to_itself,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_of_udp_that_anybody_may_call_take_datagrams() {
        let line = |address: &str, state: &str| {
            format!("  sl  local_address rem_address   st\n 9: {address} 00000000:0000 {state} 0:0")
        };
        assert!(takes(&line("00000000:0035", "07")));
        assert!(!takes(&line("00000000:0035", "01")), "connected");
        assert!(!takes(&line("0100007F:0035", "07")), "at its loopback");
        assert!(!takes("  sl  local_address rem_address   st"));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn connections_to_listening_ports_count_and_no_others() {
        let tcp = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0309000A:0050 0209000A:C000 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
   2: 0309000A:0050 0209000A:C001 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0
   3: 0309000A:C123 0209000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0
   4: 0100007F:0050 0100007F:C002 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0";
        let tcp6 = "\
  sl  local_address                         remote_address                        st
0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000
1: 0000000000000000FFFF00000309000A:1F90 0000000000000000FFFF00000209000A:C003 08 00000000:00000000
2: 0900FD00000000000000000003000000:1F90 0900FD00000000000000000002000000:C004 04 00000000:00000000
3: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:C005 01 00000000:00000000
4: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C006 01 00000000:00000000
";
        assert_eq!(served(&[tcp.to_owned(), tcp6.to_owned()]), 3);
        assert_eq!(served(&[String::new(), "nonsense 1: x".to_owned()]), 0);
    }
}
