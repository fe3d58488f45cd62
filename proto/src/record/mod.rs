//! The record batch: Kafka's RecordBatch v2, byte for byte.
