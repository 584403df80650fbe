"""Rates, queues, deadlines, and a model that computes one query at a time."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_core.errors import InputError
from tests.triclip.serve.helpers import refused
from triclip.serve import Limits
from triclip.serve.limits import RateLimit, Refusal, Worker, client_key


def test_limits_are_positive():
    for name, value in (("results", 0), ("seconds", -1), ("upload_bytes", True), ("waiting", float("nan"))):
        with pytest.raises(InputError, match=f"limits: {name}: wanted a number above 0"):
            Limits(**{name: value})


def test_a_rate_fills_evenly_and_is_each_clients_own():
    now = [0.0]
    rate = RateLimit(60, clock=lambda: now[0])
    for _ in range(15):
        rate.take("a")
    with pytest.raises(Refusal) as error:
        rate.take("a")
    assert error.value.status == 429 and error.value.retry_after == pytest.approx(1)
    rate.take("b")
    now[0] += 1
    rate.take("a")
    with pytest.raises(Refusal):
        rate.take("a")
    now[0] += 1000
    for _ in range(15):
        rate.take("a")


def test_a_rate_remembers_a_bounded_number_of_clients():
    rate = RateLimit(60)
    for i in range(10_000):
        rate.take(str(i))
    assert len(rate._clients) <= 4096


def test_who_is_one_client():
    assert client_key("2001:db8:1:2:3::4") == client_key("2001:db8:1:2:ffff::9") != client_key("2001:db8:1:3::4")
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1") != client_key("10.0.0.2")
    assert client_key("testclient") == "testclient"


def test_too_many_searches(serving):
    with serving(searches_per_minute=8) as client:
        answers = [client.get("/api/search?q=a") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "too many requests" in refused(answers[2], 429) and 1 <= int(answers[2].headers["retry-after"]) <= 8
        page = client.get("/?q=a")
        assert page.status_code == 429 and "too many requests" in page.text and "<form" in page.text
        assert client.get("/api/health").status_code == 200  # searches alone have used theirs up
        assert client.get("/").status_code == 200
        # What is wrong with a request is said without counting it.
        assert client.get("/api/search?q=").status_code == 400


def test_too_many_requests(serving):
    with serving(requests_per_minute=20) as client:
        assert [client.get("/api/health").status_code for _ in range(6)] == [200] * 5 + [429]
        answer = client.get("/picture/x")
        assert refused(answer, 429) and answer.headers["x-content-type-options"] == "nosniff"


def test_a_forwarded_address_changes_nothing(serving):
    with serving(searches_per_minute=4) as client:
        answers = [client.get("/api/search?q=a", headers={"x-forwarded-for": f"10.0.0.{i}"}) for i in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]


def test_the_queue_is_bounded_and_the_model_is_never_asked_twice_at_once(serving, monkeypatch, clip):
    inside, most, gate = [0], [0], threading.Event()
    real = clip.encode_text

    def slow(*arguments, **options):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        gate.wait(20)
        time.sleep(0.01)
        inside[0] -= 1
        return real(*arguments, **options)

    monkeypatch.setattr(clip, "encode_text", slow)
    with serving(waiting=2) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.get, "/api/search?q=a") for _ in range(3)]
        until = time.monotonic() + 20
        while client.app.site._model._inside < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
        full = client.get("/api/search?q=b")
        assert "waiting" in refused(full, 503) and full.headers["retry-after"] == "1"
        assert client.get("/api/health").status_code == 200  # the event loop is free meanwhile
        gate.set()
        assert [one.result().status_code for one in asked] == [200] * 3
        assert client.get("/api/search?q=b").status_code == 200
    assert most == [1]


def test_work_that_was_given_up_on_keeps_its_place(monkeypatch):
    async def run():
        worker, gate = Worker(1, 1, "test"), threading.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.run(gate.wait, 20), 0.05)
        second = asyncio.ensure_future(worker.run(lambda: 2))
        await asyncio.sleep(0)
        with pytest.raises(Refusal):  # one is being done still, one waits
            await worker.run(lambda: 3)
        gate.set()
        assert await second == 2
        assert await worker.run(lambda: 4) == 4
        worker.close()
        with pytest.raises(Refusal, match="stopping"):
            await worker.run(lambda: 5)

    asyncio.run(run())


def test_a_request_has_a_deadline(serving, monkeypatch, clip):
    gate = threading.Event()
    monkeypatch.setattr(clip, "encode_text", lambda *_, **__: gate.wait(20))
    with serving(seconds=0.2) as client:
        try:
            answer = client.get("/api/search?q=a")
        finally:
            gate.set()
        assert "longer than 0.2 seconds" in refused(answer, 503)


def test_a_body_has_a_deadline(library):
    """Bytes that never come."""
    from triclip.serve import create_app

    sent = []

    async def run():
        async def receive():
            await asyncio.sleep(20)

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"image/png"), (b"host", b"x")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/search",
            "raw_path": b"/api/search",
            "headers": headers,
        }
        scope |= {"query_string": b"", "client": ("a", 1), "server": ("x", 80), "scheme": "http", "http_version": "1.1"}
        await create_app(library, Limits(body_seconds=0.1))(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408 and b"0.1 seconds" in sent[1]["body"]


def test_a_server_that_says_by_an_error_that_the_client_is_gone(library, caplog):
    """As ASGI has it; no error comes out, whatever was under way."""
    from triclip.serve import create_app

    async def run(path):
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            raise OSError("gone")

        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "GET", "path": path}
        scope |= {"raw_path": path.encode(), "headers": [(b"host", b"x")], "query_string": b"", "client": ("a", 1)}
        scope |= {"server": ("x", 80), "scheme": "http", "http_version": "1.1"}
        await create_app(library)(scope, receive, send)

    for path in ("/", "/api/health", f"/picture/{library.sample(1)[0].id}", "/none"):
        asyncio.run(run(path))
    assert not caplog.records
