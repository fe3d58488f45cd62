//! Calls: how many, how long, how they failed; streams and connections that are open.

use prometheus_client::metrics::{
    counter::Counter,
    family::{Family, MetricConstructor},
    gauge::Gauge,
    histogram::Histogram,
};
use riverrun_proto::reason::Reason;

use super::{ConnectionMetrics, Registry};

/// Upper ends of the buckets of a call's duration, in seconds: a loopback call takes 140 us, a
/// long poll up to its wait.
const DURATION_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

macro_rules! requests {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A call as metrics name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Request {
            $($(#[$doc])* $variant,)*
        }

        impl Request {
            /// All of them, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value of the label `request`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

requests! {
    /// Unary Produce.
    Produce = "produce";
    /// One append of a ProduceStream, from its arrival to its ack.
    ProduceStreamAppend = "produce_stream_append";
    /// InitProducer.
    InitProducer = "init_producer";
    /// Unary Fetch, its wait included.
    Fetch = "fetch";
    /// A FetchStream as a whole: only errors and open streams are counted.
    FetchStream = "fetch_stream";
    /// A Tail as a whole: only errors and open streams are counted.
    Tail = "tail";
    /// GetCluster.
    GetCluster = "get_cluster";
    /// GetTopics.
    GetTopics = "get_topics";
    /// ListOffsets.
    ListOffsets = "list_offsets";
    /// CreateTopic.
    CreateTopic = "create_topic";
    /// DeleteTopic.
    DeleteTopic = "delete_topic";
    /// DescribeTopic.
    DescribeTopic = "describe_topic";
    /// CreatePartitions.
    CreatePartitions = "create_partitions";
    /// AlterTopicConfigs.
    AlterTopicConfigs = "alter_topic_configs";
    /// DeleteRecords.
    DeleteRecords = "delete_records";
    /// DescribeCluster.
    DescribeCluster = "describe_cluster";
    /// AddVoter.
    AddVoter = "add_voter";
    /// RemoveVoter.
    RemoveVoter = "remove_voter";
    /// DrainBroker.
    DrainBroker = "drain_broker";
    /// RemoveBroker.
    RemoveBroker = "remove_broker";
    /// ThrottleMoves.
    ThrottleMoves = "throttle_moves";
    /// PlanMoves.
    PlanMoves = "plan_moves";
    /// DescribePartitions.
    DescribePartitions = "describe_partitions";
    /// ElectLeader.
    ElectLeader = "elect_leader";
    /// ReassignPartition.
    ReassignPartition = "reassign_partition";
    /// CancelReassignment.
    CancelReassignment = "cancel_reassignment";
}

type RequestLabel = [(&'static str, &'static str); 1];
type ErrorLabels = [(&'static str, &'static str); 2];

/// Metrics of calls. Cheap to clone; nothing here looks anything up on the way of a record.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    durations: Vec<Histogram>,
    window_stalls: Vec<Counter>,
    open_streams: Vec<Gauge>,
    connections: ConnectionMetrics,
    errors: Family<ErrorLabels, Counter>,
}

/// Counts something as open until it is dropped.
#[derive(Debug)]
pub struct OpenGuard(Gauge);

#[derive(Debug, Clone)]
struct DurationBuckets;

impl MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BUCKETS)
    }
}

impl RequestMetrics {
    /// Registers `riverrun_request_duration_seconds{request}`,
    /// `riverrun_handler_errors_total{request,reason}`,
    /// `riverrun_stream_window_stalls_total{request}`, `riverrun_open_streams{request}`, and what
    /// [`ConnectionMetrics::register`] does.
    pub fn register(registry: &Registry) -> Self {
        let durations = Family::<RequestLabel, _, _>::new_with_constructor(DurationBuckets);
        let window_stalls = Family::<RequestLabel, Counter>::default();
        let open_streams = Family::<RequestLabel, Gauge>::default();
        let metrics = Self {
            durations: of_each(&durations),
            window_stalls: of_each(&window_stalls),
            open_streams: of_each(&open_streams),
            connections: ConnectionMetrics::register(registry),
            errors: Family::default(),
        };
        registry.register_seconds("request_duration", "Time to answer a call", durations);
        let help = "Calls and parts of calls that failed, by Kafka's name of the error";
        registry.register("handler_errors", help, metrics.errors.clone());
        let help = "Times a stream had something to send or take but no window or credit";
        registry.register("stream_window_stalls", help, window_stalls);
        registry.register("open_streams", "Streams open now", open_streams);
        metrics
    }

    /// A call was answered, well or not, after `elapsed`.
    pub fn observe(&self, request: Request, elapsed: std::time::Duration) {
        self.durations[request as usize].observe(elapsed.as_secs_f64());
    }

    /// A call, or one part of it, failed.
    pub fn observe_error(&self, request: Request, reason: Reason) {
        let labels = [("request", request.name()), ("reason", reason.name())];
        self.errors.get_or_create(&labels).inc();
    }

    /// A stream had something to send or take but no window or credit.
    pub fn observe_window_stall(&self, request: Request) {
        self.window_stalls[request as usize].inc();
    }

    /// A stream is open until the guard is dropped.
    pub fn stream_opened(&self, request: Request) -> OpenGuard {
        OpenGuard::of(&self.open_streams[request as usize])
    }

    /// The gRPC port's connections.
    pub fn connections(&self) -> &ConnectionMetrics {
        &self.connections
    }
}

impl OpenGuard {
    pub(super) fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One metric per request, in the order of [`Request::ALL`], which is that of the discriminants.
fn of_each<M: Clone, C: MetricConstructor<M>>(family: &Family<RequestLabel, M, C>) -> Vec<M> {
    let of = |request: &Request| family.get_or_create_owned(&[("request", request.name())]);
    Request::ALL.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_are_counted_under_their_own_name() {
        for (i, request) in Request::ALL.iter().enumerate() {
            assert_eq!(*request as usize, i);
        }
        let registry = Registry::new();
        let metrics = RequestMetrics::register(&registry);
        metrics.observe(Request::Fetch, Duration::from_micros(300));
        metrics.observe_error(Request::Produce, Reason::MessageTooLarge);
        metrics.observe_window_stall(Request::FetchStream);
        let tail = metrics.stream_opened(Request::Tail);
        let text = registry.encode();
        for line in [
            "riverrun_request_duration_seconds_count{request=\"fetch\"} 1",
            "riverrun_request_duration_seconds_count{request=\"produce\"} 0",
            "riverrun_request_duration_seconds_bucket{le=\"0.00025\",request=\"fetch\"} 0",
            "riverrun_request_duration_seconds_bucket{le=\"0.0005\",request=\"fetch\"} 1",
            "riverrun_handler_errors_total{request=\"produce\",reason=\"MESSAGE_TOO_LARGE\"} 1",
            "riverrun_stream_window_stalls_total{request=\"fetch_stream\"} 1",
            "riverrun_open_streams{request=\"tail\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop(tail);
        let text = registry.encode();
        assert!(text.contains("riverrun_open_streams{request=\"tail\"} 0"), "{text}");
    }
}
