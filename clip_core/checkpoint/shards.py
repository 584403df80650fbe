"""Weight files of at most a given size, under transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .tensor import Tensor

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def shard_bytes(size: str | int | None) -> int | None:
    """'5GB' -> 5000000000, as huggingface_hub reads it. Raises ValueError."""
    if size is None or type(size) is int and size > 0:
        return size
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B)\s*", str(size).upper())
    if match is None or (count := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise ValueError(f"shard_size: wanted bytes or a text such as '2GB' or '500MiB', found {size!r}")
    return count


def shards(tensors: Mapping[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """Tensors in order, in groups of at most `limit` bytes; a larger tensor has a group of its own."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if limit is not None and groups[-1] and size + tensor.nbytes > limit:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups


def shard_names(count: int, stem: str, ending: str, variant: str | None) -> tuple[list[str], str]:
    """(the names of the weight files, the name of their index) as transformers has them."""
    full = f"{stem}.{variant}" if variant else stem
    index = f"{stem}.{ending}.index.{variant}.json" if variant else f"{stem}.{ending}.index.json"
    if count == 1:
        return [f"{full}.{ending}"], index
    return [f"{full}-{number:05}-of-{count:05}.{ending}" for number in range(1, count + 1)], index
