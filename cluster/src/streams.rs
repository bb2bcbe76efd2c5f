//! Lists and watches as streams of messages.

use std::pin::Pin;

use api::{encode, proto::Json};
use futures::{Stream, StreamExt};
use model::{Answer, Refusal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::watching::Told;

/// Objects of one page of a list.
const PAGE: usize = 250;

/// Messages of a stream.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Json, Status>> + Send>>;

/// An answer as a stream of pages.
pub fn paged(answer: Result<Answer, Refusal>) -> Messages {
    let pages = match answer {
        Ok(answer) => answer.into_pages(PAGE).into_iter().map(Ok).collect(),
        Err(refusal) => vec![Err(refusal)],
    };
    let encoded = pages
        .into_iter()
        .map(|page: Result<Answer, Refusal>| Ok(encode(&page)));
    Box::pin(futures::stream::iter(encoded))
}

/// What a watch is told as a stream.
pub fn told(opened: Result<mpsc::Receiver<Told>, Refusal>) -> Messages {
    match opened {
        Ok(told) => Box::pin(ReceiverStream::new(told).map(|told| Ok(encode(&told)))),
        Err(refusal) => {
            let only: Told = Err(refusal);
            Box::pin(futures::stream::once(async move { Ok(encode(&only)) }))
        }
    }
}
