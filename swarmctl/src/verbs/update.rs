//! `service update` and `service rollback`. Options that are not given keep their values.

use anyhow::Result;
use model::{Command, HealthCheck, Kind, Question, Refusal, Runtime, ServiceCommand, ServiceSpec};

use super::{Wait, convergence, reach};
use crate::{
    arguments::{Health, Rollout, ServiceUpdate},
    daemon::Daemon,
    failure, output,
};

/// The interval and the timeout of a health check, in milliseconds, and its retries, where they are
/// not given. Docker's.
const HEALTH: (u64, u64, u32) = (30_000, 30_000, 3);

/// `service update`.
pub(crate) async fn update(daemon: &Daemon, change: ServiceUpdate) -> Result<u8> {
    let service = daemon.ask(Question::service(&change.service)).await?;
    let name = service.spec.name.clone();
    let past = convergence::past(daemon, &name).await?;
    let (force, wait) = (change.force, Wait::of(&change.wait));
    let object = format!("service {name}");
    let spec = changed(service.spec, change).map_err(|error| failure::about(&object, error))?;
    let command = Command::Service(ServiceCommand::Update {
        service: service.id.to_string(),
        spec,
        version: service.version,
        force,
    });
    daemon.propose(object, command).await?;
    output::print(&name)?;
    convergence::wait(daemon, &name, &past, wait).await
}

/// `service rollback`.
pub(crate) async fn rollback(daemon: &Daemon, name: &str, wait: Wait) -> Result<u8> {
    let service = daemon.ask(Question::service(name)).await?;
    let name = &service.spec.name;
    let past = convergence::past(daemon, name).await?;
    let command = Command::Service(ServiceCommand::Rollback {
        service: service.id.to_string(),
    });
    daemon.propose(format!("service {name}"), command).await?;
    output::print(name)?;
    convergence::wait(daemon, name, &past, wait).await
}

fn changed(mut spec: ServiceSpec, change: ServiceUpdate) -> Result<ServiceSpec> {
    spec.replicas = change.replicas.unwrap_or(spec.replicas);
    change
        .label_rm
        .iter()
        .for_each(|key| drop(spec.labels.remove(key)));
    spec.labels.extend(change.labels);
    let (argv, env, rootfs) = match &mut spec.task.runtime {
        Runtime::Exec { argv, env, rootfs } => (argv, env, rootfs),
    };
    change.env_rm.iter().for_each(|name| drop(env.remove(name)));
    env.extend(change.env);
    *rootfs = change.rootfs.or(rootfs.take());
    if !change.argv.is_empty() {
        *argv = change.argv;
    }
    let restart = &mut spec.task.restart;
    restart.condition = change.restart_condition.unwrap_or(restart.condition);
    restart.delay = change.restart_delay.map_or(restart.delay, |time| time.0);
    restart.max_attempts = change.restart_max_attempts.unwrap_or(restart.max_attempts);
    spec.task.stop_grace = change
        .stop_grace_period
        .map_or(spec.task.stop_grace, |time| time.0);
    if change.no_healthcheck {
        spec.task.health = None;
    }
    reach::reach(&mut spec, change.reach)?;
    reach::resolver(&mut spec, change.resolver)?;
    health(&mut spec, change.health)?;
    rollout(&mut spec, change.rollout);
    Ok(spec)
}

