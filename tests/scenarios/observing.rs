//! What a broker shows of itself: metrics, health, readiness, gRPC's health and reflection.

use std::collections::HashSet;

use riverrun_proto::rpc::v1;
use riverrun_tests::{append::AppendStream, forge, http, wait};
use tokio_stream::StreamExt as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use crate::{broker, data_dir};

/// Families that dashboards and alerts are built on. Names never change without a major version.
const FAMILIES: &[&str] = &[
    "riverrun_application_uptime_seconds",
    "riverrun_application_build",
    "riverrun_request_duration_seconds",
    "riverrun_handler_errors",
    "riverrun_stream_window_stalls",
    "riverrun_open_streams",
    "riverrun_open_connections",
    "riverrun_request_bytes",
    "riverrun_records_produced",
    "riverrun_records_fetched",
    "riverrun_follower_fetched_bytes",
    "riverrun_partition_max_offset",
    "riverrun_partition_start_offset",
    "riverrun_partition_end_offset",
    "riverrun_partition_flushed_offset",
    "riverrun_partition_size_bytes",
    "riverrun_partition_segments",
    "riverrun_partition_leader",
    "riverrun_partition_replicas",
    "riverrun_partition_in_sync_replicas",
    "riverrun_partition_under_replicated",
    "riverrun_partition_series_left_out",
    "riverrun_isr_shrinks",
    "riverrun_isr_expands",
    "riverrun_leadership_changes",
    "riverrun_cluster_brokers",
    "riverrun_cluster_fenced_brokers",
    "riverrun_cluster_topics",
    "riverrun_cluster_partitions",
    "riverrun_cluster_unavailable_partitions",
    "riverrun_cluster_under_replicated_partitions",
    "riverrun_cluster_under_min_isr_partitions",
    "riverrun_controller_active",
    "riverrun_storage_disk_total_bytes",
    "riverrun_storage_disk_free_bytes",
    "riverrun_storage_disk_free_space_alert",
    "riverrun_storage_failed",
    "riverrun_memory_budget_used_bytes",
    "riverrun_memory_budget_limit_bytes",
    "riverrun_bound_used",
    "riverrun_bound_limit",
    "riverrun_bound_hits",
];

