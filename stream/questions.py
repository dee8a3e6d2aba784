"""Two questions to a broker that aiokafka cannot ask: what may be done with topics, with groups."""

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

TEXT = String("utf-8")
NODE = Array(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))
PARTITION = Array(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", Array(Int32)),
    ("isr", Array(Int32)),
    ("offline_replicas", Array(Int32)),
)
TOPIC = Array(
    ("error_code", Int16),
    ("topic", TEXT),
    ("is_internal", Boolean),
    ("partitions", PARTITION),
    ("authorized_operations", Int32),
)


class _Described(Response):
    API_KEY = 3  # pyright: ignore
    API_VERSION = 8  # pyright: ignore
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", NODE),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        ("topics", TOPIC),
        ("cluster_authorized_operations", Int32),
    )


class _Describe(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _Described
    SCHEMA = Schema(
        ("topics", Array(TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class Metadata(Request[MetadataRequest_v4 | MetadataRequest_v5 | _Describe]):
    """Topics: how many partitions, and what we may do with them; asking creates none."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(
        self, request_struct_class: type[MetadataRequest_v4 | MetadataRequest_v5 | _Describe]
    ) -> MetadataRequest_v4 | MetadataRequest_v5 | _Describe:
        told = (False, True) if request_struct_class is _Describe else ()
        return request_struct_class(self._topics, False, *told)


class _DescribeGroups(RequestStruct):
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = Schema(("groups", Array(TEXT)), ("include_authorized_operations", Boolean))


class Groups(Request[_DescribeGroups]):
    """Groups: what we may do with them."""

    API_KEY = 15

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_DescribeGroups]) -> _DescribeGroups:
        return request_struct_class(self._groups, True)
