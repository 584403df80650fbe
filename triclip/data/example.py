"""tf.train.Example from its bytes and to them, by protobuf: TensorFlow is not needed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from clip_core.errors import DataError, MissingDependencyError

# The messages of tensorflow/core/example/{example,feature}.proto, as the descriptor that protoc makes of them.
_DESCRIPTOR = """
name: "triclip/example.proto" package: "triclip" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".triclip.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".triclip.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".triclip.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".triclip.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".triclip.Features.FeatureEntry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".triclip.Features" }
}
"""  # noqa: E501


@functools.cache
def _example() -> Any:
    """The message's class, from a separate pool, so that TensorFlow's own, if loaded, is not affected."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
    except ImportError as error:
        raise MissingDependencyError("ArrayRecord files need protobuf: pip install 'triclip[train]'") from error
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_DESCRIPTOR, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triclip.Example"))


def parse_example(record: bytes, name: str) -> dict[str, list[Any]]:
    """Feature -> its values: bytes, floats or integers. Raises DataError for anything but an Example."""
    example = _example()()
    from google.protobuf.message import DecodeError

    try:
        example.ParseFromString(record)
    except (DecodeError, ValueError) as error:
        raise DataError(f"{name}: wanted a tf.train.Example, found other bytes ({error})") from error
    found = {key: _values(feature) for key, feature in sorted(example.features.feature.items())}
    if not found:
        raise DataError(f"{name}: wanted a tf.train.Example with features, found none")
    return found


def make_example(features: Mapping[str, Sequence[bytes | int]]) -> bytes:
    """A serialised tf.train.Example of features that are bytes or whole numbers."""
    example = _example()()
    for key, values in features.items():
        feature = example.features.feature[key]
        if values and isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return [] if kind is None else list(getattr(feature, kind).value)
