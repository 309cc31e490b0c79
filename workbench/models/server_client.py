"""One conversation turn with an OpenAI-compatible server: sent, streamed, and tried again when the failure may pass.

    client = ServerClient(read_address("http://127.0.0.1:8080#vlm"), key=None, timeout=120, retries=5)
    client.models()                          # [{"id": "vlm", "owned_by": ..., "created": ...}]
    client.chat(body, threading.Event())     # Reply(text="B", finish="stop", n_in=85, n_out=2, first=0.11, total=0.13)

Whatever a server says is a stranger's text: it is bounded, control characters are taken out, and the key is never repeated.
"""

from __future__ import annotations

import json
import math
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for more is not waited for; the item says so."""

CONNECT_SECONDS = 10.0
MAX_REPLY_BYTES = 32 * 2**20
MAX_MESSAGE = 300
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Statuses after which the same request may succeed (520 to 524 and 529 are proxies' and hosts' own)."""

UNREACHABLE = "the server cannot be reached"
STOPPED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_string"}
CUT = {"length", "max_tokens", "max_length"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. ``url`` ends in the API's root (``/v1``) and holds no password; ``label`` may be published."""

    url: str
    label: str
    model: str | None
    login: tuple[str, str] | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Seconds are those of the attempt that succeeded; ``first`` is None where nothing was streamed."""

    text: str
    finish: str
    n_in: int
    n_out: int
    first: float | None
    total: float


class Passing(Exception):
    """A failure that may pass. ``wait``: the seconds that the server asked for."""

    def __init__(self, what: str, why: str | None = None, wait: float | None = None):
        super().__init__(what)
        self.what, self.why, self.wait = what, why, wait


class Refused(Exception):
    """The server does not accept the key (401, 403)."""


def read_address(source: str) -> Address:
    """``http://HOST:PORT[/PATH][#MODEL]``; without a path, ``/v1`` is added. Raises UsageError."""
    base, _, model = source.partition("#")
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:
        raise UsageError("the address of the server cannot be read", why=str(error), fix="server:http://127.0.0.1:8080") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "a server is named by its address", why="it starts with http:// or https://", fix="server:http://127.0.0.1:8080"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/') or '/v1'}"
    login = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username or parts.password else None
    local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    return Address(place, place, model or None, login, local)


def import_libraries() -> tuple[Any, Any, Any]:
    """httpx, httpx_sse, tenacity. Raises RuntimeMissing."""
    try:
        import httpx
        import httpx_sse
        import tenacity
    except ImportError as error:
        raise RuntimeMissing(
            "talking to a server needs httpx, httpx-sse and tenacity", why=str(error), fix="pip install 'parity-workbench[server]'"
        ) from error
    return httpx, httpx_sse, tenacity


class ServerClient:
    """A connection pool to one server; may be used from several threads. ``key_name`` is the variable that errors name."""

    def __init__(
        self,
        address: Address,
        key: str | None,
        *,
        timeout: float = 120.0,
        retries: int = 5,
        stream: bool = True,
        key_name: str = "WORKBENCH_SERVER_KEY",
        connections: int = 4,
    ):
        self.httpx, self.sse, self.tenacity = import_libraries()
        self.address, self.retries, self.stream, self.key_name = address, retries, stream, key_name
        sent = [b64encode(":".join(address.login).encode()).decode()] if address.login else []  # as the header has it
        self.secrets = [secret for secret in (key, *sent, *(address.login or ())) if secret]
        # A compressed reply could unfold to any size, so none is asked for.
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.http = self.httpx.Client(
            headers=headers,
            auth=address.login if not key else None,
            timeout=self.httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            limits=self.httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not address.local,  # a proxy cannot reach this machine's own servers
        )
        self.timeout = timeout
        self.unreachable = False
        """Nobody answered a request, retries included: until somebody does, the next ones are tried once."""

    def models(self) -> list[dict[str, Any]]:
        """The server's own list; empty where it keeps none. Raises ModelError when nobody answers or the key is not accepted."""
        label = self.address.label
        try:
            with self.http.stream("GET", f"{self.address.url}/models") as response:
                body = self._read(response)
        except self.httpx.ConnectError as error:
            raise ModelError(
                f"no server answers at {label}",
                why=self.safe(str(error)) or "the connection was refused",
                fix="start it, or check host and port: --model server:http://127.0.0.1:8080",
            ) from error
        except (self.httpx.HTTPError, Passing) as error:
            raise ModelError(
                f"the server at {label} does not answer as expected", why=self.safe(f"{type(error).__name__}: {error}")
            ) from error
        if response.status_code in (401, 403):
            raise self.not_accepted(response.status_code)
        if response.status_code in (404, 405, 501):
            return []
        try:
            listed = json.loads(body)["data"] if response.status_code == 200 else None
            return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{label}/models: status {response.status_code}, {self.safe(body.decode(errors='replace')) or 'nothing in it'}"
            raise ModelError(
                f"{label} is no OpenAI-compatible server", why=why, fix="--model server:http://HOST:PORT/v1#NAME"
            ) from error

    def not_accepted(self, status: int) -> ModelError:
        """The error of a key that is missing or wrong."""
        given = "the key is not accepted" if self.secrets else "no key was given"
        return ModelError(
            f"the server at {self.address.label} refuses us", why=f"status {status}: {given}", fix=f"export {self.key_name}=..."
        )

    def chat(self, body: dict[str, Any], stopping: threading.Event) -> Reply:
        """Ask, and ask again with growing, jittered pauses (or the server's own) while the failure may pass.

        Raises ItemError when it does not pass, and Refused. ``stopping`` ends waiting at once.
        """
        tenacity = self.tenacity
        growing = tenacity.wait_exponential_jitter(initial=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS, jitter=FIRST_WAIT_SECONDS)

        def wait(state: Any) -> float:
            asked = state.outcome.exception().wait
            return growing(state) if asked is None else asked

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Passing) and (error.wait or 0) <= LONGEST_RETRY_AFTER_SECONDS
            ),
            stop=tenacity.stop_after_attempt(1 if self.unreachable else self.retries + 1) | tenacity.stop_when_event_set(stopping),
            wait=wait,
            sleep=tenacity.sleep_using_event(stopping),
            reraise=True,
        )
        try:
            return attempts(self._once, body)
        except Passing as error:
            self.unreachable = self.unreachable or error.what == UNREACHABLE
            tried = attempts.statistics.get("attempt_number", 1)
            why = f"{error.why or ''} after {tried} {'attempt' if tried == 1 else 'attempts'}".strip()
            raise ItemError(
                error.what,
                reason="server",
                why=why,
                fix="see that the server is well, then the same command again (eval: with --retry-errors)",
            ) from error

    def close(self) -> None:
        self.http.close()

    def safe(self, text: str) -> str:
        """``text`` of a stranger: one line, no control characters, no key, at most ``MAX_MESSAGE`` characters."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        text = " ".join("".join(mark if mark.isprintable() else " " for mark in text[: 20 * MAX_MESSAGE]).split())
        return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."

    def _once(self, body: dict[str, Any]) -> Reply:
        httpx = self.httpx
        accept = "text/event-stream" if self.stream else "application/json"
        began = time.perf_counter()
        try:
            url = f"{self.address.url}/chat/completions"
            with self.http.stream("POST", url, json=body, headers={"Accept": accept}) as response:
                self.unreachable = False
                self._check(response)
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    return self._streamed(response, began)
                return self._whole(self._read(response), began)
        except httpx.TimeoutException as error:
            raise Passing("the server took too long", f"nothing came for {self.timeout:g} s ({type(error).__name__})") from error
        except httpx.ConnectError as error:
            raise Passing(UNREACHABLE, self.safe(str(error))) from error
        except (httpx.HTTPError, self.sse.SSEError) as error:
            raise Passing("the connection broke off", self.safe(f"{type(error).__name__}: {error}")) from error

    def _check(self, response: Any) -> None:
        """Raises Passing, Refused or ItemError unless the status is 200."""
        status = response.status_code
        if status == 200:
            return
        said = self.safe(message_of(self._read(response))) or "no reason given"
        if status in PASSING:
            raise Passing(f"the server answered {status}", said, retry_after(response.headers.get("retry-after")))
        if status in (401, 403):
            raise Refused(status, said)
        fix = {413: "--max-pixels N (smaller images)", 404: "check the model's name: --model server:http://HOST:PORT#NAME"}.get(
            status
        )
        raise ItemError(f"the server refused the request with status {status}", reason="server", why=said, fix=fix)

    def _read(self, response: Any) -> bytes:
        self._limit(response)
        return response.read()

    def _limit(self, response: Any) -> Callable[[], None]:
        """End a reply that never ends: after ``MAX_REPLY_BYTES``, or when for ``timeout`` seconds only keep-alives came.

        Call what is returned when a part of the answer has come.
        """
        timeout, last = self.timeout, [time.perf_counter()]

        class Limited(self.httpx.SyncByteStream):
            def __init__(self, inner: Any):
                self.inner = inner

            def __iter__(self) -> Iterator[bytes]:
                size = 0
                for part in self.inner:
                    size += len(part)
                    if size > MAX_REPLY_BYTES:
                        raise Passing("the reply has no end", f"more than {MAX_REPLY_BYTES:,} bytes")
                    if time.perf_counter() - last[0] > timeout:
                        raise Passing("the server took too long", f"no part of the answer came for {timeout:g} s")
                    yield part

            def close(self) -> None:
                self.inner.close()

        response.stream = Limited(response.stream)

        def came() -> None:
            last[0] = time.perf_counter()

        return came

    def _whole(self, data: bytes, began: float) -> Reply:
        found = self._object(data)
        choice = first_choice(found)
        if choice is None:
            raise Passing("the server's answer holds no choice")
        message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
        return self._reply(text_of(message.get("content")), choice.get("finish_reason"), found.get("usage"), None, began)

    def _streamed(self, response: Any, began: float) -> Reply:
        came = self._limit(response)
        parts: list[str] = []
        content = first = reason = usage = None
        done = False
        for event in self.sse.EventSource(response).iter_sse():
            if event.data.strip() == "[DONE]":
                done = True
                break
            if not event.data.strip():
                continue
            came()
            found = self._object(event.data)
            usage = found.get("usage") or usage
            choice = first_choice(found)
            if choice is None:
                continue
            delta = choice.get("delta") if isinstance(choice.get("delta"), dict) else {}
            piece = text_of(delta.get("content"))
            if piece is not None:
                content = ""
                if piece:
                    first = time.perf_counter() - began if first is None else first
                    parts.append(piece)
            reason = choice.get("finish_reason") or reason
        if not done and reason is None:
            raise Passing("the stream ended in the middle", f"{len(parts)} parts had come")
        return self._reply(None if content is None else "".join(parts), reason, usage, first, began)

    def _object(self, data: bytes | str) -> dict[str, Any]:
        """JSON that is an object without an error in it. Raises Passing."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Passing("the server's answer is no JSON", self.safe(str(error))) from error
        if not isinstance(found, dict):
            raise Passing("the server's answer is no JSON object")
        if found.get("error"):
            raise Passing("the server reported an error in its answer", self.safe(message_of(json.dumps(found).encode())))
        return found

    def _reply(self, text: str | None, reason: Any, usage: Any, first: float | None, began: float) -> Reply:
        if reason == "content_filter":
            raise ItemError("the server's content filter ended the answer", reason="refused", why="finish_reason content_filter")
        counts = usage if isinstance(usage, dict) else {}
        n_in, n_out = (
            count(counts, *names) for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
        )
        if text is None and reason not in CUT:  # a model that thinks until the limit answers nothing: that is an answer cut short
            raise Passing("the server's answer has no content", f"finish_reason {self.safe(str(reason))}")
        return Reply(text or "", "length" if reason in CUT else "stop", n_in, n_out, first, time.perf_counter() - began)


def first_choice(found: dict[str, Any]) -> dict[str, Any] | None:
    choices = found.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def text_of(content: Any) -> str | None:
    """A message's text: a string, or the text parts of a list."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else None


def message_of(data: bytes) -> str:
    """What an error body says, in any of the usual shapes, else the body."""
    text = data[: 20 * MAX_MESSAGE].decode(errors="replace")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
            if isinstance(found, dict) and found.get("message"):
                found = found["message"]
            return found if isinstance(found, str) else json.dumps(found)
    return text


def count(usage: dict[str, Any], *names: str) -> int:
    value = next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)
    return max(0, int(value))


def retry_after(text: str | None, now: Callable[[], float] = time.time) -> float | None:
    """The seconds of a Retry-After header: a number, or a date (RFC 9110, 10.2.3). None where it says nothing."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
