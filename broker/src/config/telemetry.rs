//! `[telemetry]`: log lines and metrics.

use super::{
    section::section,
    value::{LogFilter, LogFormat},
};

section! {
    /// Log lines and metrics.
    pub struct TelemetryConfig in "telemetry";

    /// Which log lines are written, in the notation of RUST_LOG. The environment variable
    /// RIVERRUN_LOG sets it too.
    "log.filter" => log_filter: LogFilter = LogFilter::level("info");

    /// How log lines look. auto: for people on a terminal, JSON otherwise.
    "log.format" => log_format: LogFormat = LogFormat::Auto;

    /// Partitions with metrics of their own (offsets, size). Those past it, by order of topic and
    /// partition, are left out and counted in riverrun_partition_series_left_out. 0: none.
    "metrics.partition.series.max" => metrics_partition_series_max: u32 = 1_000, in 0 => 100_000;

    /// Topics with metrics of their own (bytes). Traffic of those past it, by order of first use,
    /// is counted under the topic name "other topics". 0: all of it.
    "metrics.topic.series.max" => metrics_topic_series_max: u32 = 100, in 0 => 10_000;
}