const SERVICES: [&str; 4] = [
    "riverrun.v1.AdminService",
    "riverrun.v1.ConsumeService",
    "riverrun.v1.MetadataService",
    "riverrun.v1.ProduceService",
];

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let data = data_dir();
    let broker = broker(data.path()).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("orders", 2, &[]).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let batch = forge::batch(&["a", "b", "c"]);
    let bytes = batch.len() as f64;
    for _ in 0..4 {
        stream.append(&topic, 1, batch.clone()).await.expect("it is fine");
    }
    let refused = stream.append(&topic, 1, bytes::Bytes::new()).await.expect_err("it is empty");
    assert_eq!(refused.reason, "CORRUPT_MESSAGE");
    assert_eq!(raw.read_out(&topic, 1).await.records.len(), 12);

    let metrics = http::metrics(broker.http()).await;
    let families: HashSet<&str> = metrics.families().into_iter().collect();
    let missing: Vec<_> = FAMILIES.iter().filter(|family| !families.contains(*family)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{}", metrics.text());
    let in_partition = |name: &str| {
        metrics.value(&format!("riverrun_partition_{name}{{topic=\"orders\",partition=\"1\"}}"))
    };
    assert_eq!(in_partition("start_offset"), 0.0);
    assert_eq!(in_partition("max_offset"), 12.0);
    assert_eq!(in_partition("end_offset"), 12.0);
    assert_eq!(in_partition("flushed_offset"), 12.0, "durability is disk by default");
    assert_eq!(in_partition("segments"), 1.0);
    assert!(in_partition("size_bytes") >= 4.0 * bytes);
    let of_topic =
        |name: &str| metrics.value(&format!("riverrun_{name}_total{{topic=\"orders\"}}"));
    assert_eq!(of_topic("records_produced"), 12.0);
    assert_eq!(of_topic("records_fetched"), 12.0);
    let traffic = "riverrun_request_bytes_total{request=\"produce\",topic=\"orders\"}";
    assert_eq!(metrics.value(traffic), 4.0 * bytes);
    let error = "riverrun_handler_errors_total{request=\"produce_stream_append\",\
                 reason=\"CORRUPT_MESSAGE\"}";
    assert_eq!(metrics.value(error), 1.0);
    assert_eq!(metrics.value("riverrun_open_streams{request=\"produce_stream_append\"}"), 1.0);
    assert_eq!(metrics.value("riverrun_open_connections"), 1.0);
    assert_eq!(metrics.value("riverrun_storage_failed"), 0.0);

    // What is over is no longer counted as open, and what is deleted no longer shown.
    drop((stream, raw));
    let raw = broker.raw().await;
    raw.delete_topic("orders").await;
    wait::until("the old connection is gone", async || {
        let metrics = http::metrics(broker.http()).await;
        metrics.value("riverrun_open_connections") == 1.0
            && metrics.value("riverrun_open_streams{request=\"produce_stream_append\"}") == 0.0
    })
    .await;
    assert!(!http::metrics(broker.http()).await.text().contains("partition=\"1\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_has_a_limit_and_counts_its_hits() {
    let data = data_dir();
    let broker = broker(data.path()).start();
    let metrics = http::metrics(broker.http()).await;
    let series = |name: &str| -> HashSet<String> {
        let start = format!("{name}{{");
        let lines = metrics.text().lines().filter_map(|line| line.strip_prefix(&start));
        lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
    };
    let bounds = series("riverrun_bound_limit");
    assert!(bounds.contains("network.max.connections"), "{bounds:?}");
    assert_eq!(bounds, series("riverrun_bound_used"));
    let hits = series("riverrun_bound_hits_total");
    assert!(bounds.is_subset(&hits), "{bounds:?} but {hits:?}");
    assert_eq!(metrics.value("riverrun_bound_limit{bound=\"network.max.connections\"}"), 200.0);
    let pools = series("riverrun_memory_budget_limit_bytes");
    let limit = |pool: &String| {
        metrics.value(&format!("riverrun_memory_budget_limit_bytes{{pool=\"{pool}\"}}"))
    };
    let all: f64 = pools.iter().map(limit).sum();
    assert!(
        all <= f64::from(64 << 20),
        "the pools {pools:?} have {all} bytes of a budget of 64 MiB"
    );
    assert!(pools.len() >= 3, "{pools:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_answer_over_http_and_grpc() {
    let data = data_dir();
    let broker = broker(data.path()).start();
    assert_eq!(http::get(broker.http(), "/healthz").await.0, 200);
    assert_eq!(http::get(broker.http(), "/readyz").await.0, 200);
    assert_eq!(http::get(broker.http(), "/nothing").await.0, 404);

    let mut health = HealthClient::new(broker.raw().await.channel);
    for service in SERVICES.iter().chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let answer = health.check(request).await.expect("it is known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "riverrun.v1.Nobody".to_owned() };
    let status = health.check(unknown).await.expect_err("it is unknown");
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_shows_every_service_in_both_versions() {
    let data = data_dir();
    let broker = broker(data.path()).start();
    let channel = broker.raw().await.channel;

    use reflection::{
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let ask = |request| reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("riverrun.v1.ProduceService".to_owned())),
    ];
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::iter(requests)).await;
    let mut answers = answers.expect("it opens").into_inner();
    let first = answers.next().await.expect("it answers").expect("it is fine");
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("{first:?}");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES {
        assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
    }
    let second = answers.next().await.expect("it answers").expect("it is fine");
    let Some(MessageResponse::FileDescriptorResponse(file)) = second.message_response else {
        panic!("{second:?}");
    };
    assert!(!file.file_descriptor_proto.is_empty(), "grpcurl can make requests of it");

    use reflection_alpha::server_reflection_request::MessageRequest as AlphaRequest;
    use reflection_alpha::server_reflection_response::MessageResponse as AlphaResponse;
    let request = reflection_alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(AlphaRequest::ListServices(String::new())),
    };
    let mut client =
        reflection_alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await;
    let first = answers.expect("it opens").into_inner().next().await;
    let Some(AlphaResponse::ListServicesResponse(list)) =
        first.expect("it answers").expect("it is fine").message_response
    else {
        panic!("no list of services");
    };
    assert!(list.service.len() >= SERVICES.len());
}
