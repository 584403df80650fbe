"""Being asked to stop: by SIGTERM, as clusters do, or by Ctrl-C. The run then saves its state and ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Listens from its making until `close`, in the main thread (elsewhere Python allows no handlers).

    asked: whether a signal has come. A second Ctrl-C interrupts at once.

    Args:
        forward: send SIGTERM to this process at Ctrl-C and listen to that alone: for a framework that has a handler of
            its own, by which processes agree on where to stop.
    """

    def __init__(self, forward: bool = False) -> None:
        self.asked = False
        self._forward = forward
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if forward else (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # of a program in the background, Ctrl-C
                    self._former[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._forward:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.asked = True

    def close(self) -> None:
        """Give the signals back."""
        former, self._former = self._former, {}
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
