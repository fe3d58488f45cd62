//! The limits of the protocol, each with its derivation. Limits that an operator may change are in
//! the broker's configuration; these are not for changing.

/// Kafka's limit on names of topics; long names never reach the file system (directories are named
/// by topic id).
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// Kafka's limit on partitions is the range of its 32-bit index; ours is what one metadata record
/// and one answer can name while staying below 1 MiB.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;

/// Batches in flight per producer and partition whose retry the broker still recognises as a
/// duplicate. Kafka's 5 caps 64 KiB batches with a 400 us group commit at 0.75 GB/s.
pub const PRODUCER_BATCHES_REMEMBERED: usize = 32;

/// `max.message.bytes` may not exceed this: a batch has to fit a gRPC message with room for the
/// envelope, and frame lengths keep their top four bits for the kind.
pub const BATCH_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Decompressed bytes of one batch: more is refused as a decompression bomb.
pub const BATCH_DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// gRPC's own default for the size of a message in most languages; answers stay below it unless
/// the client asked for more.
pub const DEFAULT_RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Messages towards which senders pack batches: the sweet spot of HTTP/2 over tonic.
pub const PACK_TARGET_BYTES: usize = 64 * 1024;

/// HTTP/2 settings of both sides (measured: hyper's default frames and windows cost two thirds of
/// the throughput).
pub mod http2 {
    /// Largest DATA frame.
    pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;
    /// Window of one stream.
    pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
    /// Window of one connection.
    pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
}

/// Bytes of a gRPC message a broker decodes: a full `max.message.bytes` batch and its envelope.
pub const GRPC_DECODE_BYTES_MAX: usize = BATCH_BYTES_MAX as usize + 64 * 1024;

const _: () = assert!(PACK_TARGET_BYTES < DEFAULT_RESPONSE_BYTES_MAX);
const _: () = assert!(http2::STREAM_WINDOW_BYTES <= http2::CONNECTION_WINDOW_BYTES);
const _: () = assert!((BATCH_BYTES_MAX as usize) < (1 << 28));
