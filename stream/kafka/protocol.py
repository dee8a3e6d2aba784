"""Questions to a broker that aiokafka cannot ask: which topics are these, and what may we do?"""

from io import BytesIO
from typing import Any, Self

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)
from msgspec import Struct

TEXT = CompactString("utf-8")
TAGS = ("tags", TaggedFields)


class Uuid(AbstractType[bytes]):
    """Sixteen bytes; aiokafka 0.14 has no such type."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


NODE = CompactArray(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT), TAGS)
PARTITION = CompactArray(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    TAGS,
)
TOPIC = CompactArray(
    ("error_code", Int16),
    ("topic", TEXT),
    ("topic_id", Uuid),
    ("is_internal", Boolean),
    ("partitions", PARTITION),
    ("authorized_operations", Int32),
    TAGS,
)


class _Described(Response):
    API_KEY = 3  # pyright: ignore
    API_VERSION = 10  # pyright: ignore
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", NODE),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        ("topics", TOPIC),
        ("cluster_authorized_operations", Int32),
        TAGS,
    )


class _Describe(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Described
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", TEXT), TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        TAGS,
    )


class Metadata(Request[MetadataRequest_v4 | MetadataRequest_v5 | _Describe]):
    """Topics: how many partitions, what we may do with them, their ids; asking creates none.

    Brokers before 2.8 are asked by version 5, which tells neither rights nor ids.
    """

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(
        self, request_struct_class: type[MetadataRequest_v4 | MetadataRequest_v5 | _Describe]
    ) -> MetadataRequest_v4 | MetadataRequest_v5 | _Describe:
        if request_struct_class is _Describe:
            named = [(bytes(16), topic, {}) for topic in self._topics]
            return _Describe(named, False, False, True, {})
        return request_struct_class(self._topics, False)


class _DescribeGroups(RequestStruct):
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class Member(Struct, frozen=True):
    """A consumer in a group."""

    id: str
    client_id: str


class Group(Struct, frozen=True):
    """A group of consumers, as its coordinator tells of it; no state where it does not."""

    name: str
    state: str
    members: tuple[Member, ...]

    @classmethod
    def told(cls, answer: dict[str, Any]) -> Self:
        """From the answer to `Groups`."""
        members = [Member(m["member_id"], m["client_id"]) for m in answer["members"]]
        return cls(answer["group"], answer["state"], tuple(members))


class Groups(Request[_DescribeGroups]):
    """Groups: who is in them, and what we may do with them."""

    API_KEY = 15

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_DescribeGroups]) -> _DescribeGroups:
        return request_struct_class(self._groups, True)
