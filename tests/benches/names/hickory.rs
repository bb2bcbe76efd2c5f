//! hickory-server, with a handler that costs as little as can be: it looks up a prepared record.

use std::{collections::HashMap, env, path::Path, time::Duration};

use anyhow::Result;
use hickory_server::{
    Server as Hickory,
    net::runtime::Time,
    proto::{
        op::{Header, HeaderCounts, Metadata, ResponseCode},
        rr::{LowerName, Name, RData, Record},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};

use super::{NETWORK, PORT, Server, names};

/// Starts this program as such a server.
pub fn start(_: &Path, count: u32) -> Result<Option<Server>> {
    let program = env::current_exe()?;
    let words = [
        &program.to_string_lossy(),
        "serve-hickory",
        &count.to_string(),
    ];
    super::start(
        "hickory-server",
        &words.each_ref().map(|word| word.as_ref()),
    )
    .map(Some)
}

/// Serves until it is killed.
#[tokio::main(flavor = "current_thread")]
pub async fn serve(count: u32) -> Result<()> {
    let records = names(count).map(|(name, address)| {
        let name = Name::from_ascii(format!("{name}.{NETWORK}."))?;
        let record = Record::from_rdata(name.clone(), 2, RData::from(address));
        Ok((LowerName::new(&name), record))
    });
    let mut server = Hickory::new(Records(records.collect::<Result<_>>()?));
    server.register_socket(UdpSocket::bind(("127.0.0.1", PORT)).await?);
    let tcp = TcpListener::bind(("127.0.0.1", PORT)).await?;
    server.register_listener(tcp, Duration::from_secs(10), 64);
    Ok(server.block_until_done().await?)
}

struct Records(HashMap<LowerName, Record>);

#[async_trait::async_trait]
impl RequestHandler for Records {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let info = request.request_info().ok();
        let found = info.and_then(|info| self.0.get(info.query.name()));
        metadata.authoritative = true;
        if found.is_none() {
            metadata.response_code = ResponseCode::NXDomain;
        }
        let response = MessageResponseBuilder::from_message_request(request);
        let response = response.build(metadata, found, [], [], []);
        let sent = handle.send_response(response).await;
        let header = Header {
            metadata,
            counts: HeaderCounts::default(),
        };
        sent.unwrap_or_else(|_| header.into())
    }
}