/// Applies health check flags to a spec. Errors: there is no command to run.
pub(crate) fn health(spec: &mut ServiceSpec, flags: Health) -> Result<()> {
    let Health {
        health_cmd,
        health_interval,
        health_timeout,
        health_retries,
        health_start_period,
    } = flags;
    let times = [health_interval, health_timeout, health_start_period];
    if health_cmd.is_none() && health_retries.is_none() && times.iter().all(Option::is_none) {
        return Ok(());
    }
    let argv = health_cmd.map(|command| ["/bin/sh", "-c", &command].map(str::to_owned).to_vec());
    let known = spec.task.health.take();
    let Some(argv) = argv.or_else(|| known.as_ref().map(|known| known.argv.clone())) else {
        let cause = "a health check has no command";
        return Err(Refusal::new(Kind::Invalid, cause, "give it with --health-cmd COMMAND").into());
    };
    let (interval, timeout, retries) = HEALTH;
    let known = known.unwrap_or(HealthCheck {
        argv: Vec::new(),
        interval,
        timeout,
        retries,
        start_period: 0,
    });
    spec.task.health = Some(HealthCheck {
        argv,
        interval: health_interval.map_or(known.interval, |time| time.0),
        timeout: health_timeout.map_or(known.timeout, |time| time.0),
        retries: health_retries.unwrap_or(known.retries),
        start_period: health_start_period.map_or(known.start_period, |time| time.0),
    });
    Ok(())
}

