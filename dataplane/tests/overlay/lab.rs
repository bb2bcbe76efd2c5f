//! The hosts of a test, joined by a bridge, and what is asked of them.

use super::*;

pub struct Lab {
    pub hosts: Vec<Host>,
    pub _fabric: Keeper,
}

impl Lab {
    pub fn new(vteps: &[&str]) -> Self {
        let fabric = Keeper::new(&["unshare", "--net", "cat"]);
        fabric.run("ip link add br0 type bridge mcast_snooping 0");
        fabric.run("ip link set br0 up");
        let hosts = vteps
            .iter()
            .enumerate()
            .map(|(index, vtep)| Host::new(index, vtep, &fabric))
            .collect();
        Self {
            hosts,
            _fabric: fabric,
        }
    }

    /// One task on each host, all on one network of both families.
    pub fn whole(&self) -> Vec<NodeConfig> {
        let peers: Records<NodeId, PeerConfig> = (self.hosts.iter())
            .map(|host| {
                let hostname = format!("h{}", host.index);
                (node(host.index), records::peer(hostname, host.vtep))
            })
            .collect();
        let endpoints: Records<EndpointId, EndpointConfig> = (0..self.hosts.len())
            .map(|index| {
                let addresses = vec![address(index, "10.77.9."), address(index, "fd00:77:9::")];
                let sandbox = TaskId(100 + index as u64).into();
                let record = records::endpoint(NETWORK, node(index), sandbox, addresses);
                (endpoint(index), record)
            })
            .collect();
        let of = |index: usize| NodeConfig {
            generation: 1,
            peers: peers.clone(),
            networks: [(NETWORK, network())].into(),
            endpoints: endpoints.clone(),
            tasks: [(TaskId(100 + index as u64), task_config(index))].into(),
            ..NodeConfig::empty(node(index))
        };
        (0..self.hosts.len()).map(of).collect()
    }

    pub fn settle(&mut self, configs: &[NodeConfig]) {
        for (host, config) in self.hosts.iter_mut().zip(configs) {
            host.configure(config);
        }
        for (host, config) in self.hosts.iter().zip(configs) {
            host.wait_settled(config.generation);
        }
    }

    /// After an empty configuration nothing of ours is left.
    pub fn vanish(&mut self) {
        for host in &mut self.hosts {
            host.configure(&NodeConfig {
                generation: 99,
                ..NodeConfig::empty(node(host.index))
            });
        }
        for host in &self.hosts {
            host.wait_settled(99);
            let left = host.run("ip netns")
                + &host.run("ip -o link")
                + &host.run("ip route")
                + &host.run("ip -6 route");
            for ours in ["netd-", "nu-", "vx-", "10.77.9", "fd00:77:9"] {
                assert!(!left.contains(ours), "{ours} is left: {left}");
            }
        }
    }

    /// A TCP connection from the first host's task to the second's.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(address(1, "fd00:77:9::"), 7);
        let listener = namespace::within_file(&self.hosts[1].sandbox(), || TcpListener::bind(to))
            .unwrap()
            .unwrap();
        let near = namespace::within_file(&self.hosts[0].sandbox(), || {
            TcpStream::connect_timeout(&to, PATIENCE)
        });
        let (far, _) = listener.accept().unwrap();
        let near = near.unwrap().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        (near, far)
    }
}

pub fn exchange(near: &mut TcpStream, far: &mut TcpStream) {
    for _ in 0..10 {
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut [0; 4]).unwrap();
    }
}

/// Waits until the port that nobody listens on is refused by the target itself.
pub fn assert_answers(from: &File, target: &str, length: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = probe(from, target, length);
        if error.kind() == ErrorKind::ConnectionRefused {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{target} does not answer {length} bytes: {error}"
        );
        thread::sleep(POLL);
    }
}

/// What a datagram to a closed port comes to; silence is `WouldBlock`.
pub fn probe(from: &File, target: &str, length: usize) -> std::io::Error {
    let target: IpAddr = target.parse().unwrap();
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let result = namespace::within_file(from, || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((target, 9))?;
        socket.send(&vec![0; length])?;
        socket.recv(&mut [0])
    });
    result.unwrap().expect_err("nothing is sent from port 9")
}

pub fn network() -> NetworkConfig {
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    let subnets = vec![
        lease("10.77.9.0/24", "10.77.9.1"),
        lease("fd00:77:9::/64", "fd00:77:9::1"),
    ];
    records::overlay("my-net", Vni::try_from(77).unwrap(), subnets)
}

pub fn task_config(index: usize) -> TaskConfig {
    records::task(index as u32 + 1, endpoint(index))
}

pub fn node(index: usize) -> NodeId {
    NodeId(10 + index as u64)
}

pub fn endpoint(index: usize) -> EndpointId {
    EndpointId(200 + index as u64)
}

pub fn address(index: usize, prefix: &str) -> IpAddr {
    format!("{prefix}{}", 11 + index).parse().unwrap()
}

pub fn task(index: usize) -> String {
    model::names::sandbox_namespace(TaskId(100 + index as u64))
}

pub fn netd_network() -> String {
    model::names::network_namespace(NETWORK)
}
