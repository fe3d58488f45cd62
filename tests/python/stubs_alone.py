#!/usr/bin/env python3
"""A client in another language, with nothing of ours but the .proto files.

Makes stubs from them, then creates a topic, produces with keys and headers, consumes in all three
ways, seeks by time, sends an encoded batch that it put together itself, and meets each error. Needs
grpcio and grpcio-tools.

    python3 stubs_alone.py --broker 127.0.0.1:9190 --protos ../../proto
"""

import argparse
import importlib
import pathlib
import queue
import struct
import sys
import tempfile
import threading
import time
import unittest

import grpc
from grpc_tools import protoc

# How long anything may take: only a hang reaches it.
HANG_SECONDS = 60

ARGUMENTS = None
V1 = None


class Stubs:
    """All modules made from the protos, as one namespace, and one channel."""

    def __init__(self, protos: pathlib.Path, out: pathlib.Path):
        files = sorted(path.relative_to(protos) for path in protos.glob("riverrun/v1/*.proto"))
        assert files, f"no protos in {protos}"
        google = pathlib.Path(protoc.__file__).parent / "_proto"
        made = protoc.main(
            ["protoc", f"-I{protos}", f"-I{google}", f"--python_out={out}", f"--grpc_python_out={out}"]
            + [str(file) for file in files]
        )
        assert made == 0, "protoc refused the protos"
        sys.path.insert(0, str(out))
        self.modules = []
        for file in files:
            name = f"riverrun.v1.{file.stem}_pb2"
            self.modules += [importlib.import_module(name), importlib.import_module(name + "_grpc")]

    def __getattr__(self, name):
        for module in self.modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def error_of(raised: grpc.RpcError):
    """Our error, from the trailers of a failed call."""
    trailers = dict(raised.trailing_metadata())
    error = V1.Error.FromString(trailers["riverrun-error-bin"])
    assert trailers["riverrun-error"] == error.reason
    return error


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, the slow and short way."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(n: int) -> bytes:
    """Zig-zag, seven bits at a time."""
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def kafka_batch(values: list[bytes]) -> bytes:
    """A record batch as Kafka documents it, magic 2, uncompressed."""
    now = int(time.time() * 1000)
    records = b""
    for delta, value in enumerate(values):
        record = b"\0" + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(record)) + record
    covered = struct.pack(">hiqqqhii", 0, len(values) - 1, now, now, -1, -1, -1, len(values)) + records
    after_length = struct.pack(">ibI", -1, 2, crc32c(covered)) + covered
    return struct.pack(">qi", 0, len(after_length)) + after_length


