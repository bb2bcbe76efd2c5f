//! The journal of the engine's identities: one small file per network and per endpoint, written
//! whole before netd replies. Networks are fsynced, because the engine tells of them once.
//! Endpoints need only outlive the daemon: none of them outlives the host, and one that is lost is
//! released like any that has lost its engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use model::{
    ContainerTraits, Mac, Millis, NetworkId, Subnet, SubnetLease, TooNew,
    level::{self, FileError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A network of the engine, by the engine's identity of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// The cluster's network; `None` while it is being made.
    pub network: Option<NetworkId>,
    /// The spec that this engine made the network with, if it made it.
    pub made: Option<String>,
    /// It still has the name that it was made with for want of its own.
    pub unnamed: bool,
    /// The pools that lead to it.
    pub pools: BTreeSet<String>,
    /// Its prefixes and gateways.
    pub subnets: Vec<SubnetLease>,
    /// No way out.
    pub internal: bool,
    /// Its endpoints are on a LAN, which its gateways are machines of.
    pub lan: bool,
    /// Addresses held for nobody.
    pub aux: BTreeSet<IpAddr>,
    /// The engine has removed it; the cluster does not know yet.
    pub removed: bool,
    /// When it was written first.
    pub since: Millis,
}

#[cfg(test)]
impl NetworkRecord {
    /// An overlay with a way out: 10.0.`number`.0/24 and fd00:`number`::/64.
    pub(crate) fn example(number: u8) -> Self {
        let lease = |subnet: String, gateway: String| SubnetLease {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        Self {
            network: None,
            made: None,
            unnamed: false,
            pools: BTreeSet::new(),
            subnets: vec![
                lease(format!("10.0.{number}.0/24"), format!("10.0.{number}.1")),
                lease(format!("fd00:{number}::/64"), format!("fd00:{number}::1")),
            ],
            internal: false,
            lan: false,
            aux: BTreeSet::new(),
            removed: false,
            since: 0,
        }
    }

    /// The same without a way out.
    pub(crate) fn internal(self) -> Self {
        Self {
            internal: true,
            ..self
        }
    }

    /// The same on a LAN.
    pub(crate) fn on_lan(self) -> Self {
        Self { lan: true, ..self }
    }
}

/// A change of an endpoint that the cluster does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pending {
    /// It is in no sandbox any more.
    Leave,
    /// It is given up.
    Detach,
}

/// An endpoint, or addresses that are to become one, by its key in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The cluster's network.
    pub network: NetworkId,
    /// The engine's id of the endpoint.
    pub mac: Mac,
    /// Addresses that the engine has been given and has not released.
    pub addresses: BTreeSet<IpAddr>,
    /// That of them which the engine has not asked for: it does not release it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<IpAddr>,
    /// The engine's identity of it, once it has one.
    pub endpoint: Option<String>,
    /// Where it is.
    pub sandbox: Option<String>,
    /// Traits of its container.
    pub traits: ContainerTraits,
    /// Pending change that the cluster does not know yet.
    pub pending: Option<Pending>,
    /// When it was written first.
    pub since: Millis,
    /// When the engine spoke of it last.
    #[serde(default)]
    pub heard: Millis,
}

/// `--ip-range` of a prefix that no network has yet: by the prefix.
pub(crate) type Range = Subnet;

/// All of it.
pub(crate) struct Journal {
    /// By the engine's identity.
    pub networks: Records<NetworkRecord>,
    /// By the id of the key in the cluster.
    pub holds: Records<Hold>,
    /// By prefix.
    pub ranges: Records<Range>,
}

impl Journal {
    /// Reads all records.
    ///
    /// # Errors
    ///
    /// The directory cannot be created or read.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            networks: Records::open(directory.join("networks"), Lifetime::Disk)?,
            holds: Records::open(directory.join("holds"), Lifetime::Boot)?,
            ranges: Records::open(directory.join("ranges"), Lifetime::Boot)?,
        })
    }

    /// The endpoint that the engine calls so.
    pub(crate) fn endpoint(&self, id: &str) -> Option<(String, Hold)> {
        self.holds
            .find(|_, hold| hold.endpoint.as_deref() == Some(id))
    }

    /// The network that this pool leads to.
    pub(crate) fn pool(&self, id: &str) -> Option<NetworkRecord> {
        let is_meant = |network: &NetworkRecord| {
            network.network.is_some() && !network.removed && network.pools.contains(id)
        };
        self.networks
            .find(|_, network| is_meant(network))
            .map(|(_, network)| network)
    }
}

/// Whether records must survive a reboot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    /// The daemon.
    Boot,
    /// The host, too.
    Disk,
}

/// Records of one kind: a file each.
pub(crate) struct Records<T> {
    directory: PathBuf,
    lifetime: Lifetime,
    known: Mutex<BTreeMap<String, T>>,
}

