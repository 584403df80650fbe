"""Bringing an index of 100,000 pictures up to date."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

CHANGED = 10
ROW = Row(
    title="Update: 100,000 pictures, 10 changed",
    about=(
        "`triclip.upkeep.update` of 100,000 small pictures in 100 folders: 10 of which have changed, with the "
        "embedded model, which is loaded for them; and of which none has."
    ),
    data=("pictures_100k",),
    sides={"10 changed": Side("triclip", "changed"), "none changed": Side("triclip", "none")},
    pairs=(Pair("10 changed", None, at_most=6), Pair("none changed", None, at_most=4)),
    count=1,
    check="as_many",
    rounds=5,
)


def changed(data: Path) -> Callable[[], Any]:
    from PIL import Image

    turn = iter(range(1, 1000))

    def run() -> Any:
        number = next(turn)
        for one in range(CHANGED):
            path = data / "pictures_100k" / f"{one:03d}" / "00000.png"
            Image.new("RGB", (8, 8), (number % 256, one, os.getpid() % 256)).save(path)
        return _update(data)

    return run


def none(data: Path) -> Callable[[], Any]:
    return lambda: _update(data)


def _update(data: Path) -> Any:
    import numpy as np

    from triclip.search.opening import own_index
    from triclip.upkeep import update

    folder = data / "pictures_100k"
    changes = update(own_index(folder), [folder], progress=False)
    return np.array([changes.changed, changes.total])


def as_many(results: dict[str, Any]) -> str:
    assert results["10 changed"].tolist() == [CHANGED, 100_000]
    assert results["none changed"].tolist() == [0, 100_000]
    return "10 pictures of 100,000 were embedded, and none."
