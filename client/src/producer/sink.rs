//! A producer as a `Sink`, for `stream.forward(producer.sink())`.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Sink, future::BoxFuture};

use super::{Producer, SendError, TrySendError};
use crate::{error::Error, record::Record};

/// A [`Sink`] of records. It is ready when the record before had its memory, so that it buffers
/// one record at most beside the producer's own buffer. Flushing waits for the answers, closing
/// closes the producer, within its delivery timeout.
pub struct RecordSink {
    producer: Producer,
    /// A record that waits for memory.
    sending: Option<BoxFuture<'static, Result<(), SendError>>>,
    flushing: Option<BoxFuture<'static, Result<(), Error>>>,
    closing: Option<BoxFuture<'static, Result<(), Error>>>,
}

// === impl RecordSink ===

impl RecordSink {
    pub(super) fn new(producer: Producer) -> Self {
        Self { producer, sending: None, flushing: None, closing: None }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(sending) = &mut self.sending {
            let sent = ready!(sending.as_mut().poll(cx));
            self.sending = None;
            sent?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink<Record> for RecordSink {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_sent(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, record: Record) -> Result<(), Error> {
        match self.producer.try_send(record) {
            Ok(delivery) => {
                delivery.detach();
                Ok(())
            }
            Err(TrySendError::Full(record)) => {
                let producer = self.producer.clone();
                self.sending = Some(Box::pin(async move {
                    producer.send(record).await?.detach();
                    Ok(())
                }));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_sent(cx))?;
        let this = &mut *self;
        let flushing = this.flushing.get_or_insert_with(|| {
            let producer = this.producer.clone();
            Box::pin(async move { producer.flush().await })
        });
        let flushed = ready!(flushing.as_mut().poll(cx));
        self.flushing = None;
        Poll::Ready(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_sent(cx))?;
        let this = &mut *self;
        let closing = this.closing.get_or_insert_with(|| {
            let producer = this.producer.clone();
            let deadline: Duration = producer.shared().config.delivery_timeout;
            Box::pin(async move { producer.close(deadline).await })
        });
        let closed = ready!(closing.as_mut().poll(cx));
        self.closing = None;
        Poll::Ready(closed)
    }
}

impl fmt::Debug for RecordSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSink").field("producer", &self.producer).finish_non_exhaustive()
    }
}
