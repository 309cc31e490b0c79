"""A local server that can be told to do everything wrong once; a fault is a function of the handler and the request's body."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faulty(ThreadingHTTPServer):
    """``faults``: what the next chat requests get, in order; then good answers. ``bodies`` and ``headers`` keep what came."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.faults, self.bodies, self.headers, self.models = [], [], [], [{"id": "m", "owned_by": "us", "created": 5}]
        self.models_status, self.lock, self.active, self.most, self.delay = 200, threading.Lock(), 0, 0, 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, text, kind="application/json", **headers):
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        assert self.path == "/v1/models"
        self.send(self.server.models_status, json.dumps({"object": "list", "data": self.server.models}))

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            fault = server.faults.pop(0) if server.faults else None
            server.active += 1
            server.most = max(server.most, server.active)
        try:
            time.sleep(server.delay)
            (fault or good)(self, body)
        finally:
            with server.lock:
                server.active -= 1


def asked_text(body):
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def chunk(content=None, finish=None, **more):
    choices = [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]
    return f"data: {json.dumps({'choices': choices, **more})}\n\n"


def good(handler, body, content=None, finish="stop"):
    content = f" to {asked_text(body)}\n" if content is None else content
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    if body["stream"]:
        last = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
        handler.send(200, chunk("answer") + ": a comment\n\n" + chunk(content) + chunk(finish=finish) + last, "text/event-stream")
    else:
        message = {"role": "assistant", "content": "answer" + content}
        handler.send(200, json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}))


def status(code, text='{"error": {"message": "told so"}}', **headers):
    return lambda handler, body: handler.send(code, text, **headers)


def whole(value):
    return lambda handler, body: handler.send(200, value if isinstance(value, str) else json.dumps(value))


def stream(text):
    return lambda handler, body: handler.send(200, text, "text/event-stream")


def slow(handler, body):
    time.sleep(1.6)
    handler.close_connection = True


def hang_up(handler, body):
    handler.close_connection = True
    handler.connection.shutdown(2)


def drop_in_the_middle(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(chunk("ans").encode())
    handler.wfile.flush()
    hang_up(handler, body)


PASSING = {
    "slow": slow,
    "hang up": hang_up,
    "dropped stream": drop_in_the_middle,
    "stream without an end": stream(chunk("ans")),
    "429": status(429),
    "429 with a time": status(429, Retry_After="0"),
    "500": status(500, "<html>oops</html>"),
    "502": status(502, ""),
    "503": status(503, '{"detail": "loading"}'),
    "no JSON": whole("{nonsense"),
    "a list": whole("[1]"),
    "no choices": whole({"choices": []}),
    "choices of another kind": whole({"choices": "none"}),
    "null content": whole({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
    "no message": whole({"choices": [{"finish_reason": "stop"}]}),
    "error in a 200": whole({"error": {"message": "out of memory"}}),
    "error in the stream": stream(chunk("ans") + 'data: {"error": {"message": "died"}}\n\n'),
    "no JSON in the stream": stream("data: {nonsense\n\n"),
    "null stream": stream(chunk() + chunk(finish="stop") + "data: [DONE]\n\n"),
}


def keep_alive_for_ever(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(200):
            handler.wfile.write(b": still here\n\n")
            handler.wfile.flush()
            time.sleep(0.05)