class Requests:
    """Requests of a stream, sent one by one; ends when closed."""

    def __init__(self, *first):
        self.queue = queue.Queue()
        for request in first:
            self.send(request)

    def send(self, request):
        self.queue.put(request)

    def close(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


def channel():
    """To the broker; with TLS where a CA was given, and a certificate if one was."""
    if ARGUMENTS.ca is None:
        return grpc.insecure_channel(ARGUMENTS.broker)
    pem = [path and path.read_bytes() for path in (ARGUMENTS.ca, ARGUMENTS.key, ARGUMENTS.cert)]
    return grpc.secure_channel(ARGUMENTS.broker, grpc.ssl_channel_credentials(*pem))


class StubsAlone(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.channel = channel()
        grpc.channel_ready_future(cls.channel).result(timeout=HANG_SECONDS)
        cls.produce = V1.ProduceServiceStub(cls.channel)
        cls.consume = V1.ConsumeServiceStub(cls.channel)
        cls.metadata = V1.MetadataServiceStub(cls.channel)
        cls.admin = V1.AdminServiceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()

    def topic(self, partitions=1, **configs):
        """A topic of the test's own."""
        name = self.id().rsplit(".", 1)[-1]
        request = V1.CreateTopicRequest(
            name=name,
            partitions=partitions,
            configs={key.replace("_", "."): value for key, value in configs.items()},
        )
        return self.admin.CreateTopic(request, timeout=HANG_SECONDS).topic

    def place(self, topic, partition=0):
        return V1.TopicPartition(topic_id=topic.topic_id, partition=partition)

    def start(self, topic, partition=0, **at):
        return V1.PartitionFrom(partition=self.place(topic, partition), start=V1.ReadFrom(**at))

    def write(self, topic, values, partition=0):
        records = [V1.Record(value=value) for value in values]
        request = V1.ProduceRequest(
            topic=topic.name, partition=partition, records=V1.RecordList(records=records)
        )
        results = self.produce.Produce(request, timeout=HANG_SECONDS).results
        return [result.ack.offset for result in results]

    def refused(self, call, request, code, reason):
        with self.assertRaises(grpc.RpcError) as raised:
            call(request, timeout=HANG_SECONDS)
        error = error_of(raised.exception)
        self.assertEqual((raised.exception.code(), error.reason), (code, reason), error)
        self.assertTrue(error.definite, error)
        self.assertGreater(len(error.message), 10)
        return error

    # === Topics ===

    def test_topics_are_made_described_changed_and_deleted(self):
        topic = self.topic(partitions=3, retention_ms="7d", segment_bytes="64MiB")
        self.assertEqual((len(topic.topic_id), len(topic.partitions)), (16, 3))
        found = self.metadata.GetTopics(V1.GetTopicsRequest(topics=[topic.name])).topics[0]
        self.assertEqual(found.topic, topic)
        described = self.admin.DescribeTopic(V1.DescribeTopicRequest(name=topic.name))
        configs = {entry.key: entry.value for entry in described.configs}
        self.assertEqual(configs["retention.ms"], str(7 * 24 * 3600 * 1000))
        self.assertEqual(configs["segment.bytes"], str(64 << 20))
        altered = self.admin.AlterTopicConfigs(
            V1.AlterTopicConfigsRequest(
                topic=topic.name, set={"retention.ms": "1h"}, reset=["segment.bytes"]
            )
        )
        configs = {entry.key: (entry.value, entry.overridden) for entry in altered.configs}
        self.assertEqual(configs["retention.ms"], ("3600000", True))
        self.assertFalse(configs["segment.bytes"][1])
        grown = self.admin.CreatePartitions(
            V1.CreatePartitionsRequest(topic=topic.name, partitions=5)
        )
        self.assertEqual(len(grown.topic.partitions), 5)
        self.admin.DeleteTopic(V1.DeleteTopicRequest(name=topic.name, topic_id=topic.topic_id))
        gone = self.metadata.GetTopics(V1.GetTopicsRequest(topics=[topic.name])).topics[0]
        self.assertEqual(gone.error.reason, "UNKNOWN_TOPIC_OR_PARTITION")

    def test_the_cluster_says_who_it_is(self):
        cluster = self.metadata.GetCluster(V1.GetClusterRequest())
        self.assertEqual(len(cluster.cluster_id), 32)
        port = int(ARGUMENTS.broker.rsplit(":", 1)[1])
        self.assertIn(port, [broker.port for broker in cluster.brokers])

    # === Produce and fetch ===

    def test_keys_headers_nulls_and_times_come_back_as_they_were(self):
        topic = self.topic()
        records = [
            V1.Record(key=b"k", value=b"v", timestamp_ms=1_700_000_000_000),
            V1.Record(key=b"", value=b""),
            V1.Record(key=b"tombstone"),
            V1.Record(
                value=b"\x00\xff",
                headers=[
                    V1.Header(key="a", value=b"1"),
                    V1.Header(key="a", value=b"2"),
                    V1.Header(key="null"),
                ],
            ),
        ]
        request = V1.ProduceRequest(topic=topic.name, records=V1.RecordList(records=records))
        for result in self.produce.Produce(request).results:
            self.assertEqual(result.WhichOneof("outcome"), "ack", result)
            self.assertEqual(result.ack.durability, V1.DURABILITY_DISK)
        fetched = self.consume.Fetch(V1.FetchRequest(partitions=[self.start(topic, offset=0)]))
        read = [it.record for it in fetched.partitions[0].records.records]
        self.assertEqual(len(read), 4)
        for sent, got in zip(records, read):
            for field in ["key", "value"]:
                self.assertEqual(sent.HasField(field), got.HasField(field), got)
            self.assertEqual((sent.key, sent.value), (got.key, got.value))
            self.assertEqual(list(sent.headers), list(got.headers))
            self.assertTrue(got.HasField("timestamp_ms"))
        self.assertEqual(read[0].timestamp_ms, 1_700_000_000_000)
        self.assertFalse(read[3].headers[2].HasField("value"))

    def test_a_key_always_goes_to_the_same_partition(self):
        topic = self.topic(partitions=4)
        places = set()
        for _ in range(3):
            records = [V1.Record(key=f"key-{n}".encode(), value=b"x") for n in range(20)]
            request = V1.ProduceRequest(topic=topic.name, records=V1.RecordList(records=records))
            results = self.produce.Produce(request).results
            places |= {(n, result.ack.partition) for n, result in enumerate(results)}
        self.assertEqual(len(places), 20)
        self.assertGreater(len({partition for _, partition in places}), 1)

    def test_compressed_lists_come_back_as_records(self):
        topic = self.topic()
        codecs = ["NONE", "GZIP", "SNAPPY", "LZ4", "ZSTD"]
        for codec in codecs:
            records = V1.RecordList(
                records=[V1.Record(value=codec.encode() * 100)],
                compression=V1.Compression.Value(f"COMPRESSION_{codec}"),
            )
            self.produce.Produce(V1.ProduceRequest(topic=topic.name, records=records))
        fetched = self.consume.Fetch(V1.FetchRequest(partitions=[self.start(topic, offset=0)]))
        values = [it.record.value for it in fetched.partitions[0].records.records]
        self.assertEqual(values, [codec.encode() * 100 for codec in codecs])

    def test_time_finds_offsets(self):
        topic = self.topic()
        times = [1_000, 2_000, 2_000, 5_000]
        records = [V1.Record(value=b"x", timestamp_ms=1_700_000_000_000 + ms) for ms in times]
        request = V1.ProduceRequest(topic=topic.name, records=V1.RecordList(records=records))
        self.produce.Produce(request)
        queries = [
            V1.OffsetQuery(partition=self.place(topic), timestamp_ms=1_700_000_000_000 + ms)
            for ms in [0, 1_500, 2_001, 9_000]
        ] + [
            V1.OffsetQuery(partition=self.place(topic), edge=V1.EDGE_EARLIEST),
            V1.OffsetQuery(partition=self.place(topic), edge=V1.EDGE_LATEST),
            V1.OffsetQuery(partition=self.place(topic), max_timestamp=True),
        ]
        results = self.metadata.ListOffsets(V1.ListOffsetsRequest(queries=queries)).results
        found = [r.found.offset if r.found.HasField("offset") else None for r in results]
        self.assertEqual(found, [0, 1, 3, None, 0, 4, 3])
        # And reading can begin there at once.
        at = self.start(topic, timestamp_ms=1_700_000_001_500)
        fetched = self.consume.Fetch(V1.FetchRequest(partitions=[at]))
        self.assertEqual([r.offset for r in fetched.partitions[0].records.records], [1, 2, 3])

    def test_a_long_poll_ends_when_there_is_something(self):
        topic = self.topic()
        request = V1.FetchRequest(partitions=[self.start(topic, offset=0)], min_bytes=1)
        request.max_wait.seconds = 25
        polling = self.consume.Fetch.future(request, timeout=HANG_SECONDS)
        self.write(topic, [b"news"])
        self.assertEqual(polling.result().partitions[0].records.records[0].record.value, b"news")

    # === Streams ===

    def test_fetch_stream_pushes_within_its_credit_and_seeks(self):
        topic = self.topic()
        self.write(topic, [b"x" * 1000 for _ in range(50)])
        opened = V1.FetchStreamOpen(
            partitions=[self.start(topic, offset=0)], initial_credit_bytes=5_000
        )
        requests = Requests(V1.FetchStreamRequest(open=opened))
        answers = self.consume.FetchStream(iter(requests), timeout=HANG_SECONDS)
        offsets, taken, granted = [], 0, 5_000
        for answer in answers:
            for item in answer.data.items:
                self.assertEqual(item.WhichOneof("outcome"), "records", item)
                offsets += [record.offset for record in item.records.records]
                taken += item.credit_bytes
                # One batch may overdraw.
                self.assertLess(taken, granted + 60_000)
            if taken >= granted and len(offsets) < 50:
                requests.send(V1.FetchStreamRequest(credit=V1.Credit(bytes=10_000)))
                granted += 10_000
            if len(offsets) == 50:
                break
        self.assertEqual(offsets, list(range(50)))
        # Back again: what comes after the answer is from the new place.
        update = V1.UpdatePartitions(generation=7, set=[self.start(topic, offset=48)])
        requests.send(V1.FetchStreamRequest(update=update))
        requests.send(V1.FetchStreamRequest(credit=V1.Credit(bytes=200_000)))
        moved, offsets = False, []
        for answer in answers:
            moved |= answer.updated.generation == 7
            if moved:
                offsets += [r.offset for item in answer.data.items for r in item.records.records]
            if len(offsets) == 2:
                break
        self.assertEqual(offsets, [48, 49])
        requests.close()
        answers.cancel()

    def test_tail_ends_or_follows(self):
        topic = self.topic(partitions=2)
        for partition in [0, 1]:
            self.write(topic, [b"a", b"b"], partition)
        tail = V1.TailRequest(topic=topic.name)
        read = [
            (answer.data.partition.partition, record.offset)
            for answer in self.consume.Tail(tail, timeout=HANG_SECONDS)
            for record in answer.data.records.records
        ]
        self.assertEqual(sorted(read), [(0, 0), (0, 1), (1, 0), (1, 1)])

        latest = V1.ReadFrom(offset=2)
        tail = V1.TailRequest(
            topic=topic.name, partitions=[0], start=latest, follow=True, limit=2
        )
        following = self.consume.Tail(tail, timeout=HANG_SECONDS)
        self.write(topic, [b"c", b"d", b"e"])
        values = [r.record.value for a in following for r in a.data.records.records]
        self.assertEqual(values, [b"c", b"d"])

    def test_produce_stream_takes_a_batch_put_together_here(self):
        topic = self.topic()
        opened = V1.ProduceStreamOpen(client_id="python", acks=V1.ACKS_ALL)
        requests = Requests(V1.ProduceStreamRequest(open=opened))
        answers = self.produce.ProduceStream(iter(requests), timeout=HANG_SECONDS)
        allowed = next(answers).opened
        self.assertGreater(allowed.max_in_flight_bytes, 0)
        sound, broken = kafka_batch([b"one", b"two"]), bytearray(kafka_batch([b"three"]))
        broken[-2] ^= 1
        batches = {1: sound, 2: bytes(broken), 3: kafka_batch([b"four"])}
        items = [
            V1.ProduceStreamAppend(correlation_id=n, topic_id=topic.topic_id, batch=batch)
            for n, batch in batches.items()
        ]
        requests.send(V1.ProduceStreamRequest(appends=V1.ProduceStreamAppends(items=items)))
        acks = {}
        for answer in answers:
            acks |= {ack.correlation_id: ack for ack in answer.acks.items}
            if len(acks) == 3:
                break
        self.assertEqual((acks[1].result.base_offset, acks[1].result.last_offset), (0, 1))
        self.assertEqual(acks[2].error.reason, "CORRUPT_MESSAGE")
        self.assertEqual(acks[3].result.base_offset, 2)
        requests.close()
        self.assertEqual(list(answers), [])
        fetched = self.consume.Fetch(V1.FetchRequest(partitions=[self.start(topic, offset=0)]))
        values = [it.record.value for it in fetched.partitions[0].records.records]
        self.assertEqual(values, [b"one", b"two", b"four"])
        encoded = self.consume.Fetch(
            V1.FetchRequest(
                partitions=[self.start(topic, offset=0)], format=V1.READ_FORMAT_ENCODED
            )
        )
        batch = encoded.partitions[0].batches.batches[0]
        # All that the CRC covers is as we made it.
        self.assertEqual(batch[17:], sound[17:])

    def test_an_idempotent_retry_answers_the_first_offset(self):
        topic = self.topic()
        producer = self.produce.InitProducer(V1.InitProducerRequest())
        batch = bytearray(kafka_batch([b"once"]))
        stamp = struct.pack(">qhi", producer.producer_id, producer.producer_epoch, 0)
        batch[43:57] = stamp
        batch[17:21] = struct.pack(">I", crc32c(bytes(batch[21:])))
        requests = Requests(V1.ProduceStreamRequest(open=V1.ProduceStreamOpen()))
        answers = self.produce.ProduceStream(iter(requests), timeout=HANG_SECONDS)
        next(answers)
        results = []
        for n in [1, 2]:
            append = V1.ProduceStreamAppend(
                correlation_id=n, topic_id=topic.topic_id, batch=bytes(batch)
            )
            appends = V1.ProduceStreamAppends(items=[append])
            requests.send(V1.ProduceStreamRequest(appends=appends))
            results.append(next(answers).acks.items[0].result)
        requests.close()
        self.assertEqual([r.base_offset for r in results], [0, 0])
        self.assertEqual([r.duplicate for r in results], [False, True])

    # === Errors ===

    def test_each_error_says_what_to_do(self):
        topic = self.topic(max_message_bytes="1KiB")
        name, code = topic.name, grpc.StatusCode
        one = V1.RecordList(records=[V1.Record(value=b"x")])
        produce = lambda **fields: V1.ProduceRequest(**({"topic": name, "records": one} | fields))
        create = lambda **fields: V1.CreateTopicRequest(**({"name": "made"} | fields))
        wrong, missing = code.INVALID_ARGUMENT, code.NOT_FOUND
        cases = [
            (self.produce.Produce, produce(topic="nobody"), missing, "UNKNOWN_TOPIC_OR_PARTITION"),
            (self.produce.Produce, produce(partition=9), missing, "UNKNOWN_TOPIC_OR_PARTITION"),
            (self.produce.Produce, produce(topic_id=b"7" * 16), missing, "UNKNOWN_TOPIC_ID"),
            (self.produce.Produce, produce(topic="a b"), wrong, "INVALID_TOPIC_EXCEPTION"),
            (self.produce.Produce, produce(acks=9), wrong, "INVALID_REQUIRED_ACKS"),
            (self.produce.Produce, produce(records=V1.RecordList()), wrong, "INVALID_RECORD"),
            (self.admin.CreateTopic, create(name=name), code.ALREADY_EXISTS, "TOPIC_ALREADY_EXISTS"),
            (self.admin.CreateTopic, create(name="../x"), wrong, "INVALID_TOPIC_EXCEPTION"),
            (self.admin.CreateTopic, create(partitions=0), wrong, "INVALID_PARTITIONS"),
            (
                self.admin.CreateTopic,
                create(replication_factor=5),
                wrong,
                "INVALID_REPLICATION_FACTOR",
            ),
            (self.admin.CreateTopic, create(configs={"no.key": "1"}), wrong, "INVALID_CONFIG"),
            (
                self.admin.CreateTopic,
                create(configs={"retention.ms": "7 moons"}),
                wrong,
                "INVALID_CONFIG",
            ),
            (
                self.admin.DeleteTopic,
                V1.DeleteTopicRequest(name="nobody"),
                missing,
                "UNKNOWN_TOPIC_OR_PARTITION",
            ),
            (
                self.produce.InitProducer,
                V1.InitProducerRequest(producer_name="p"),
                code.UNIMPLEMENTED,
                "UNSUPPORTED_VERSION",
            ),
        ]
        for call, request, status, reason in cases:
            with self.subTest(reason=reason, request=request):
                error = self.refused(call, request, status, reason)
                self.assertFalse(error.retriable, error)
        # Too large: the record's own error, in band.
        big = V1.RecordList(records=[V1.Record(value=b"x" * 2_000), V1.Record(value=b"y")])
        results = self.produce.Produce(produce(records=big)).results
        self.assertEqual(results[0].error.reason, "MESSAGE_TOO_LARGE")
        self.assertEqual(results[1].ack.offset, 0)
        # Out of range, both ways: the partition's own error, in band.
        self.write(topic, [b"z"])
        before = V1.DeleteRecordsBefore(partition=self.place(topic), before_offset=1)
        self.admin.DeleteRecords(V1.DeleteRecordsRequest(partitions=[before]))
        for offset in [0, 3]:
            request = V1.FetchRequest(partitions=[self.start(topic, offset=offset)])
            error = self.consume.Fetch(request).partitions[0].error
            self.assertEqual(error.reason, "OFFSET_OUT_OF_RANGE")
        # Groups do not exist yet.
        with self.assertRaises(grpc.RpcError) as raised:
            list(self.consume.Consume(iter([V1.ConsumeRequest()]), timeout=HANG_SECONDS))
        self.assertEqual(raised.exception.code(), code.UNIMPLEMENTED)
        self.assertEqual(error_of(raised.exception).reason, "UNSUPPORTED_VERSION")

    def test_many_threads_share_a_channel(self):
        topic = self.topic(partitions=2)
        threads = [
            threading.Thread(target=self.write, args=(topic, [b"x"] * 10, n % 2)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_SECONDS)
        queries = [
            V1.OffsetQuery(partition=self.place(topic, n), edge=V1.EDGE_LATEST) for n in [0, 1]
        ]
        results = self.metadata.ListOffsets(V1.ListOffsetsRequest(queries=queries)).results
        self.assertEqual([result.found.offset for result in results], [40, 40])


def main():
    global ARGUMENTS, V1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, help="host:port of a broker to be tried")
    parser.add_argument("--protos", required=True, type=pathlib.Path, help="where riverrun/v1 is")
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=pathlib.Path, help="PEM file, for TLS")
    ARGUMENTS = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        V1 = Stubs(ARGUMENTS.protos.resolve(), pathlib.Path(out))
        outcome = unittest.main(argv=[sys.argv[0], "-v"], exit=False)
    sys.exit(0 if outcome.result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
