"""A server that does everything wrong once: slow, silent, broken off, overloaded, malformed, refusing."""

import base64
import io
import json
import threading
import time

import pytest
from PIL import Image

from tests.models.faulty_server import (
    PASSING,
    Faulty,
    good,
    keep_alive_for_ever,
    status,
    stream,
    whole,
)
from workbench.errors import ModelError, UsageError
from workbench.models import server_client
from workbench.models.loading import open_vision_language
from workbench.models.server_client import read_address, retry_after
from workbench.models.source import identify
from workbench.models.vlm_server import limited
from workbench.types import Generation, Media, ModelSpec, Request

pytest.importorskip("httpx_sse", reason="pip install 'parity-workbench[server]'")
pytest.importorskip("tenacity", reason="pip install 'parity-workbench[server]'")

KEY = "sk-very-secret-1234"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(server_client, "FIRST_WAIT_SECONDS", 0.01)
    for name in ("WORKBENCH_SERVER_KEY", "OPENAI_API_KEY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Faulty()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def opened(server, options="timeout=1&retries=2", name="m"):
    return open_vision_language(ModelSpec.parse(f"server:{server.url}#{name}?{options}"))


def request(text="one", *images):
    return Request({"text": text, "images": list(images)}, "p-1")


def encoded(kind, size=(6, 4)):
    data = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("streamed", ["true", "false"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_tried_again(server, fault, streamed):
    server.faults = [PASSING[fault]]
    (output,) = opened(server, f"timeout=1&retries=2&stream={streamed}").answer([request()], Generation())
    assert (output.value, output.finish, output.error, output.tokens) == ("answer to one", "stop", None, None)
    assert len(server.bodies) == 2
    assert (output.timing.n_in, output.timing.n_out, output.timing.batch) == (7, 3, 1)
    assert (output.timing.first is not None) == (streamed == "true")
    assert output.timing.total < 1.0, "the time is that of the attempt that succeeded"


@pytest.mark.parametrize("fault", [name for name in PASSING if name != "slow"])
def test_a_failure_that_does_not_pass_is_the_items_own(server, fault):
    server.faults = [PASSING[fault]] * 3
    (output,) = opened(server, "timeout=1&retries=2&concurrency=1").answer([request()], Generation())
    assert output.finish == "error" and output.value is None
    assert output.error["reason"] == "server" and "--retry-errors" in output.error["fix"] and "3 attempts" in output.error["why"]
    assert len(server.bodies) == 3
    (again,) = opened(server).answer([request()], Generation())
    assert again.value == "answer to one"


@pytest.mark.parametrize("code", [400, 404, 413, 422, 418])
def test_a_refusal_is_not_repeated_and_says_why(server, code):
    server.faults = [status(code, json.dumps({"error": {"message": f"no\x1b[31m {KEY} \u202e" + "x" * 5000}}))]
    model = opened(server)
    model.client.secrets.append(KEY)
    first, second = model.answer([request("one"), request("two")], Generation())
    failed = first if first.error else second
    assert len(server.bodies) == 2 and str(code) in failed.error["what"]
    why = failed.error["why"]
    assert why.startswith("no [31m ***") and len(why) < 320 and KEY not in why and why.isprintable()


def test_the_servers_own_waiting_time_is_kept_unless_it_is_too_long(server):
    server.faults = [status(429, Retry_After="1")]
    began = time.perf_counter()
    (output,) = opened(server).answer([request()], Generation())
    assert output.value and 1.0 <= time.perf_counter() - began < 3.0
    server.faults = [status(503, Retry_After="86400")]
    (output,) = opened(server).answer([request()], Generation())
    assert output.error["what"] == "the server answered 503" and "1 attempt" in output.error["why"]
    assert retry_after("Wed, 21 Oct 2026 07:28:00 GMT", now=lambda: 1792567670.0) == 10.0
    assert retry_after("soon") is None and retry_after("-5") == 0.0 and retry_after("inf") is None


def test_the_key_is_sent_and_never_shown(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    server.faults = [status(401, json.dumps({"error": {"message": f"wrong key {KEY}"}}))]
    model = opened(server, "api_key_env=MY_KEY&retries=0")
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(ModelError) as refused:
        model.answer([request()], Generation())
    assert "MY_KEY" in str(refused.value) and KEY not in str(refused.value)
    assert KEY not in json.dumps(model.describe()) + model.spec.label + json.dumps(identify(model.spec))
    model.answer([request()], Generation())
    server.faults = [status(403, json.dumps({"error": f"flagged {KEY}"}))]
    (output,) = model.answer([request()], Generation())
    assert output.error["why"] == "flagged ***", "after a success a 403 is about the item"
    with pytest.raises(UsageError, match="holds no key"):
        opened(server, "api_key_env=NOT_SET_ANYWHERE")


def test_a_login_in_the_address_is_used_and_never_shown(server):
    spec = ModelSpec.parse(f"server:http://me:pa%40ss@127.0.0.1:{server.server_port}#/home/me/models/m/?retries=0")
    assert spec.label == f"server:http://127.0.0.1:{server.server_port}#m?retries=0"
    model = open_vision_language(spec)
    assert base64.b64decode(server.headers[-1]["Authorization"].removeprefix("Basic ")) == b"me:pa@ss"
    shown = json.dumps(identify(spec)) + json.dumps(model.describe())
    assert "pa@ss" not in shown and "pa%40ss" not in shown and "/home" not in shown and '"m"' in shown
    model.answer([request()], Generation())
    assert server.bodies[-1]["model"] == "/home/me/models/m/"


def test_nobody_there_and_nobody_known(server):
    with pytest.raises(ModelError) as nobody:
        open_vision_language(ModelSpec.parse("server:http://127.0.0.1:9#m"))
    assert "no server answers at http://127.0.0.1:9/v1" in str(nobody.value) and "server:http" in nobody.value.fix
    server.models_status = 401
    with pytest.raises(ModelError, match=r"(?s)refuses us.*no key was given.*export WORKBENCH_SERVER_KEY"):
        identify(ModelSpec.parse(f"server:{server.url}"))
    server.models_status = 500
    with pytest.raises(ModelError, match="no OpenAI-compatible server"):
        identify(ModelSpec.parse(f"server:{server.url}"))
    server.models_status = 404  # a server without a list answers all the same, when the model is named
    assert identify(ModelSpec.parse(f"server:{server.url}#m"))["weights"] is None


def test_the_only_model_needs_no_name(server):
    spec = ModelSpec.parse(f"server:{server.url}")
    found = identify(spec)
    assert found["source"] == f"{server.url}/v1#m" and found["owned_by"] == "us" and "created" not in found
    open_vision_language(spec).answer([request()], Generation())
    assert server.bodies[-1]["model"] == "m"
    server.models = [{"id": "a"}, {"id": "/srv/models/b"}]
    with pytest.raises(ModelError, match=r"(?s)serves 2 models.*they are a, b"):
        identify(spec)


def test_what_is_sent(server):
    png, webp, bmp = encoded("PNG"), encoded("WEBP"), encoded("BMP")
    media = [Media(data=data) for data in (png, webp, bmp)]
    settings = Generation(max_tokens=9, temperature=0.5, seed=3, stop=("END",))
    opened(server, "image_detail=low").answer([request("what?", *media)], settings)
    body = server.bodies[-1]
    assert {name: body[name] for name in ("temperature", "max_tokens", "seed", "stop", "stream", "stream_options")} == {
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    *pictures, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what?"}
    assert all(picture["image_url"]["detail"] == "low" for picture in pictures)
    kinds, data = zip(*(picture["image_url"]["url"].removeprefix("data:").split(";base64,") for picture in pictures), strict=True)
    assert kinds == ("image/png", "image/webp", "image/png")
    sent = [base64.b64decode(part) for part in data]
    assert sent[:2] == [png, webp] and Image.open(io.BytesIO(sent[2])).getpixel((0, 0)) == (200, 30, 30)
    opened(server, "image_position=last&max_pixels=6&stream=false").answer([request("what?", media[0])], Generation())
    text, picture = server.bodies[-1]["messages"][0]["content"]
    small = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert text["text"] == "what?" and small.size == limited(6, 4, None, 6) == (3, 2)
    assert "stop" not in server.bodies[-1] and "detail" not in picture["image_url"]


def test_how_an_answer_ended(server):
    def ends(finish, content=" x END y"):
        server.faults = [lambda handler, body: good(handler, body, content, finish)]
        return opened(server).answer([request()], Generation(stop=("END",)))[0]

    assert (ends("stop").value, ends("stop").finish) == ("answer x", "stop")
    assert ends("length").finish == "length"
    filtered = ends("content_filter")
    assert filtered.finish == "error" and filtered.error["reason"] == "refused"
    server.faults = [whole({"choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}]})]
    (output,) = opened(server).answer([request()], Generation())
    assert (output.value, output.finish) == ("", "length"), "it thought until the limit"
    server.faults = [whole({"choices": [{"message": {"content": [{"type": "text", "text": "parts"}]}, "finish_reason": "stop"}]})]
    assert opened(server).answer([request()], Generation())[0].value == "parts"


def test_an_endless_reply_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(server_client, "MAX_REPLY_BYTES", 10_000)
    server.faults = [stream("data: " + "x" * 50_000), whole("y" * 50_000), status(500, "z" * 50_000)]
    (output,) = opened(server).answer([request()], Generation())
    assert "no end" in output.error["what"]


def test_keep_alives_alone_are_no_answer(server):
    server.faults += [keep_alive_for_ever]
    began = time.perf_counter()
    (output,) = opened(server, "timeout=1&retries=0&concurrency=1").answer([request()], Generation())
    assert output.error["what"] == "the server took too long" and time.perf_counter() - began < 5
    server.faults += [keep_alive_for_ever]
    (again,) = opened(server, "timeout=1&retries=1&concurrency=1").answer([request()], Generation())
    assert again.error is None


def test_requests_are_under_way_together_and_answers_keep_their_order(server):
    server.delay = 0.2
    model = opened(server, "concurrency=3")
    assert model.batch_size == 3
    texts = [f"q{number}" for number in range(7)]
    outputs = model.answer([request(text) for text in texts], Generation())
    assert [output.value for output in outputs] == [f"answer to {text}" for text in texts]
    assert server.most == 3
    assert all(0.2 <= output.timing.total < 0.6 for output in outputs)


def test_a_bad_image_spoils_its_own_item_only(server):
    outputs = opened(server).answer([request("a", Media(data=b"\x89PNG\r\n\x1a\nbroken")), request("b")], Generation())
    assert outputs[0].error["reason"] == "image" and outputs[1].value == "answer to b" and len(server.bodies) == 1


def test_addresses():
    assert read_address("https://h.example/api/v3/#m").url == "https://h.example/api/v3"
    assert read_address("http://[::1]:80#m").url == "http://[::1]:80/v1"
    for wrong in ("127.0.0.1:8080", "ftp://h", "http://", "http://h:99999", "vlm"):
        with pytest.raises(UsageError):
            read_address(wrong)
    spec = ModelSpec.parse("server:http://h:1?stream=false#org/m:7b@q4")
    assert (spec.source, spec.revision, spec.options) == ("http://h:1#org/m:7b@q4", None, {"stream": "false"})


def test_an_error_of_this_side_is_raised(server, monkeypatch):
    model = opened(server)
    monkeypatch.setattr(model, "_body", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.answer([request()], Generation())


def test_a_server_that_went_away_costs_its_retries_once(server, monkeypatch):
    model = opened(server, "retries=3&concurrency=1")

    def error(text):
        return model.answer([request(text)], Generation())[0].error

    assert error("zero") is None
    server.shutdown()
    server.server_close()
    tried = []
    once = server_client.ServerClient._once
    monkeypatch.setattr(server_client.ServerClient, "_once", lambda self, body: tried.append(body) or once(self, body))
    assert [error(text)["what"] for text in ("one", "two", "three")] == ["the server cannot be reached"] * 3
    assert len(tried) == 4 + 1 + 1, "four attempts for the first item, one for each after it"
    back = Faulty(server.server_port)
    threading.Thread(target=back.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        assert error("four") is None
        back.faults.append(status(500))
        assert error("five") is None, "somebody answers again, so failures are tried again"
    finally:
        back.shutdown()
        back.server_close()
