//! `service …`.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use model::{
    Balance, Command, DnsConfig, Kind, Outcome, PublishSpec, Question, Refusal, RestartPolicy,
    Runtime, ServiceCommand, ServiceInfo, ServiceSpec, ServiceStatus, Subnet, TaskId, TaskSpec,
};

use super::{Wait, collect, convergence, each, logs, task, traffic, update};
use crate::{
    arguments::{Listing, ServiceCreate, ServiceVerb, by_key},
    daemon::Daemon,
    failure,
    output::{self, Format, List},
    values::{Millis, Scale},
    watching::follow,
};

/// How long the tasks of a removed service may take to stop, before `rm` returns with the reason.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// `service …`.
pub(crate) async fn service(daemon: &Daemon, verb: ServiceVerb) -> Result<u8> {
    match verb {
        ServiceVerb::Create(create) => self::create(daemon, *create).await,
        ServiceVerb::Ls(listing) => ls(daemon, &listing).await,
        ServiceVerb::Ps { services, listing } => {
            let (tasks, code) =
                collect(&services, |name| daemon.ask(Question::tasks_of(name))).await?;
            task::print(&tasks.concat(), &listing)?;
            Ok(code)
        }
        ServiceVerb::Inspect {
            inspection,
            traffic: true,
        } => traffic::traffic(daemon, &inspection).await,
        ServiceVerb::Inspect {
            inspection,
            traffic: false,
        } => {
            let (services, code) = collect(&inspection.names, |name| {
                daemon.ask(Question::service(name))
            })
            .await?;
            print(&services, inspection.output)?;
            Ok(code)
        }
        ServiceVerb::Update(change) => update::update(daemon, *change).await,
        ServiceVerb::Rollback { service, wait } => {
            update::rollback(daemon, &service, Wait::of(&wait)).await
        }
        ServiceVerb::Scale { scales, detach } => {
            let begun = scale(daemon, scales).await?;
            if detach {
                Ok(begun.code)
            } else {
                begun.wait(daemon).await
            }
        }
        ServiceVerb::Rm {
            services,
            detach: true,
        } => {
            let removed = async |name: String| {
                rm(daemon, &name).await?;
                output::print(&name)
            };
            each(&services, removed).await
        }
        ServiceVerb::Rm {
            services,
            detach: false,
        } => each(&services, |name| rm_and_wait(daemon, name)).await,
        ServiceVerb::Logs {
            follow,
            tail,
            timestamps,
            target,
        } => {
            logs::logs(
                daemon,
                &target,
                logs::Reading {
                    follow,
                    tail,
                    timestamps,
                },
            )
            .await
        }
    }
}

async fn create(daemon: &Daemon, create: ServiceCreate) -> Result<u8> {
    let (name, mut wait) = (create.name.clone(), Wait::of(&create.wait));
    if create.external {
        wait = Wait::Detached;
    }
    let object = format!("service {name}");
    let spec = spec(create).map_err(|error| failure::about(&object, error))?;
    let made = daemon.propose(object, Command::Service(ServiceCommand::Create { spec }));
    if let Outcome::Service(id) = made.await? {
        output::print(&id.to_string())?;
    }
    convergence::wait(daemon, &name, &BTreeSet::new(), wait).await
}

async fn ls(daemon: &Daemon, listing: &Listing) -> Result<u8> {
    let services = daemon.ask(Question::services()).await?;
    if listing.quiet {
        services
            .iter()
            .try_for_each(|service| output::print(&service.id.to_string()))?;
    } else {
        print(&services, listing.output)?;
    }
    Ok(0)
}

/// Services that were scaled, with the tasks that had ended before.
struct Scaled {
    services: Vec<(String, BTreeSet<TaskId>)>,
    /// Exit code of those that could not be scaled; else 0.
    code: u8,
}

impl Scaled {
    async fn wait(self, daemon: &Daemon) -> Result<u8> {
        let mut code = self.code;
        for (service, past) in &self.services {
            match convergence::wait(daemon, service, past, Wait::Shown).await {
                Ok(waited) => code = code.max(waited),
                Err(error) => code = failure::tell(&error),
            }
        }
        Ok(code)
    }
}

/// All are scaled first, then waited for, so that they converge together.
async fn scale(daemon: &Daemon, scales: Vec<Scale>) -> Result<Scaled> {
    let (mut code, mut services) = (0, Vec::new());
    for Scale { service, replicas } in scales {
        match scale_one(daemon, &service, replicas).await {
            Ok(past) => services.push((service, past)),
            Err(error) => code = failure::tell(&error),
        }
    }
    Ok(Scaled { services, code })
}

