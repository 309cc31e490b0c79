"""Runs against a server: what fails is recorded and tried again, an interruption ends soon, and mlx-vlm's own server answers."""

import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workbench import locate
from workbench.errors import UsageError
from workbench.models import server_client
from workbench.run.bundle import Run
from workbench.run.runner import evaluate

pytest.importorskip("httpx_sse", reason="pip install 'parity-workbench[server]'")
pytest.importorskip("tenacity", reason="pip install 'parity-workbench[server]'")


class Handler(BaseHTTPRequestHandler):
    """Answers "A", or what the server's ``answer`` says: a status, or seconds to wait."""

    def log_message(self, *_):
        pass

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever asked may have been interrupted
            self.wfile.write(data)

    def do_GET(self):
        # As vLLM does: the time of the request.
        owner = f"sent {self.headers.get('Authorization')}" if self.server.spiteful else "us"
        self.reply(200, {"data": [{"id": "m", "owned_by": owner, "created": int(time.time()) + random.randint(0, 999)}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        time.sleep(self.server.seconds)
        status = self.server.status(body)
        message = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}
        why = f"sent {self.headers.get('Authorization')}" if self.server.spiteful else "no"
        self.reply(status, message if status == 200 else {"error": why})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(server_client, "FIRST_WAIT_SECONDS", 0.01)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.asked, made.seconds, made.status = True, [], 0.0, lambda body: 200
    made.spiteful = False  # repeats the header that holds the key
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_run_goes_on_and_is_mended_later(server, tmp_path):
    model = f"server:http://127.0.0.1:{server.server_port}#m?retries=1&stream=false"
    bad = []

    def status(body):
        text = json.dumps(body["messages"])
        if len(bad) < 3 and text not in bad:
            bad.append(text)
        return 503 if text in bad else 200

    server.status = status
    run = evaluate("mmmu-sample", model, limit=10, runs=tmp_path)
    assert run.status == "complete" and run.results["item_errors"] == 3 and run.results["n"] == 10
    assert run.manifest["evidence"] == "server" and run.manifest["identity"]["weights"] is None
    failed = [item for item in run.items().values() if item["output"]["finish"] == "error"]
    assert all(item["output"]["error"]["reason"] == "server" and item["timing"] is None for item in failed)
    assert run.results["performance"]["peak_memory_bytes"] is None and run.results["performance"]["evidence"] == "server"
    before = len(server.asked)
    assert evaluate("mmmu-sample", model, limit=10, runs=tmp_path).was_complete and len(server.asked) == before
    server.status = lambda body: 200
    mended = evaluate("mmmu-sample", model, limit=10, runs=tmp_path, retry_errors=True)
    assert mended.folder == run.folder and mended.results["item_errors"] == 0 and len(server.asked) == before + 3
    assert {item["output"]["value"] for item in mended.items().values()} == {"A"}


@pytest.mark.parametrize(("login", "key"), [("", "sk-very-secret"), ("mara:opensesame@", "")])
def test_what_a_server_repeats_of_a_key_is_in_no_file(server, tmp_path, monkeypatch, login, key):
    monkeypatch.setenv("WORKBENCH_SERVER_KEY", key)
    server.spiteful = True
    server.status = lambda body: 400
    run = evaluate("mmmu-sample", f"server:http://{login}127.0.0.1:{server.server_port}#m?retries=0", limit=2, runs=tmp_path)
    assert run.results["item_errors"] == 2
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"***" in content
    for secret in (key, *login.rstrip("@").split(":"), base64.b64encode(login.rstrip("@").encode()).decode()):
        assert not secret or secret.encode() not in content


@pytest.mark.parametrize("kind", ["tokens", "inputs"])
def test_a_server_cannot_record_what_it_does_not_show_and_that_is_said_before_anything(server, tmp_path, kind):
    with pytest.raises(UsageError, match=f"server models cannot record {kind}"):
        evaluate("mmmu-sample", f"server:http://127.0.0.1:{server.server_port}#m", limit=2, runs=tmp_path, record=["media", kind])
    assert server.asked == [] and list(tmp_path.iterdir()) == []
    run = evaluate("mmmu-sample", f"server:http://127.0.0.1:{server.server_port}#m", limit=2, runs=tmp_path, record=["media"])
    assert all(run.media(sha256) for line in run.items().values() for sha256 in line["input"]["media"])


def test_a_server_that_dies_in_the_middle_costs_only_what_was_left(server, tmp_path):
    model = f"server:http://127.0.0.1:{server.server_port}#m?retries=0&concurrency=1&stream=false"
    server.status = lambda body: 200 if len(server.asked) <= 4 else 502
    run = evaluate("mmmu-sample", model, limit=6, runs=tmp_path)
    assert run.results["item_errors"] == 2


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_soon_and_the_run_continues(server, tmp_path):
    server.seconds = 0.0
    server.status = lambda body: setattr(server, "seconds", 60.0 if len(server.asked) >= 8 else 0.0) or 200
    model = f"server:http://127.0.0.1:{server.server_port}#m?stream=false&concurrency=2"
    command = [sys.executable, "-m", "workbench", "eval", "mmmu-sample", "--model", model, "--limit", "12", "--json"]
    # A test suite that runs in the background ignores SIGINT, and its children would too.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heeding)
    while len(server.asked) < 10 and running.poll() is None:
        time.sleep(0.02)
    began = time.perf_counter()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130 and "nothing is lost" in said
    assert time.perf_counter() - began < 5.0
    server.seconds, server.status = 0.0, lambda body: 200
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["runs"]
    events = [event for event in Run(tmp_path / row["run"]).events() if event["event"] in ("session", "interrupted")]
    assert [event["event"] for event in events] == ["session", "interrupted", "session"]
    assert events[-1]["done"] == 8 and row["item_errors"] == 0


LAUNCH = """
# mlx-vlm 0.7.10's LLaVA processor hands the text's padding to transformers' image processor, which refuses it: 500 for every image.
import runpy
from transformers.image_processing_utils import BaseImageProcessor
call = BaseImageProcessor.__call__
BaseImageProcessor.__call__ = lambda self, images, *rest, padding=None, **more: call(self, images, *rest, **more)
runpy.run_module("mlx_vlm.server", run_name="__main__")
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_mlx_vlms_own_server_end_to_end(tmp_path):
    pytest.importorskip("mlx_vlm", reason="pip install 'parity-workbench[mlx]'")
    folder, port = Path(locate.demo_model("vlm")).resolve(), free_port()
    log = open(tmp_path / "server.log", "w")  # noqa: SIM115  closed below
    command = [sys.executable, "-c", LAUNCH, "--model", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    serving = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert serving.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        model = f"server:http://127.0.0.1:{port}#{folder}"
        command = [sys.executable, "-m", "workbench", "eval", "mmmu-sample", "--model", model, "--limit", "10", "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    finally:
        serving.terminate()
        try:
            serving.wait(20)
        except subprocess.TimeoutExpired:
            serving.kill()
            serving.wait()
        log.close()
    (row,) = json.loads(done.stdout)["runs"]
    run = Run(tmp_path / row["run"])
    lines = run.items().values()
    assert len(lines) == 10 and row["item_errors"] == 0 and run.manifest["evidence"] == "server"
    assert all(line["timing"]["first"] and line["timing"]["n_in"] > 16 and line["timing"]["n_out"] for line in lines)
    assert str(folder) not in "".join(path.read_text() for path in run.folder.iterdir() if path.is_file())
    # The same weights in this process, with mlx-vlm's own preprocessing as the server has it.
    here = evaluate("mmmu-sample", "demo:vlm@mlx?preprocessing=own", limit=10, runs=tmp_path / "here").items()
    same = sum(line["output"]["value"] == here[line["id"]]["output"]["value"] for line in lines)
    print(f"score {row['headline']['value']}, {same} of 10 answers equal the in-process model's")
    assert same >= 8
