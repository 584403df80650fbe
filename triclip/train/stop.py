"""Stopping by SIGTERM, as sent by clusters, or by Ctrl-C: the run saves its state and ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Handles the signals from construction until `close`, in the main thread (others can't have handlers).

    asked: whether a signal was received. A second Ctrl-C interrupts at once.

    Args:
        forward: at Ctrl-C send SIGTERM to this process, and handle nothing else: for a framework whose own handler
            makes processes agree on the step to stop at.
    """

    def __init__(self, forward: bool = False) -> None:
        self.asked = False
        self._forward = forward
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if forward else (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # Ctrl-C of a program in the background
                    self._former[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._forward:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.asked = True

    def close(self) -> None:
        """Restore the previous handlers."""
        former, self._former = self._former, {}
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
