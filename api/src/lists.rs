//! Answers that come in pages, put together: lists have no limit but the memory of who asks.

use std::time::Duration;

use model::{Answer, Failure, other_version};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    MESSAGE_LIMIT, decode,
    proto::{Json, control_client::ControlClient},
};

/// Asks for all pages of an answer, for as long as `limit`. `question` is a `model::Query`. One of
/// the previous version, who knows of no pages, sends the answer whole.
///
/// # Errors
/// The call's.
pub async fn ask(
    channel: Channel,
    question: Json,
    limit: Duration,
) -> Result<Result<Answer, Failure>, Status> {
    let mut client = ControlClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    let request = || {
        let mut request = Request::new(question.clone());
        request.set_timeout(limit);
        request
    };
    let mut pages = match client.list(request()).await {
        Ok(pages) => pages.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => {
            return Ok(decode(client.query(request()).await?.get_ref())?);
        }
        Err(status) => return Err(status),
    };
    let mut whole: Option<Answer> = None;
    while let Some(page) = pages.message().await? {
        match (decode::<Result<Answer, Failure>>(&page)?, &mut whole) {
            (Err(failure), _) => return Ok(Err(failure)),
            (Ok(page), None) => whole = Some(page),
            (Ok(page), Some(whole)) => {
                if !whole.add_page(page) {
                    return Ok(Err(other_version("netd")));
                }
            }
        }
    }
    Ok(whole.ok_or_else(|| other_version("netd")))
}