/// Applies rollout flags to a spec.
pub(crate) fn rollout(spec: &mut ServiceSpec, flags: Rollout) {
    let update = &mut spec.update;
    spec.task.drain = flags.drain.map_or(spec.task.drain, |time| time.0);
    update.parallelism = flags.update_parallelism.unwrap_or(update.parallelism);
    update.delay = flags.update_delay.map_or(update.delay, |time| time.0);
    update.order = flags.update_order.unwrap_or(update.order);
    update.on_failure = flags.update_failure_action.unwrap_or(update.on_failure);
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use model::{Balance, NetworkAttachment, Scheduler, TaskSpec, UpdateOrder};

    use super::*;
    use crate::arguments::{Arguments, ServiceVerb, Verb};

    fn spec() -> ServiceSpec {
        let env = [
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "2".to_owned()),
        ]
        .into();
        ServiceSpec::new(
            "web",
            TaskSpec::new(Runtime::Exec {
                argv: vec!["sleep".to_owned()],
                env,
                rootfs: None,
            }),
        )
    }

    fn with(line: &str) -> Result<ServiceSpec> {
        changed_by(spec(), line)
    }

    fn changed_by(spec: ServiceSpec, line: &str) -> Result<ServiceSpec> {
        let line = format!("swarmctl service update {line}");
        let Verb::Service(ServiceVerb::Update(change)) =
            Arguments::parse_from(line.split_whitespace()).verb
        else {
            panic!("another verb")
        };
        changed(spec, *change)
    }

    #[test]
    fn only_what_is_given_changes() {
        assert_eq!(with("web").unwrap(), spec());
        let changed = with(
            "--env A=3 --env-rm B --replicas 4 --drain 3s --update-order start-first web -- netd x",
        )
        .unwrap();
        let env = [("A".to_owned(), "3".to_owned())].into();
        let runtime = Runtime::Exec {
            argv: vec!["netd".to_owned(), "x".to_owned()],
            env,
            rootfs: None,
        };
        let mut wanted = ServiceSpec {
            replicas: 4,
            ..spec()
        };
        (wanted.task.runtime, wanted.task.drain, wanted.update.order) =
            (runtime, 3_000, UpdateOrder::StartFirst);
        assert_eq!(changed, wanted);
    }

    #[test]
    fn names_ports_and_balancing_change_and_nothing_that_tasks_run() {
        let networks = vec![NetworkAttachment {
            network: "net".to_owned(),
            aliases: vec!["old".to_owned()],
        }];
        let before = ServiceSpec { networks, ..spec() };
        let line = "--publish-add 8080:80 --publish-add 8081:81,allow=10.0.0.0/8 --publish-allow \
                    fd00::/8 --lb mh --affinity 1m --alias-add NET=new --alias-rm net=OLD \
                    --port-add name=http,target=80 --stack shop --dns-publish-not-ready web";
        let after = changed_by(before.clone(), line).unwrap();
        let ports: Vec<String> = after
            .publish
            .iter()
            .map(|port| format!("{port} {}", port.allow[0]))
            .collect();
        assert_eq!(
            ports,
            ["*:8080->80/tcp fd00::/8", "*:8081->81/tcp 10.0.0.0/8"]
        );
        assert_eq!(
            after.balance,
            Balance {
                scheduler: Scheduler::Mh,
                affinity: Some(60)
            }
        );
        assert_eq!(
            (after.networks[0].aliases.as_slice(), after.ports[0].port),
            (&["new".to_owned()][..], 80)
        );
        assert_eq!(
            (after.stack.as_deref(), after.publish_not_ready, &after.task),
            (Some("shop"), true, &before.task)
        );
        // What is there already is not there twice; what is given anew replaces what had its name.
        let again = "--publish-add 8081:81,allow=10.0.0.0/8 --alias-add net=new --port-add \
                     name=HTTP,target=81 web";
        let again = changed_by(after.clone(), again).unwrap();
        assert_eq!(
            (
                again.publish.len(),
                again.networks[0].aliases.len(),
                again.ports.len()
            ),
            (2, 1, 1)
        );
        assert_eq!(again.ports[0].port, 81);
        let gone = "--publish-rm 80 --publish-rm 8081:81/tcp --alias-rm net=new --alias-add \
                    net=old --port-rm http --lb rr --affinity 0 --dns-publish-not-ready=false";
        let back = changed_by(after, &format!("{gone} --stack= web")).unwrap();
        assert_eq!(back, before);
    }

    #[test]
    fn resolvers_change_for_tasks() {
        let line = "--dns-add 10.0.0.1 --dns-add 10.0.0.2 --dns-search-add a.example \
                    --dns-option-add ndots:1 web";
        let after = with(line).unwrap();
        let dns = &after.task.dns;
        assert_eq!(
            (dns.servers.len(), dns.search.len(), dns.options.len()),
            (2, 1, 1)
        );
        let line = "--dns-rm 10.0.0.1 --dns-rm 10.0.0.2 --dns-search-rm a.example --dns-option-rm \
                    ndots:1 web";
        assert_eq!(changed_by(after, line).unwrap(), spec());
    }

    #[test]
    fn removal_of_an_absent_value_is_refused() {
        for (flags, cause) in [
            ("--publish-rm 80", "no published port 80"),
            ("--alias-rm net=db", "not asked to be on network \"net\""),
            ("--alias-add net=db", "not asked to be on network \"net\""),
            ("--port-rm http", "no port called \"http\""),
            ("--dns-rm 10.0.0.1", "no DNS server 10.0.0.1"),
            ("--dns-search-rm a.example", "no search domain a.example"),
            ("--dns-option-rm ndots:1", "no resolver option ndots:1"),
        ] {
            let refusal = with(&format!("{flags} web")).unwrap_err();
            let refusal = refusal.downcast_ref::<Refusal>().unwrap();
            assert!(
                refusal.cause.contains(cause) && !refusal.next.is_empty(),
                "{flags}: {refusal}"
            );
        }
    }

    #[test]
    fn a_health_check_is_made_changed_and_taken_away() {
        let refusal = with("--health-interval 1s web").unwrap_err();
        let refusal = refusal.downcast_ref::<Refusal>().unwrap();
        assert!(refusal.next.contains("--health-cmd"));
        let checked = with("--health-cmd true --health-interval 1s web").unwrap();
        let argv = ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec();
        let check = HealthCheck {
            argv,
            interval: 1_000,
            timeout: 30_000,
            retries: 3,
            start_period: 0,
        };
        assert_eq!(checked.task.health, Some(check.clone()));
        let mut again = checked;
        let flags = Health {
            health_cmd: None,
            health_interval: None,
            health_timeout: None,
            health_retries: Some(1),
            health_start_period: None,
        };
        health(&mut again, flags).unwrap();
        assert_eq!(
            again.task.health,
            Some(HealthCheck {
                retries: 1,
                ..check
            })
        );
    }
}
