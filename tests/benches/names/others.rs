//! Servers of other people, with the same names.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use tests::{Lab, docker::Docker};

use super::{Keeps, NETWORK, PORT, Server, names, start};

/// Starts one; `None` where it is not installed.
pub type Start = fn(&Path, u32) -> Result<Option<Server>>;

/// NLnet Labs' resolver, answering from `local-data`.
pub fn unbound(directory: &Path, count: u32) -> Result<Option<Server>> {
    let program = "/usr/sbin/unbound";
    let records: String = names(count)
        .map(|(name, address)| format!("local-data: \"{name}.{NETWORK}. 2 IN A {address}\"\n"))
        .collect();
    let options = format!(
        "server:\ndo-daemonize: no\nusername: \"\"\nchroot: \"\"\npidfile: \"\"\nuse-syslog: \
         no\nnum-threads: 1\n\
         interface: 127.0.0.1\nport: {PORT}\nlocal-zone: \"{NETWORK}.\" static\n{records}\
         remote-control:\ncontrol-enable: no\n"
    );
    with_file(program, directory, "unbound.conf", &options, |file| {
        start("unbound", &[program, "-d", "-c", file])
    })
}

/// The forwarder of many home routers.
pub fn dnsmasq(directory: &Path, count: u32) -> Result<Option<Server>> {
    let program = "/usr/sbin/dnsmasq";
    let records: String = names(count)
        .map(|(name, address)| format!("{address} {name}.{NETWORK}\n"))
        .collect();
    with_file(program, directory, "hosts", &records, |file| {
        let (port, hosts) = (format!("--port={PORT}"), format!("--addn-hosts={file}"));
        let options = [
            "-k",
            "-C",
            "/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--user=root",
            "--pid-file=",
        ];
        let listen = [
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--dns-forward-max=10000",
        ];
        start(
            "dnsmasq",
            &[&[program, &port, &hosts], &options[..], &listen[..]].concat(),
        )
    })
}

/// Podman's: it goes into the background, and ends by its pid file.
pub fn aardvark(directory: &Path, count: u32) -> Result<Option<Server>> {
    let program = "/usr/lib/podman/aardvark-dns";
    let containers =
        names(count).map(|(name, address)| format!("{name} {address}  {name}.{NETWORK}\n"));
    let records: String = [
        "127.0.0.1\n".to_owned(),
        "client 127.0.0.1  client\n".to_owned(),
    ]
    .into_iter()
    .chain(containers)
    .collect();
    let own = directory.join("aardvark");
    fs::create_dir_all(&own)?;
    with_file(program, &own, NETWORK, &records, |_| {
        let port = PORT.to_string();
        let server = start(
            "aardvark-dns",
            &[
                program,
                "--config",
                &own.to_string_lossy(),
                "--port",
                &port,
                "run",
            ],
        )?;
        server.in_background(own.join("aardvark.pid"))
    })
}

/// Docker's, at 127.0.0.11 in a container: the names are another container's aliases.
pub fn docker(directory: &Path, count: u32) -> Result<Option<Server>> {
    if !Docker::is_installed() {
        return Ok(None);
    }
    let lab = Lab::up(1);
    let daemon = Docker::start(&lab, "h1", &["taskset", "-c", "0"]);
    let shell = |script: String| {
        lab.exec("h1", &["sh", "-ec", &script])
            .ok()
            .trim()
            .to_owned()
    };
    shell("docker network create --subnet 10.0.0.0/16 bench".to_owned());
    let aliases: String = names(count)
        .map(|(name, _)| format!(" --network-alias {name}.{NETWORK}"))
        .collect();
    let (_, address) = names(count).last().context("there are names")?;
    let run = "docker run -d --network bench --name";
    // Too long for one argument.
    let file = directory.join("docker.sh");
    fs::write(
        &file,
        format!("{run} all --ip {address}{aliases} busybox /bin/busybox sleep 1000000"),
    )?;
    lab.exec("h1", &["sh", &file.to_string_lossy()]).ok();
    shell(format!("{run} client busybox /bin/busybox sleep 1000000"));
    let client = shell("docker inspect -f '{{.State.Pid}}' client".to_owned());
    let inside = lab.command("h1", &["nsenter", &format!("--net=/proc/{client}/ns/net")]);
    let words = std::iter::once(inside.get_program()).chain(inside.get_args());
    let inside = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    Ok(Some(Server {
        what: "Docker",
        inside,
        address: "127.0.0.11",
        port: 53,
        keeps: Keeps::Docker {
            _daemon: daemon,
            _lab: lab,
        },
    }))
}

fn with_file(
    program: &str,
    directory: &Path,
    name: &str,
    text: &str,
    start: impl FnOnce(&str) -> Result<Server>,
) -> Result<Option<Server>> {
    if !Path::new(program).exists() {
        return Ok(None);
    }
    let file = directory.join(name);
    fs::write(&file, text)?;
    start(&file.to_string_lossy()).map(Some)
}