impl<T: Clone + PartialEq + Serialize + DeserializeOwned> Records<T> {
    fn open(directory: PathBuf, lifetime: Lifetime) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.ends_with(".new") {
                fs::remove_file(&path)?;
                continue;
            }
            match level::read(&path, &fs::read(&path)?) {
                Ok(record) => drop(known.insert(name.replace('_', "/"), record)),
                Err(FileError::TooNew(error)) => {
                    return Err(io::Error::other(format!("{error}: {}", TooNew::NEXT)));
                }
                Err(_) if lifetime == Lifetime::Boot => fs::remove_file(&path)?,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error,
                        "ignoring a file that is not a record of an engine")
                }
            }
        }
        Ok(Self {
            directory,
            lifetime,
            known: Mutex::new(known),
        })
    }

    /// One record.
    pub(crate) fn get(&self, key: &str) -> Option<T> {
        self.lock().get(key).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<String, T> {
        self.lock().clone()
    }

    /// The first that is meant.
    pub(crate) fn find(&self, is_meant: impl Fn(&str, &T) -> bool) -> Option<(String, T)> {
        let known = self.lock();
        known
            .iter()
            .find(|(key, record)| is_meant(key, record))
            .map(|(key, record)| (key.clone(), record.clone()))
    }

    /// Writes a record; it is there for as long as it is to live when this returns.
    ///
    /// # Errors
    /// The disk's; then nothing has changed.
    pub(crate) fn put(&self, key: &str, record: &T) -> io::Result<()> {
        let mut known = self.lock();
        if known.get(key) != Some(record) {
            let content = serde_json::to_vec(record)?;
            tokio::task::block_in_place(|| self.write(key, &content))?;
            known.insert(key.to_owned(), record.clone());
        }
        Ok(())
    }

    /// Forgets a record; it is fine if there is none.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        let mut known = self.lock();
        if known.contains_key(key) {
            match fs::remove_file(self.path(key)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // One that comes back after a power cut is found out as any that has lost its engine.
            known.remove(key);
        }
        Ok(())
    }

    fn write(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let draft = path.with_file_name(format!("{}.new", file_name(key)));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(content)?;
        match self.lifetime {
            Lifetime::Boot => fs::rename(&draft, &path),
            Lifetime::Disk => {
                file.sync_all()?;
                fs::rename(&draft, &path)?;
                File::open(&self.directory)?.sync_all()
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(file_name(key))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys have no `_` of their own: identities of engines are checked where they come in.
fn file_name(key: &str) -> String {
    key.replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        let (network, mac) = (NetworkId(7), Mac([2, 66, 0, 0, 0, 1]));
        let addresses = BTreeSet::from(["10.0.9.5".parse().unwrap(), "fd00:9::5".parse().unwrap()]);
        let traits = ContainerTraits::default();
        Hold {
            network,
            mac,
            addresses,
            added: None,
            endpoint: None,
            sandbox: None,
            traits,
            pending: None,
            since: 1,
            heard: 1,
        }
    }

    /// `tests/records/LEVEL` holds what a netd of that level wrote.
    #[test]
    fn a_journal_of_the_first_level_is_read() {
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records/0/docker");
        let directory = tempfile::tempdir().unwrap();
        for kind in ["networks", "holds"] {
            let there = directory.path().join(kind);
            fs::create_dir(&there).unwrap();
            for entry in fs::read_dir(records.join(kind)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), there.join(entry.file_name())).unwrap();
            }
        }
        let journal = Journal::open(directory.path()).unwrap();
        let networks: Vec<_> = journal.networks.all().into_values().collect();
        let holds: Vec<_> = journal.holds.all().into_iter().collect();
        assert_eq!((networks.len(), networks[0].subnets.len()), (1, 2));
        let (key, hold) = &holds[0];
        assert_eq!(
            (key.as_str(), holds.len()),
            ("21ne6bzqhwkrx/02:42:82:e8:f5:93", 1)
        );
        assert_eq!((hold.addresses.len(), hold.traits.name.as_str()), (2, "c1"));
        for (name, hold) in holds {
            let written = directory.path().join("holds").join(file_name(&name));
            let written = fs::read_to_string(written).unwrap();
            let mut written: serde_json::Value = serde_json::from_str(&written).unwrap();
            // Named a way of questions that there is no more, and may be missing.
            written.as_object_mut().unwrap().remove("asks");
            assert_eq!(serde_json::to_value(&hold).unwrap(), written);
        }
    }

    #[test]
    fn a_record_survives_a_restart_and_half_a_write_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let key = "0000000000007/02:42:00:00:00:01";
        journal.holds.put(key, &hold()).unwrap();
        journal.holds.put("gone", &hold()).unwrap();
        journal.holds.remove("gone").unwrap();
        fs::write(directory.path().join("holds/half.new"), "{").unwrap();
        fs::write(directory.path().join("holds/torn"), "{").unwrap();
        fs::write(directory.path().join("networks/torn"), "{").unwrap();
        let again = Journal::open(directory.path()).unwrap();
        assert_eq!(
            again.holds.all(),
            BTreeMap::from([(key.to_owned(), hold())])
        );
        let exists = |name: &str| directory.path().join(name).exists();
        assert!(!exists("holds/half.new") && !exists("holds/torn") && exists("networks/torn"));
    }

    #[test]
    fn endpoints_are_found_by_what_the_engine_calls_them() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let hold = Hold {
            endpoint: Some("e1".to_owned()),
            ..hold()
        };
        journal.holds.put("key", &hold).unwrap();
        assert_eq!(journal.endpoint("e1"), Some(("key".to_owned(), hold)));
        assert_eq!(journal.endpoint("e2"), None);
    }

    #[test]
    fn a_pool_leads_to_the_network_that_was_made_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let record = |network, removed| NetworkRecord {
            network,
            made: Some("own".to_owned()),
            unnamed: false,
            pools: BTreeSet::from(["subnet/10.0.9.0/24".to_owned()]),
            subnets: Vec::new(),
            internal: false,
            lan: false,
            aux: BTreeSet::new(),
            removed,
            since: 1,
        };
        journal.networks.put("a", &record(None, false)).unwrap();
        journal
            .networks
            .put("b", &record(Some(NetworkId(7)), true))
            .unwrap();
        assert_eq!(journal.pool("subnet/10.0.9.0/24"), None);
        journal
            .networks
            .put("c", &record(Some(NetworkId(8)), false))
            .unwrap();
        assert_eq!(
            journal.pool("subnet/10.0.9.0/24"),
            Some(record(Some(NetworkId(8)), false))
        );
    }
}