/// Scales and returns the tasks that had already ended before: their errors are not news.
async fn scale_one(daemon: &Daemon, service: &str, replicas: u32) -> Result<BTreeSet<TaskId>> {
    let past = convergence::past(daemon, service).await?;
    let command = Command::Service(ServiceCommand::Scale {
        service: service.to_owned(),
        replicas,
    });
    daemon
        .propose(format!("service {service}"), command)
        .await?;
    output::print(&format!("{service} scaled to {replicas}"))?;
    Ok(past)
}

async fn rm_and_wait(daemon: &Daemon, name: String) -> Result<()> {
    // By id: another service may take the name as soon as it is free.
    let found = daemon.ask(Question::service(name.clone())).await?;
    rm(daemon, &name).await?;
    wait_until_gone(daemon, &found, &name).await?;
    output::print(&name)
}

async fn rm(daemon: &Daemon, name: &str) -> Result<()> {
    let command = Command::Service(ServiceCommand::Remove {
        service: name.to_owned(),
    });
    daemon.propose(format!("service {name}"), command).await?;
    Ok(())
}

async fn wait_until_gone(daemon: &Daemon, service: &ServiceInfo, name: &str) -> Result<()> {
    let limit = REMOVE_LIMIT.saturating_add(Duration::from_millis(service.spec.task.drain));
    let gone = async {
        let mut followed = match follow(daemon, &service.id.to_string()).await {
            Err(failure) if failure.kind == Kind::NotFound => return Ok(()),
            followed => followed?,
        };
        while !followed.gone {
            followed.change().await?;
        }
        Ok(())
    };
    tokio::time::timeout(limit, gone).await.unwrap_or_else(|_| {
        let cause = format!(
            "service {name} is being removed, but has tasks left after {} s",
            limit.as_secs()
        );
        Err(Refusal::new(
            Kind::Precondition,
            cause,
            format!("`swarmctl service ps {name}` shows what still runs"),
        )
        .about(format!("service {name}"))
        .into())
    })
}

fn print(services: &[ServiceInfo], format: Format) -> Result<()> {
    List::of(services)
        .column("ID", |service| service.id.to_string())
        .column("NAME", |service| service.spec.name.clone())
        .column("REPLICAS", replicas)
        .column("NETWORKS", |service| service.status.networks.join(","))
        .column("VIRTUAL IPS", |service| {
            output::join(&service.status.virtual_ips)
        })
        .column("PORTS", |service| output::join(&service.spec.publish))
        .print(format)
}

fn replicas(service: &ServiceInfo) -> String {
    let replicas = service.spec.replicas;
    let ServiceStatus {
        running,
        removing,
        update,
        ..
    } = &service.status;
    match update {
        _ if *removing => format!("{running}/0 removing"),
        _ if service.spec.external => "external".to_owned(),
        Some(update) if update.paused => {
            format!("{running}/{replicas} paused, {} updated", update.updated)
        }
        Some(update) => format!("{running}/{replicas}, {} updated", update.updated),
        None => format!("{running}/{replicas}"),
    }
}

/// Whole seconds, rounded up; a value that does not fit becomes the largest, which validation
/// refuses.
pub(crate) fn seconds(affinity: Millis) -> u32 {
    affinity.0.div_ceil(1000).try_into().unwrap_or(u32::MAX)
}

fn spec(create: ServiceCreate) -> Result<ServiceSpec> {
    let runtime = Runtime::Exec {
        argv: create.argv,
        env: by_key(create.env),
        rootfs: create.rootfs,
    };
    let restart = RestartPolicy {
        condition: create.restart_condition,
        delay: create.restart_delay.0,
        max_attempts: create.restart_max_attempts,
    };
    let dns = DnsConfig {
        servers: create.dns,
        search: create.dns_search,
        options: create.dns_option,
    };
    let task = TaskSpec {
        restart,
        dns,
        stop_grace: create.stop_grace_period.0,
        ..TaskSpec::new(runtime)
    };
    let mut spec = ServiceSpec {
        replicas: if create.external { 0 } else { create.replicas },
        external: create.external,
        networks: create.networks,
        stack: create.stack,
        ports: create.ports,
        publish_not_ready: create.dns_publish_not_ready,
        endpoint_mode: create.endpoint_mode,
        publish: publish(create.publish, &create.publish_allow),
        balance: Balance {
            scheduler: create.lb,
            affinity: create.affinity.map(seconds),
        },
        labels: by_key(create.labels),
        ..ServiceSpec::new(create.name, task)
    };
    update::health(&mut spec, create.health)?;
    update::rollout(&mut spec, create.rollout);
    Ok(spec)
}

/// A port's own `allow` list overrides `--publish-allow`.
pub(crate) fn publish(mut ports: Vec<PublishSpec>, allow: &[Subnet]) -> Vec<PublishSpec> {
    ports
        .iter_mut()
        .filter(|port| port.allow.is_empty())
        .for_each(|port| port.allow = allow.to_vec());
    ports
}
