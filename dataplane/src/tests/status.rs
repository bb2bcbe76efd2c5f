//! What holds a task or the host up.

use super::*;

#[test]
fn a_task_is_ready_once_nothing_of_its_own_is_left_to_do() {
    let mut config = config();
    config.endpoints.insert(
        EndpointId(3),
        EndpointConfig {
            sandbox: SandboxId(3),
            ..endpoint(1, "13")
        },
    );
    config.tasks.insert(
        TaskId(3),
        TaskConfig {
            endpoints: vec![EndpointId(3)],
            ..task()
        },
    );
    let desired = Desired::of(&config, &ground(Some(1500)));
    let mut observed = kernel(&desired);
    let other = Place::Inside(Namespace::Sandbox(SandboxId(3)));
    space_of(&mut observed, other).forget(&names::sandbox_link(0));
    let status = judge(&config, &desired, &plan(&desired, &observed), Vec::new());
    let expected = (Some(config.node), config.generation, false);
    assert_eq!((status.node, status.generation, status.settled), expected);
    assert_eq!(status.ready, [SandboxId(1)].into());
}

#[test]
fn an_older_configuration_is_refused() {
    let at = |generation| {
        Arc::new(NodeConfig {
            generation,
            ..config()
        })
    };
    assert_eq!(newer(at(5), at(4)).generation, 5);
    assert_eq!(newer(at(5), at(6)).generation, 6);
    let joined_anew = Arc::new(NodeConfig::empty(NodeId(9)));
    assert_eq!(newer(at(5), joined_anew.clone()), joined_anew);
}

#[test]
fn without_a_vtep_no_task_that_needs_one_is_ready() {
    let mut config = config();
    config.peers.clear();
    assert_eq!(
        Desired::of(&config, &ground(None)).sandboxes,
        BTreeMap::new()
    );
}

#[test]
fn a_host_without_its_vtep_says_so_and_is_not_settled() {
    let desired = Desired::of(&config(), &ground(None));
    let status = judge(&config(), &desired, &[], Vec::new());
    assert!(
        !status.settled && status.failures[0].why.cause.contains("192.0.2.1"),
        "{status:?}"
    );
}
