//! A CNI runtime for tests: runs the plugins of a configuration list on a host of a lab as libcni
//! does, each with its environment and its configuration on standard input.

use std::{
    io::Write,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use crate::{Lab, Said};

/// Debian's reference plugins (containernetworking-plugins).
pub const REFERENCE: &str = "/usr/lib/cni";

/// A configuration list on a host.
pub struct Runtime<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The host.
    pub host: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The plugins, in order.
    pub plugins: Vec<Value>,
    /// `CNI_ARGS`.
    pub arguments: &'a str,
    /// `NETD_SOCKET`: where netd is asked, if not where it listens.
    pub socket: Option<&'a Path>,
}

/// A container with a network namespace made by `ip netns add`, whose name is the container's id.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// `CNI_CONTAINERID`, and the namespace's name.
    pub id: &'a str,
    /// `CNI_IFNAME`.
    pub interface: &'a str,
}

/// `eth0` of a container.
pub fn eth0(id: &str) -> Pod<'_> {
    Pod {
        id,
        interface: "eth0",
    }
}

impl Pod<'_> {
    /// `CNI_NETNS`.
    pub fn namespace(&self) -> String {
        format!("/run/netns/{}", self.id)
    }
}

impl<'a> Runtime<'a> {
    /// One plugin of ours on this network of the cluster.
    pub fn new(lab: &'a Lab, host: &'a str, network: &'a str) -> Self {
        let plugins = vec![json!({ "type": "netd-cni", "network": network })];
        Self {
            lab,
            host,
            version: "1.1.0",
            name: "dbnet",
            plugins,
            arguments: "",
            socket: None,
        }
    }

    /// The same with this in every plugin's `runtimeConfig`.
    pub fn with(mut self, capabilities: Value) -> Self {
        self.plugins
            .iter_mut()
            .for_each(|plugin| plugin["runtimeConfig"] = capabilities.clone());
        self
    }

    /// Makes a container's namespace.
    #[track_caller]
    pub fn make(&self, pod: Pod<'_>) {
        self.lab
            .exec(self.host, &["ip", "netns", "add", pod.id])
            .ok();
    }

    /// Starts a plugin.
    pub fn start(
        &self,
        verb: &str,
        pod: Pod<'_>,
        namespace: &str,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Child {
        let mut configuration = plugin.clone();
        configuration["cniVersion"] = self.version.into();
        configuration["name"] = self.name.into();
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        let variables = [
            format!("CNI_COMMAND={verb}"),
            format!("CNI_CONTAINERID={}", pod.id),
            format!("CNI_IFNAME={}", pod.interface),
            format!("CNI_NETNS={namespace}"),
            format!("CNI_ARGS={}", self.arguments),
            format!("CNI_PATH=/usr/local/bin:{REFERENCE}"),
        ];
        let socket = self
            .socket
            .map(|socket| format!("NETD_SOCKET={}", socket.display()));
        let kind = plugin["type"].as_str().expect("a plugin has a type");
        let program = if kind == "netd-cni" {
            kind.to_owned()
        } else {
            format!("{REFERENCE}/{kind}")
        };
        let variables = variables.iter().chain(&socket).map(String::as_str);
        let words: Vec<&str> = ["env"]
            .into_iter()
            .chain(variables)
            .chain([program.as_str()])
            .collect();
        let mut command = self.lab.command(self.host, &words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let mut input = child.stdin.take().expect("it has been piped");
        // What ends without reading says why by itself.
        let _unread = input.write_all(configuration.to_string().as_bytes());
        child
    }

    /// Runs a plugin to its end.
    pub fn call(
        &self,
        verb: &str,
        pod: Pod<'_>,
        namespace: &str,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Said {
        ended(self.start(verb, pod, namespace, plugin, previous))
    }

    /// ADD of all, in order. Errors: the JSON of the first that fails.
    pub fn try_add(&self, pod: Pod<'_>) -> Result<Value, Value> {
        let mut result = None;
        for plugin in &self.plugins {
            result = Some(outcome(self.call(
                "ADD",
                pod,
                &pod.namespace(),
                plugin,
                result.as_ref(),
            ))?);
        }
        Ok(result.expect("a list has plugins"))
    }

    /// Makes the namespace and adds it.
    #[track_caller]
    pub fn add(&self, pod: Pod<'_>) -> Value {
        self.make(pod);
        self.try_add(pod)
            .unwrap_or_else(|error| panic!("ADD {pod:?}: {error}"))
    }

    /// DEL of all, in reverse order.
    #[track_caller]
    pub fn del(&self, pod: Pod<'_>, result: Option<&Value>) {
        for plugin in self.plugins.iter().rev() {
            let said = self.call("DEL", pod, &pod.namespace(), plugin, result);
            assert_eq!(
                (said.code, said.out.as_str()),
                (0, ""),
                "DEL {pod:?} {plugin}: {said:?}"
            );
        }
    }

    /// CHECK of all. Errors: the JSON of the first that fails.
    pub fn check(&self, pod: Pod<'_>, result: &Value) -> Result<(), Value> {
        for plugin in &self.plugins {
            outcome(self.call("CHECK", pod, &pod.namespace(), plugin, Some(result)))?;
        }
        Ok(())
    }

    /// STATUS of the first.
    pub fn status(&self) -> Result<(), Value> {
        outcome(self.call("STATUS", eth0(""), "", &self.plugins[0], None)).map(|_| ())
    }

    /// GC of the first: these live.
    #[track_caller]
    pub fn gc(&self, living: &[Pod<'_>]) {
        let mut plugin = self.plugins[0].clone();
        let living = living
            .iter()
            .map(|pod| json!({ "containerID": pod.id, "ifname": pod.interface }));
        plugin["cni.dev/valid-attachments"] = living.collect();
        let said = self.call("GC", eth0(""), "", &plugin, None);
        assert_eq!((said.code, said.out.as_str()), (0, ""), "GC: {said:?}");
    }

    /// Runs a command inside of a container.
    pub fn inside(&self, pod: Pod<'_>, words: &[&str]) -> Said {
        self.lab.exec(
            self.host,
            &[&["ip", "netns", "exec", pod.id], words].concat(),
        )
    }

    /// What `ip -j -d` shows of an interface of a container; `None` if it has none of that name.
    #[track_caller]
    pub fn seen(&self, pod: Pod<'_>, interface: &str) -> Option<Value> {
        let text = self
            .lab
            .exec(self.host, &["ip", "-j", "-n", pod.id, "addr", "show"])
            .ok();
        let links: Vec<Value> = serde_json::from_str(&text).expect("JSON of `ip`");
        links.into_iter().find(|link| link["ifname"] == interface)
    }
}

/// What a plugin has said.
pub fn ended(child: Child) -> Said {
    Said::of(child.wait_with_output().expect("the plugin ends"))
}

/// Its result, or its error.
pub fn outcome(said: Said) -> Result<Value, Value> {
    match said.code {
        0 => Ok(serde_json::from_str(&said.out).unwrap_or_default()),
        _ => {
            Err(serde_json::from_str(&said.out)
                .unwrap_or_else(|_| panic!("no JSON error: {said:?}")))
        }
    }
}

/// The addresses of a result, without the lengths of their prefixes.
pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("a result has addresses");
    let bare = |ip: &Value| {
        ip["address"]
            .as_str()
            .and_then(|text| text.split('/').next())
            .map(str::to_owned)
    };
    ips.iter().filter_map(bare).collect()
}
