//! Other people's software in tasks: nginx before an application that talks to redis and
//! PostgreSQL, all by name, on three hosts. `SOAK=3600` lets it run for an hour; without, it is
//! short.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::{Lab, eventually, holds};

const REDIS: &str = "exec redis-server --bind '*' '-::*' --protected-mode no --save '' --dir /tmp";
const POSTGRES: &str = "mkdir /tmp/db && chown postgres /tmp/db && cd /tmp
export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
exec setpriv --reuid=postgres --regid=postgres --clear-groups sh -c '
initdb -D /tmp/db -A trust >/dev/null && echo host all all all trust >>/tmp/db/pg_hba.conf &&
exec postgres -D /tmp/db -k /tmp -c \"listen_addresses=*\" -c fsync=off'";

/// Whether the application listens.
const WELL: &str = "python3 -c 'import socket; socket.create_connection((\"localhost\", 8000), 1)'";

#[test]
fn a_stack_of_common_software_talks_by_name_without_loss() {
    let seconds = std::env::var("SOAK").map_or(15, |text| {
        text.parse().expect("SOAK is a number of seconds")
    });
    let lab = Lab::up(3);
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 shop",
    )
    .ok();
    create(&lab, "cache", &[], REDIS, &[]);
    create(&lab, "db", &[], POSTGRES, &[]);
    let sql = |text: &str| {
        lab.inside(
            "h2",
            "db.1",
            &["psql", "-h", "db", "-U", "postgres", "-Atc", text],
        )
    };
    eventually("the database serves", || {
        let said = sql("create table if not exists hits (number bigint primary key)");
        holds(said.code == 0, said)
    });
    create(
        &lab,
        "app",
        &[
            "--replicas",
            "3",
            "--health-cmd",
            WELL,
            "--health-interval",
            "1s",
        ],
        "printf %s \"$CODE\" >/tmp/app.py; exec python3 /tmp/app.py",
        &[("CODE", include_str!("stack/app.py"))],
    );
    let nginx =
        "printf %s \"$CODE\" >/tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -e /dev/stderr";
    create(
        &lab,
        "front",
        &["--replicas", "2"],
        nginx,
        &[("CODE", include_str!("stack/nginx.conf"))],
    );
    let hits = || {
        sql("select count(*) from hits")
            .out
            .trim()
            .parse::<u64>()
            .ok()
    };
    let client = "until getent hosts front; do sleep .1; done; printf %s \"$CODE\" \
                  >/tmp/client.py; python3 /tmp/client.py >/tmp/said; \
                  exec sleep infinity";
    create(
        &lab,
        "client",
        &["--replicas", "3"],
        client,
        &[("CODE", include_str!("stack/client.py"))],
    );

    eventually("requests get through", || holds(hits() > Some(0), hits()));
    let until = Instant::now() + Duration::from_secs(seconds);
    // Meanwhile the application is changed as its operators would.
    for change in ["scale app=5", "update --force app", "scale app=2"]
        .iter()
        .cycle()
    {
        let before = hits();
        lab.ctl("h1", &format!("service {change}")).ok();
        eventually("requests go on", || holds(hits() > before, before));
        if Instant::now() > until {
            break;
        }
    }

    let mut calls = 0;
    for task in 1..=3 {
        let task = format!("client.{task}");
        lab.inside("h1", &task, &["touch", "/tmp/stop"]).ok();
        let said = eventually("a client ends", || {
            let said = lab.inside("h1", &task, &["cat", "/tmp/said"]).ok();
            holds(said.contains("calls"), &said).map(|()| said)
        });
        let count = said
            .trim()
            .strip_prefix("calls ")
            .and_then(|count| count.parse::<u64>().ok());
        calls += count.unwrap_or_else(|| panic!("{task} failed:\n{said}"));
    }
    println!("{calls} requests in {seconds} s, none failed");
    let counted = lab
        .inside("h3", "db.1", &["redis-cli", "-h", "cache", "get", "hits"])
        .ok();
    assert_eq!(
        (hits(), counted.trim()),
        (Some(calls), calls.to_string().as_str())
    );
}

/// A service whose tasks run this script of the shell.
fn create(lab: &Lab, name: &str, options: &[&str], script: &str, env: &[(&str, &str)]) {
    let variables: Vec<String> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut words = vec![
        "swarmctl",
        "service",
        "create",
        "--name",
        name,
        "--network",
        "shop",
    ];
    words.extend(options);
    variables
        .iter()
        .for_each(|variable| words.extend(["--env", variable]));
    words.extend(["--", "sh", "-c", script]);
    lab.exec("h1", &words).ok();
}
