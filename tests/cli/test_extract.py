"""``workbench extract`` as a user types it."""

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workbench.cli import extract as verb
from workbench.errors import ModelError, UsageError
from workbench.models import server_client
from workbench.run.bundle import Run
from workbench.run.runner import evaluate

pytest.importorskip("httpx_sse", reason="pip install 'parity-workbench[server]'")
pytest.importorskip("tenacity", reason="pip install 'parity-workbench[server]'")


class Handler(BaseHTTPRequestHandler):
    """Streams ``server.text``, or fails with 503 where it is None."""

    def log_message(self, *_):
        pass

    def reply(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, "application/json", b'{"data": [{"id": "llm"}]}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.text is None:
            self.reply(503, "application/json", b"{}")
            return
        chunk = {"choices": [{"delta": {"content": self.server.text}, "finish_reason": "stop"}]}
        self.reply(200, "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(server_client, "FIRST_WAIT_SECONDS", 0.001)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.text, made.url = True, "It is 7.", f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def typed(*words):
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers(dest="verb"))
    return verb.run(parser.parse_args(["extract", *map(str, words)]))


def test_extract_judge_and_do_nothing_twice(server, tmp_path, capsys):
    run = evaluate("mathvista-sample", f"server:{server.url}", runs=tmp_path, limit=5)
    server.text = "7"
    assert typed(run.folder, "--with", server.url) == 0
    said = capsys.readouterr().out
    assert f"official rules, extractions by server:{server.url}/v1#llm (prompt mathvista-extract-workbench-1)" in said
    assert "5 by the model, 0 by the official rules" in said and f"bundle: {run.folder}" in said
    assert typed(run.folder, "--with", server.url) == 0 and "nothing had to be done" in capsys.readouterr().out
    server.text = "Verdict: correct"
    assert typed(run.folder, "--with", f"{server.url}#llm", "--judge", "--as", "J") == 0
    said = capsys.readouterr().out
    assert "100.00 % correct" in said and "judge:J" in said and "untouched" in said
    assert Run(run.folder).results["extractor"]["n_model"] == 5


def test_json_and_item_errors(server, tmp_path, capsys):
    run = evaluate("mathvista-sample", f"server:{server.url}", runs=tmp_path, limit=3)
    server.text = None
    capsys.readouterr()
    assert typed(run.folder, "--with", f"server:{server.url}?retries=0", "--json") == 6
    assert json.loads(capsys.readouterr().out)["errors"] == 3
    assert typed(run.folder, "--with", f"server:{server.url}?retries=0", "--judge") == 6
    assert "tries the 3 items again" in capsys.readouterr().out


def test_what_is_wrong_is_said(server, tmp_path):
    with pytest.raises(UsageError, match="no run bundle"):
        typed(tmp_path, "--with", server.url)
    with pytest.raises(UsageError, match="--judge has its own prompt"):
        typed(tmp_path, "--with", server.url, "--judge", "--prompt", "x.txt")
    run = evaluate("mathvista-sample", f"server:{server.url}", runs=tmp_path / "runs", limit=2)
    with pytest.raises(UsageError, match="cannot read the prompt file"):
        typed(run.folder, "--with", server.url, "--prompt", tmp_path / "none.txt")
    with pytest.raises(ModelError, match="no server answers"):
        typed(run.folder, "--with", "http://127.0.0.1:9")
