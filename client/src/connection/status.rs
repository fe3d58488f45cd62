//! gRPC failures and in-band errors, decoded into the one [`Error`].
//!
//! A broker of ours sends its own `Error` message in the trailer `riverrun-error-bin`. A status
//! without it comes from the transport or from something in between (a proxy): then the code
//! decides, and nothing is assumed about writes.

use std::{error::Error as _, time::Duration};

use prost::Message;
use riverrun_proto::{ids::BrokerId, rpc::v1};
use tonic::{Code, Status};

use crate::{
    address::Address,
    error::{Error, ErrorKind, LeaderHint},
    tls,
};

/// Trailer with the encoded `riverrun.v1.Error`.
pub(crate) const ERROR_TRAILER: &str = "riverrun-error-bin";

/// Decodes an error the broker put into an answer.
pub(super) fn from_wire(error: v1::Error) -> Error {
    let retry_after = error.retry_after.and_then(|wait| Duration::try_from(wait).ok());
    let leader = error.leader.and_then(|hint| {
        let address = Address::new(&hint.host, u16::try_from(hint.port).ok()?).ok()?;
        Some(LeaderHint {
            broker: BrokerId(hint.broker_id),
            address,
            leader_epoch: hint.leader_epoch,
        })
    });
    let retriable = error.retriable || leader.is_some();
    Error::from_broker(error.reason, error.message, retriable, error.definite)
        .with_retry_after(retry_after)
        .with_leader(leader)
        .with_details(error.metadata.into_iter().collect())
}

/// Decodes a failed call.
pub(super) fn to_error(status: &Status) -> Error {
    if let Some(Ok(encoded)) = status.metadata().get_bin(ERROR_TRAILER).map(|v| v.to_bytes())
        && let Ok(error) = v1::Error::decode(encoded)
    {
        return from_wire(error);
    }
    let message = describe(status);
    if message.contains(tls::REFUSED) || message.contains(tls::TLS_ONLY) {
        return Error::new(ErrorKind::Security, message);
    }
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Aborted | Code::Unknown => {
            Error::connection(message).definite(never_left(status))
        }
        Code::DeadlineExceeded => {
            Error::new(ErrorKind::Timeout, message).retriable(true).definite(false)
        }
        Code::ResourceExhausted => {
            Error::new(ErrorKind::Throttled, message).retriable(true).definite(false)
        }
        Code::Unimplemented => Error::new(ErrorKind::Unsupported, message),
        Code::InvalidArgument => Error::new(ErrorKind::InvalidArgument, message),
        // HTTP/2 failures of the transport arrive so.
        Code::Internal if status.source().is_some() => Error::connection(message).definite(false),
        _ => Error::new(ErrorKind::Broker, message).definite(false),
    }
}

/// There was no connection that the call could have left on.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The status text with its chain of causes: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    #[test]
    fn the_trailer_wins_over_the_status() {
        let wire = v1::Error {
            reason: "NOT_LEADER_OR_FOLLOWER".into(),
            message: "broker 2 leads orders[3]; ask there".into(),
            retriable: true,
            definite: true,
            retry_after: Some(prost_types::Duration { seconds: 0, nanos: 5_000_000 }),
            leader: Some(v1::LeaderHint {
                broker_id: 2,
                host: "b2".into(),
                port: 9190,
                leader_epoch: 7,
            }),
            metadata: [("high_watermark".to_owned(), "12".to_owned())].into(),
        };
        let mut trailers = MetadataMap::new();
        trailers.insert_bin(ERROR_TRAILER, MetadataValue::from_bytes(&wire.encode_to_vec()));
        let status = Status::with_details_and_metadata(
            Code::FailedPrecondition,
            "short",
            Bytes::new(),
            trailers,
        );
        let error = to_error(&status);
        assert_eq!(error.kind(), ErrorKind::NotLeader);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(5)));
        assert_eq!(error.detail("high_watermark"), Some("12"));
        let hint = error.leader().unwrap();
        assert_eq!((hint.broker, hint.leader_epoch), (BrokerId(2), 7));
        assert_eq!(hint.address.to_string(), "b2:9190");
    }

    #[test]
    fn a_bare_status_promises_nothing_about_writes() {
        for (code, kind, retriable) in [
            (Code::Unavailable, ErrorKind::Connection, true),
            (Code::DeadlineExceeded, ErrorKind::Timeout, true),
            (Code::ResourceExhausted, ErrorKind::Throttled, true),
            (Code::Internal, ErrorKind::Broker, false),
        ] {
            let error = to_error(&Status::new(code, "x"));
            assert_eq!((error.kind(), error.is_retriable()), (kind, retriable), "{code:?}");
            assert!(!error.is_definite(), "{code:?}");
        }
        assert!(to_error(&Status::unimplemented("")).is_definite());
    }

    #[tokio::test]
    async fn a_call_that_found_no_connection_did_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let channel = tonic::transport::Endpoint::from_shared(nobody).unwrap().connect_lazy();
        let mut stub = v1::metadata_service_client::MetadataServiceClient::new(channel);
        let status = stub.get_cluster(v1::GetClusterRequest {}).await.unwrap_err();
        let error = to_error(&status);
        assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Connection, true));
        assert!(error.is_definite(), "{error}");
    }

    #[test]
    fn a_leader_hint_that_cannot_be_dialled_is_no_hint() {
        let wire = v1::Error {
            leader: Some(v1::LeaderHint { port: 99_999, host: "a".into(), ..Default::default() }),
            ..Default::default()
        };
        assert!(from_wire(wire).leader().is_none());
    }
}
