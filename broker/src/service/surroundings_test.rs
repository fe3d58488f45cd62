//! What surrounds the calls: health, reflection, errors of the transport, connections.

use tokio_stream::StreamExt;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use super::{test_support::*, *};

#[tokio::test]
async fn health_says_serving_and_then_not() {
    let broker = Broker::start().await;
    let mut health = HealthClient::new(broker.channel.clone());
    for service in ["", "riverrun.v1.ProduceService", "riverrun.v1.ConsumeService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut watch = health.watch(request).await.unwrap().into_inner();
        loop {
            let status = soon(watch.message()).await.unwrap().unwrap().status();
            if status == ServingStatus::Serving {
                break;
            }
        }
        if service == "riverrun.v1.ConsumeService" {
            broker.shutdown.begin_drain();
            let status = soon(watch.message()).await.unwrap().unwrap().status();
            assert_eq!(status, ServingStatus::NotServing);
        }
    }
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let broker = Broker::start().await;
    use reflection::server_reflection_request::MessageRequest;
    let request = reflection::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(broker.channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = soon(answers.next()).await.unwrap().unwrap();
    use reflection::server_reflection_response::MessageResponse;
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "riverrun.v1.AdminService",
        "riverrun.v1.ConsumeService",
        "riverrun.v1.MetadataService",
        "riverrun.v1.ProduceService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }

    use reflection_alpha::server_reflection_request::MessageRequest as AlphaRequest;
    let request = reflection_alpha::ServerReflectionRequest {
        message_request: Some(AlphaRequest::FileContainingSymbol(
            "riverrun.v1.ProduceService".to_owned(),
        )),
        ..Default::default()
    };
    let mut client = reflection_alpha::server_reflection_client::ServerReflectionClient::new(
        broker.channel.clone(),
    );
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = soon(answers.next()).await.unwrap().unwrap();
    use reflection_alpha::server_reflection_response::MessageResponse as AlphaResponse;
    assert!(
        matches!(answer.message_response, Some(AlphaResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn groups_say_that_they_do_not_exist_and_what_to_use() {
    let broker = Broker::start().await;
    let requests = tokio_stream::iter([v1::ConsumeRequest::default()]);
    let failed = broker.consumer().consume(requests).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unimplemented);
    assert_eq!(error_of(&failed).reason, "UNSUPPORTED_VERSION");
    assert!(failed.message().contains("FetchStream"), "{failed}");
}

/// tonic says OUT_OF_RANGE, which a client would take for an offset's.
#[tokio::test]
async fn a_request_too_large_for_its_call_says_so() {
    let broker = Broker::with(|setup| setup.limits.control_request_bytes_max = 1000).await;
    let request = v1::CreateTopicRequest { name: "x".repeat(2000), ..Default::default() };
    let failed = broker.admin().create_topic(request).await.unwrap_err();
    assert_eq!(failed.code(), Code::InvalidArgument);
    assert_eq!(error_of(&failed).reason, "MESSAGE_TOO_LARGE");

    let open = v1::FetchStreamOpen { client_rack: "x".repeat(2000), ..Default::default() };
    let request =
        v1::FetchStreamRequest { request: Some(v1::fetch_stream_request::Request::Open(open)) };
    let mut stream =
        broker.consumer().fetch_stream(tokio_stream::iter([request])).await.unwrap().into_inner();
    let failed = soon(stream.message()).await.unwrap_err();
    assert_eq!(error_of(&failed).reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_clients_fault() {
    let broker = Broker::start().await;
    // The same path with another message type: a string where a message is due.
    let mut grpc = tonic::client::Grpc::new(broker.channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/riverrun.v1.ProduceService/Produce");
    let codec = tonic_prost::ProstCodec::<v1::DescribeTopicRequest, v1::ProduceResponse>::default();
    let garbage = v1::DescribeTopicRequest { name: "\u{7f}".repeat(3) };
    let fine = grpc.unary(tonic::Request::new(garbage), path, codec).await.unwrap_err();
    assert_eq!(
        error_of(&fine).reason,
        "INVALID_RECORD",
        "a name alone is a request without records"
    );

    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/riverrun.v1.ProduceService/Produce");
    let codec =
        tonic_prost::ProstCodec::<v1::CreatePartitionsRequest, v1::ProduceResponse>::default();
    let wrong = v1::CreatePartitionsRequest { partitions: 7, ..Default::default() };
    let failed = grpc.unary(tonic::Request::new(wrong), path, codec).await.unwrap_err();
    assert_eq!(failed.code(), Code::InvalidArgument);
    assert_eq!(error_of(&failed).reason, "INVALID_REQUEST");
}

#[tokio::test]
async fn past_the_number_of_connections_a_client_waits_until_one_leaves() {
    let broker = Broker::with(|setup| setup.config.network.max_connections = 1).await;
    let cluster = v1::GetClusterRequest {};
    broker.metadata().get_cluster(cluster).await.unwrap();
    assert_eq!(broker.metric("riverrun_open_connections"), 1.0);
    let port = broker.quorum.image().brokers().next().unwrap().endpoints[0].port;
    let second = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let mut second = MetadataServiceClient::new(second.connect_lazy());
    let waiting = tokio::spawn(async move { second.get_cluster(cluster).await });
    until(|| broker.metric("riverrun_bound_hits_total{bound=\"network.max.connections\"}") >= 1.0)
        .await;
    assert_eq!(broker.metric("riverrun_open_connections"), 1.0);
    let Broker { channel, metrics, .. } = broker;
    drop(channel);
    soon(waiting).await.unwrap().unwrap();
    drop(metrics);
}

/// HTTP/2 itself holds a client to so many calls; the next waits at the client.
#[tokio::test]
async fn past_the_number_of_streams_a_call_waits_at_the_client() {
    let broker = Broker::with(|setup| setup.config.network.http2_max_concurrent_streams = 2).await;
    broker.topic("orders", 1).await;
    let tail = v1::TailRequest { topic: "orders".into(), follow: true, ..Default::default() };
    let first = broker.consumer().tail(tail.clone()).await.unwrap();
    let _second = broker.consumer().tail(tail.clone()).await.unwrap();
    let third = tokio::spawn({
        let mut consumer = broker.consumer();
        async move { consumer.tail(tail).await }
    });
    // A call on another connection overtakes the third, which has not reached the broker.
    let port = broker.quorum.image().brokers().next().unwrap().endpoints[0].port;
    let other = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let mut other = MetadataServiceClient::new(other.connect().await.unwrap());
    other.get_cluster(v1::GetClusterRequest {}).await.unwrap();
    assert_eq!(broker.metric("riverrun_open_streams{request=\"tail\"}"), 2.0);
    drop(first);
    soon(third).await.unwrap().unwrap();
}

/// Many large messages begun and none finished: the broker holds as much as it may and no more.
#[tokio::test]
async fn large_messages_being_received_stay_within_their_budget() {
    let limit = 3 << 20;
    let broker = Broker::with(|setup| setup.limits.receive_bytes = limit).await;
    let topic = broker.topic_with("orders", 1, &[("max.message.bytes", "4MiB")]).await;
    let mut producer = produce_stream_test::Client::open(&broker).await;
    let options = BatchOptions { bytes_max: 8 << 20, ..Default::default() };
    let two_mib = batch_with(&["x".repeat(2 << 20).as_str()], options);
    producer.send(vec![produce_stream_test::append(1, topic, 0, two_mib.clone())]);
    assert_eq!(producer.result().await.base_offset, Some(0));
    let used = || broker.metric("riverrun_memory_budget_used_bytes{pool=\"receive\"}");
    assert!(used() > (2 << 20) as f64, "held until the next message of the stream begins");

    let mut second = produce_stream_test::Client::open(&broker).await;
    second.send(vec![produce_stream_test::append(1, topic, 0, two_mib.clone())]);
    let refused = error_of(&second.other().await.unwrap_err());
    assert_eq!(refused.reason, "THROTTLING_QUOTA_EXCEEDED");
    assert!(refused.retriable && refused.definite, "{refused:?}");
    assert!(used() <= limit as f64);
    assert_eq!(broker.metric("riverrun_bound_hits_total{bound=\"receive\"}"), 1.0);

    producer.send(vec![produce_stream_test::append(2, topic, 0, batch(&["small"]))]);
    assert_eq!(producer.result().await.base_offset, Some(1));
    assert_eq!(used(), 0.0);
    let mut third = produce_stream_test::Client::open(&broker).await;
    third.send(vec![produce_stream_test::append(1, topic, 0, two_mib)]);
    assert_eq!(third.result().await.base_offset, Some(2));
}
