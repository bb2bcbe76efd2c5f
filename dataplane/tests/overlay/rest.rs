//! What a settled host costs.

use super::*;

#[test]
fn a_settled_host_rests_however_many_networks_it_has() {
    let mut lab = Lab::new(&["192.0.2.1"]);
    let mut config = lab.whole().remove(0);
    add_networks(&mut config, 30);
    lab.settle(&[config]);
    let passes = || lab.hosts[0].count("passes=");
    // What is promised is that nothing happens: there is no condition to wait for.
    let (before, start) = (passes(), Instant::now());
    thread::sleep(Duration::from_secs(5));
    let (made, seconds) = (passes() - before, start.elapsed().as_secs());
    assert!(made <= 2 * seconds, "{made} passes in {seconds} s");
    lab.vanish();
}

/// Networks with a task each.
pub fn add_networks(config: &mut NodeConfig, count: u32) {
    for number in 1..=count {
        let network = NetworkConfig {
            name: format!("n{number}"),
            vni: Vni::try_from(100 + number).unwrap(),
            ..network()
        };
        let network = NetworkConfig {
            subnets: Vec::new(),
            internal: true,
            ..network
        };
        let (id, task) = (
            NetworkId(200 + u64::from(number)),
            TaskId(200 + u64::from(number)),
        );
        let (own, mac) = (
            EndpointId(500 + u64::from(number)),
            Mac::of_endpoint([10, 0, 0, number as u8].into()),
        );
        let record = EndpointConfig {
            network: id,
            node: node(0),
            sandbox: task.into(),
            addresses: Vec::new(),
            mac,
        };
        config.networks.insert(id, network);
        config.endpoints.insert(own, record);
        config.tasks.insert(
            task,
            TaskConfig {
                endpoints: vec![own],
                ..task_config(0)
            },
        );
    }
}

#[test]
fn reads_for_one_endpoint_do_not_grow_with_the_networks() {
    for networks in [0, 30] {
        let mut lab = Lab::new(&["192.0.2.1"]);
        let mut config = lab.whole().remove(0);
        add_networks(&mut config, networks);
        lab.settle(std::slice::from_ref(&config));
        let reads = || ["dumps=", "tables="].map(|name| lab.hosts[0].count(name));
        // Devices that have just come up go on to tell of themselves.
        let mut before = reads();
        loop {
            thread::sleep(Duration::from_secs(2));
            let now = reads();
            if now == before {
                break;
            }
            before = now;
        }
        let (id, task) = (endpoint(7), TaskId(107));
        let addresses = vec![address(7, "10.77.9."), address(7, "fd00:77:9::")];
        let record = EndpointConfig {
            network: NETWORK,
            node: node(0),
            sandbox: task.into(),
            mac: Mac::of_endpoint(addresses[0]),
            addresses,
        };
        config.endpoints.insert(id, record);
        let joined = TaskConfig {
            endpoints: vec![id],
            ..task_config(0)
        };
        config.tasks.insert(task, joined);
        config.generation += 1;
        lab.hosts[0].configure(&config);
        lab.hosts[0].wait_settled(config.generation);
        let after = ["dumps=", "tables="].map(|name| lab.hosts[0].count(name));
        let [dumps, tables] = [after[0] - before[0], after[1] - before[1]];
        println!("{networks} networks more: {dumps} dumps, {tables} tables");
        // Of the new sandbox, and of the link to it.
        assert!((1..=30).contains(&dumps), "{dumps} dumps");
        assert_eq!(tables, 0);
        lab.vanish();
    }
}
