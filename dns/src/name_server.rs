//! A resolver to forward to, as it is written: `192.0.2.1`, or `tls://192.0.2.1#dns.example.net`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use model::ParseError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};

use crate::resolv_conf::PORT;

/// Port of DNS over TLS (RFC 7858).
const TLS_PORT: u16 = 853;
const TLS: &str = "tls://";

/// A resolver to forward to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameServer {
    pub(crate) address: SocketAddr,
    /// Whom its certificate is to name; none where it is asked in clear.
    pub(crate) tls: Option<ServerName<'static>>,
}

impl NameServer {
    /// Whether it is asked over TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        let tls = None;
        Self { address, tls }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            None => self.address.fmt(f),
            Some(ServerName::IpAddress(_)) => write!(f, "{TLS}{}", self.address),
            Some(name) => write!(f, "{TLS}{}#{}", self.address, name.to_str()),
        }
    }
}

impl FromStr for NameServer {
    type Err = ParseError;

    /// `ADDRESS`, `ADDRESS:PORT`, or one of these behind `tls://`, with `#NAME` where the server's
    /// certificate names that, and not its address. IPv6 with a port is in brackets.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refusal = |why| {
            let cause = format!("{text:?} is no DNS server: {why}");
            ParseError::new(cause, "write 192.0.2.1, or tls://192.0.2.1#dns.example.net")
        };
        let Some(rest) = text.strip_prefix(TLS) else {
            let why = match text.split_once("://") {
                Some(_) => "the only scheme is tls",
                None if text.contains('#') => "a name is looked for with tls:// only",
                None => "it has no address",
            };
            let address = address(text, PORT).ok_or_else(|| refusal(why))?;
            return Ok(address.into());
        };
        let (address_text, name) = match rest.split_once('#') {
            None => (rest, None),
            Some((address, name)) => (address, Some(name)),
        };
        // The port may stand at the end, too: `tls://192.0.2.1#dns.example.net:853`.
        let (name, port) = match name.and_then(|name| name.split_once(':')) {
            None => (name, TLS_PORT),
            Some((name, port)) => {
                let is_plain = IpAddr::from_str(bare(address_text)).is_ok();
                let why = "its port is no number from 1 to 65535";
                let port = port.parse().ok().filter(|port| *port > 0 && is_plain);
                (Some(name), port.ok_or_else(|| refusal(why))?)
            }
        };
        let address = address(address_text, port).ok_or_else(|| refusal("it has no address"))?;
        let tls = match name {
            None => ServerName::from(address.ip()),
            Some(name) => match ServerName::try_from(name) {
                Ok(name @ ServerName::DnsName(_)) => name.to_owned(),
                _ => return Err(refusal("what is behind # is no DNS name")),
            },
        };
        let tls = Some(tls);
        Ok(Self { address, tls })
    }
}

/// An IPv6 address without its brackets.
fn bare(text: &str) -> &str {
    let inside = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    inside
        .filter(|inside| inside.parse::<Ipv6Addr>().is_ok())
        .unwrap_or(text)
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let plain = bare(text).parse::<IpAddr>();
    let address = plain.map(|address| (address, port).into());
    let address: SocketAddr = address.or_else(|_| text.parse()).ok()?;
    let ip = address.ip();
    let is_one = !ip.is_unspecified() && !ip.is_multicast() && address.port() > 0;
    is_one.then_some(address)
}

/// Whose certificates resolvers may have.
#[derive(Clone)]
pub struct Trust(pub(crate) Arc<ClientConfig>);

/// Why no resolver can be asked over TLS.
#[derive(Debug, thiserror::Error)]
pub enum NoTrust {
    /// This host trusts nobody.
    #[error("this host has no root certificates{0}, by which DNS servers over TLS are known")]
    NoRoots(String),
    /// The cryptographic library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

impl Trust {
    /// What this host trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or what OpenSSL reads).
    pub fn system() -> Result<Self, NoTrust> {
        let found = rustls_native_certs::load_native_certs();
        let why = found.errors.first().map(|error| format!(" ({error})"));
        Self::roots(found.certs).map_err(|error| match error {
            NoTrust::NoRoots(_) => NoTrust::NoRoots(why.unwrap_or_default()),
            other => other,
        })
    }

    /// These roots.
    pub fn roots(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, NoTrust> {
        let mut store = RootCertStore::empty();
        // Hosts have old certificates that are not well-formed.
        store.add_parsable_certificates(roots);
        if store.is_empty() {
            return Err(NoTrust::NoRoots(String::new()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_tls_with_a_name() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("tls://192.0.2.1", "tls://192.0.2.1:853"),
            ("tls://192.0.2.1:8853", "tls://192.0.2.1:8853"),
            ("tls://[2001:db8::1]", "tls://[2001:db8::1]:853"),
            ("tls://192.0.2.1#a.example", "tls://192.0.2.1:853#a.example"),
            (
                "tls://192.0.2.1#a.example:8853",
                "tls://192.0.2.1:8853#a.example",
            ),
            (
                "tls://192.0.2.1:8853#a.example",
                "tls://192.0.2.1:8853#a.example",
            ),
            (
                "tls://2001:db8::1#a.example",
                "tls://[2001:db8::1]:853#a.example",
            ),
            (
                "tls://2001:db8::1#a.example:8853",
                "tls://[2001:db8::1]:8853#a.example",
            ),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(shown.parse(), Ok(server));
        }
    }

    #[test]
    fn refusals_say_why_a_text_names_no_server() {
        for (text, why) in [
            ("", "it has no address"),
            ("dns.example", "it has no address"),
            ("0.0.0.0", "it has no address"),
            ("tls://dns.example", "it has no address"),
            ("tls://192.0.2.1:0", "it has no address"),
            ("tls://192.0.2.1#", "what is behind # is no DNS name"),
            ("tls://192.0.2.1#a b", "what is behind # is no DNS name"),
            (
                "tls://192.0.2.1#192.0.2.1",
                "what is behind # is no DNS name",
            ),
            (
                "tls://192.0.2.1#a:0",
                "its port is no number from 1 to 65535",
            ),
            (
                "tls://192.0.2.1#a:853x",
                "its port is no number from 1 to 65535",
            ),
            (
                "tls://192.0.2.1:853#a:853",
                "its port is no number from 1 to 65535",
            ),
            ("https://192.0.2.1", "the only scheme is tls"),
            (
                "192.0.2.1#a.example",
                "a name is looked for with tls:// only",
            ),
        ] {
            let refusal = text.parse::<NameServer>().unwrap_err().to_string();
            let expected = format!("{text:?} is no DNS server: {why}: write ");
            assert!(refusal.starts_with(&expected), "{refusal}");
        }
    }
}
