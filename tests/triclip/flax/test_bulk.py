"""Bulk embedding with this backend: the output's rows equal those of `Clip`."""

from __future__ import annotations

from pathlib import Path

from tests.triclip.bulk_rows import check_shard


def test_pictures_and_captions_of_a_shard(tmp_path: Path) -> None:
    check_shard("flax", tmp_path)
