"""A progress line on standard error, for work that takes a while."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Progress:
    """Counts units of work: `with Progress("images", total) as bar: bar.advance(n)`.

    Args:
        what: the unit, for the line.
        total: how many there are.
        enabled: None shows the line only on a terminal, and only after two seconds.
        stream: default standard error.
    """

    def __init__(self, what: str, total: int, enabled: bool | None = None, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.stream = sys.stderr if stream is None else stream
        self.patience = 2.0 if enabled is None else 0.0
        self.enabled = self.stream.isatty() if enabled is None else enabled
        self.started = self.drawn = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.enabled and self.drawn > self.started:
            self.stream.write("\n")

    def reach(self, done: int, total: int) -> None:
        """Set `done` of `total` units, for work whose size is found during the work."""
        self.total = total
        self.advance(done - self.done)

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self.done += count
        now = time.monotonic()
        last = self.done >= self.total and self.drawn > self.started
        if self.enabled and (last or now - self.started >= self.patience and now - self.drawn > 0.2):
            self.drawn = now
            rate = self.done / max(now - self.started, 1e-9)
            filled = int(24 * self.done / max(self.total, 1))
            bar = "#" * filled + "." * (24 - filled)
            self.stream.write(f"\r[{bar}] {self.done}/{self.total} {self.what}, {rate:.0f}/s ")
            self.stream.flush()
