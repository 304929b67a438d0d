"""Messages of a Kafka topic, as far as the topic goes when the job is prepared."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from p5dist.environment.extras import need
from p5dist.environment.redact import redact_text
from p5dist.errors import ConfigError, DataError
from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.formats.json_lines import first_keys, parse_json_lines
from p5dist.prepare.layout import FileRange, SourceFile
from p5dist.prepare.listing import Listed

_ANSWER_S = 20.0
_SILENCE_S = 60.0
_AT_ONCE = 50_000
_FIRST = 100
_MESSAGE_BYTES = 200  # about
_PLACE = re.compile(r"kafka:(.+)/(\d+)/(\d+)-(\d+)")


class Kafka(SourceFormat):
    """``files`` are topics. Every partition is read from its first message to the last one that is
    there when the job is prepared; the manifest names the offsets, as in
    ``kafka:TOPIC/PARTITION/FIRST-END``. A message is a JSON object, as a line of jsonl is.

    ``connection`` names the environment variable with the settings of librdkafka as JSON:
    ``{"bootstrap.servers": "host:9092"}``, and what security needs.
    """

    is_files = False
    connects = True
    is_sparse = True
    in_order_of_time = False
    describes = False

    def listed(self, patterns: Sequence[str], key: str) -> list[Listed]:
        found: list[Listed] = []
        with closing(self._consumer()) as consumer:
            for pattern in patterns:
                found += self._partitions(consumer, pattern, key)
        return found

    def remaining(self, listed: Sequence[Listed], taken: Sequence[str]) -> list[str]:
        """The offsets after those that were taken, by partition."""
        ends: dict[tuple[str, int], int] = {}
        for url in taken:
            topic, partition, _, end = _parts(url)
            ends[topic, partition] = max(end, ends.get((topic, partition), 0))
        found = []
        for file in listed:
            topic, partition, first, end = _parts(file.url)
            first = max(first, ends.get((topic, partition), first))
            if first < end:
                found.append(_place(topic, partition, first, end))
        return found

    def columns(self, url: str) -> tuple[str, ...]:
        topic, partition, first, end = _parts(url)
        values = list(self._values(topic, partition, first, min(end, first + _FIRST)))
        head = b"\n".join(_one_line(value) for value in values if value is not None)
        wanted = self.layout.columns.values()
        if not values:
            return ()
        keys = first_keys(head, set(wanted))
        if keys is None:
            raise DataError(
                "none of the first messages is a JSON object", where=url,
                value=head[:200].decode(errors="replace"), rule="messages are JSON objects",
                fix="name another topic, or write the messages as JSON",
            )  # fmt: skip
        return keys or tuple(wanted)

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        step = max(range_bytes // _MESSAGE_BYTES, 1)
        return [*range(0, file.size, step), file.size]

    def rows(self, file: SourceFile) -> int:
        return file.size

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        topic, partition, first, _ = _parts(part.file.url)
        roles = {theirs: self.layout.roles[ours] for ours, theirs in self.layout.columns.items()}
        columns = {name: roles[name] for name in part.file.wanted(self.layout)}
        waiting: list[bytes] = []
        empty = 0

        def parsed() -> tuple[pa.Table, int]:
            table, malformed = parse_json_lines(b"\n".join(waiting), columns, self.note_malformed)
            return table, malformed + empty

        for value in self._values(topic, partition, first + part.start, first + part.stop):
            if value is None or not value.strip():
                empty += 1
                continue
            waiting.append(_one_line(value))
            if len(waiting) >= _AT_ONCE:
                yield parsed()
                waiting, empty = [], 0
        if waiting or empty:
            yield parsed()

    def _partitions(self, consumer: Any, pattern: str, key: str) -> Iterator[Listed]:
        kafka = need("confluent_kafka", "kafka", "format kafka")
        named = _PLACE.fullmatch(pattern)
        topic = named[1] if named else pattern
        try:
            found = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
            if found.error is not None:
                raise kafka.KafkaException(found.error)
            for partition in [int(named[2])] if named else sorted(found.partitions):
                place = kafka.TopicPartition(topic, partition)
                low, high = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
                first, end = (int(named[3]), int(named[4])) if named else (low, high)
                if first < low or end > high:
                    raise DataError(
                        "messages that are not there any more", where=key, value=pattern,
                        rule=f"the topic has the offsets {low} to {high}",
                        fix="prepare from what is there, or keep messages longer (retention.ms)",
                    )  # fmt: skip
                yield Listed(_place(topic, partition, first, end), end - first, "")
        except kafka.KafkaException as e:
            raise _unreachable(e, key, pattern) from None

    def _values(self, topic: str, partition: int, first: int, end: int) -> Iterator[bytes | None]:
        """The values of the messages with the offsets ``first`` … ``end - 1``; some are not in a
        compacted topic.

        Raises:
            DataError: the topic ends before ``end``, or nothing comes any more.
        """
        kafka = need("confluent_kafka", "kafka", "format kafka")
        url = _place(topic, partition, first, end)
        with closing(self._consumer()) as consumer:
            consumer.assign([kafka.TopicPartition(topic, partition, first)])
            heard, at = time.monotonic(), first
            while at < end:
                for message in consumer.consume(10_000, timeout=1.0):
                    error, heard = message.error(), time.monotonic()
                    if error is not None and error.code() == kafka.KafkaError._PARTITION_EOF:
                        if message.offset() >= end:
                            return
                        raise DataError(
                            "messages that are not there any more", where=url,
                            value=f"the partition ends at {message.offset()}",
                            rule="messages stay as they were when the job was prepared",
                            fix="prepare again (--fresh) if the topic was made anew",
                        )  # fmt: skip
                    if error is not None:
                        raise _unreachable(error, self.layout.section, url)
                    at = message.offset() + 1
                    if at > end:
                        return
                    yield message.value()
                if time.monotonic() - heard > _SILENCE_S:
                    silence = f"no message for {_SILENCE_S:.0f} s"
                    raise _unreachable(silence, self.layout.section, url)

    def _consumer(self) -> Any:
        kafka = need("confluent_kafka", "kafka", "format kafka")
        try:
            settings = json.loads(self.connection())
            if not isinstance(settings, dict):
                raise ValueError("not an object")
            return kafka.Consumer(
                {
                    "group.id": "p5dist", **settings, "enable.auto.commit": False,
                    "enable.partition.eof": True, "auto.offset.reset": "error",
                    "logger": _SILENT, "error_cb": lambda _: None,
                }
            )  # fmt: skip
        except (ValueError, kafka.KafkaException) as e:
            raise ConfigError(
                "not settings of a Kafka client", where=f"{self.layout.section}.connection",
                value=redact_text(type(e).__name__), rule="a JSON object with bootstrap.servers",
                fix='for example {"bootstrap.servers": "host:9092"}',
            ) from None  # fmt: skip


def _one_line(message: bytes) -> bytes:
    """JSON has line ends between values only."""
    return message.replace(b"\n", b" ")


class _Silent:
    """Takes the messages of librdkafka; errors come back from calls."""

    def log(self, *_: Any, **__: Any) -> None:
        """Nothing."""


_SILENT = _Silent()


def _place(topic: str, partition: int, first: int, end: int) -> str:
    return f"kafka:{topic}/{partition}/{first}-{end}"


def _parts(url: str) -> tuple[str, int, int, int]:
    match = _PLACE.fullmatch(url)
    assert match is not None, "listed() makes the places"
    return match[1], int(match[2]), int(match[3]), int(match[4])


def _unreachable(error: Any, key: str, place: str) -> DataError:
    return DataError(
        f"Kafka does not answer: {redact_text(str(error))}", where=key, value=place,
        rule="a topic that can be read",
        fix="start the brokers, or correct the topic and the connection; the same command goes on",
    )  # fmt: skip
