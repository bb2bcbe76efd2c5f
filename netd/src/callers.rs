//! Unix sockets that programs of root call. So many may be connected at a time; further ones wait
//! in the kernel.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::server::Connected;

/// A listener and the places of those who are connected.
pub(crate) struct Callers {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

/// A connection, and its place.
pub(crate) struct Caller {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Callers {
    /// At most so many at a time.
    pub(crate) fn new(listener: UnixListener, most: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(most)),
        }
    }

    /// The next one, once there is a place.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub(crate) async fn next(&self) -> io::Result<Caller> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        Ok(Caller {
            stream,
            _place: place,
        })
    }

    /// All of them, one after the other.
    pub(crate) fn all(self) -> impl futures::Stream<Item = io::Result<Caller>> {
        futures::stream::unfold(self, async |callers| Some((callers.next().await, callers)))
    }
}

impl Connected for Caller {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_caller_too_many_waits_until_there_is_a_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let callers = Callers::new(UnixListener::bind(&path).unwrap(), 2);
        let mut connected = Vec::new();
        for _ in 0..3 {
            connected.push(UnixStream::connect(&path).await.unwrap());
        }
        let (first, _second) = (callers.next().await.unwrap(), callers.next().await.unwrap());
        assert!(
            timeout(Duration::from_millis(50), callers.next())
                .await
                .is_err()
        );
        drop(first);
        assert!(callers.next().await.is_ok());
    }
}
