"""The progress line: when it is shown, and its text."""

import io

from triclip.progress import Progress


def test_nothing_is_drawn_off_a_terminal_or_for_short_work():
    stream = io.StringIO()
    with Progress("images", 3, stream=stream) as bar:
        bar.advance(3)
    assert stream.getvalue() == ""


def test_a_forced_line_counts_to_its_end(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("triclip.progress.time.monotonic", lambda: next(now))
    stream = io.StringIO()
    with Progress("images", 4, enabled=True, stream=stream) as bar:
        for _ in range(4):
            bar.advance()
    assert "4/4 images" in stream.getvalue() and stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\r") == 4


def test_work_that_learns_its_size_on_the_way(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("triclip.progress.time.monotonic", lambda: next(now))
    stream = io.StringIO()
    with Progress("bytes", 0, enabled=True, stream=stream) as bar:
        bar.reach(50, 200)
        bar.reach(200, 200)
    assert "50/200 bytes" in stream.getvalue() and "200/200 bytes" in stream.getvalue()
