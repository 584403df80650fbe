"""Bringing an index up to date again and again, until asked to stop.

The folders are looked through each time instead of asking the system to tell: that works on network drives too, and a
look at 100,000 files takes a second or two, which the pauses are long beside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from clip_core.errors import InputError

from .updating import Changes

PAUSE = 2.0  # seconds between two looks at the least
_SHARE = 10  # a pause is so many times as long as a look took


def watch(
    run: Callable[[], Changes],
    told: Callable[[Changes], None],
    failed: Callable[[Exception], None],
    stop: threading.Event,
    pause: float = PAUSE,
) -> None:
    """Call `run`, a call of `update`, until `stop` is set.

    told: called with changes when there were some, and the first time. failed: with the error of a folder that is gone,
    say, once while it stays the same: it may be back, so watching goes on.
    """
    said: str | None = None
    first = True
    while not stop.is_set():
        wait = pause
        try:
            changes = run()
        except (OSError, InputError) as error:
            if str(error) != said:
                failed(error)
            said = str(error)
        else:
            said = None
            if not changes:
                wait = max(pause, _SHARE * changes.seconds)
            if first or changes:
                told(changes)
            first = False
        stop.wait(wait)
