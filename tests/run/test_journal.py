"""The journal keeps whole lines, whatever happens to its writer."""

import json
import os
import random
import subprocess
import sys

import pytest

from workbench.errors import BundleError
from workbench.run import journal


def test_a_torn_last_line_is_cut_off_at_every_length(tmp_path):
    path = tmp_path / "samples.jsonl"
    records = [{"id": str(number), "text": "é\n" * number} for number in range(5)]
    whole = b"".join(journal.encode(record) for record in records)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = max([end for end in ends if end <= length], default=0)
        assert list(journal.read(path)) == records[: ends.index(kept) + 1 if kept else 0]
        assert journal.repair(path) == length - kept
        assert path.read_bytes() == whole[:kept]


def test_repair_finds_the_last_newline_before_a_very_long_torn_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"id":1}\n' + b"x" * 300_000)
    assert journal.repair(path) == 300_000
    assert list(journal.read(path)) == [{"id": 1}]


def test_damage_before_the_last_line_is_an_error_not_a_loss(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"id":1}\n{"id"\n{"id":3}\n')
    with pytest.raises(BundleError, match="damaged at line 2"):
        list(journal.read(path))


def test_every_text_a_model_may_emit_survives(tmp_path):
    random.seed(1)
    texts = [
        "\ud800 lone surrogate",
        "line\u2028separator\x85\r\n\x00",
        "𝔘 <b>",
        "".join(chr(random.randrange(1, 0xD7FF)) for _ in range(500)),
    ]
    with journal.Journal(tmp_path / "j.jsonl") as opened:
        opened.append(*({"value": text} for text in texts))
    assert [line["value"] for line in journal.read(tmp_path / "j.jsonl")] == texts


FULL_DISK = """
import resource, sys
from pathlib import Path
from workbench.errors import BundleError
from workbench.run import journal
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))   # the kernel refuses to grow a file beyond this: EFBIG
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with journal.Journal(Path(sys.argv[1])) as opened:
    try:
        for number in range(100):
            opened.append({"id": number, "text": "x" * 50})
    except BundleError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def test_a_full_disk_keeps_every_finished_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stdout and "try: free some space" in done.stdout
    ids = [line["id"] for line in journal.read(path)]
    assert ids == list(range(len(ids))) and len(ids) > 10
    assert journal.repair(path) == 0


def test_a_failing_disk_is_reported_by_the_next_append_or_close(tmp_path, monkeypatch):
    opened = journal.Journal(tmp_path / "j.jsonl")
    real = os.fsync

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    opened.append({"id": 1})
    with pytest.raises(BundleError, match="cannot write"):
        opened.close()
    monkeypatch.setattr(os, "fsync", real)
    assert [line["id"] for line in journal.read(tmp_path / "j.jsonl")] == [1]


def test_closing_syncs_what_was_written(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_size), real(number)))
    with journal.Journal(tmp_path / "j.jsonl") as opened:
        for number in range(50):
            opened.append({"id": number})
    assert synced[-1] == (tmp_path / "j.jsonl").stat().st_size > 0
    opened.close()


def test_a_replaced_file_is_old_or_new_never_half(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    journal.write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BundleError, match="no space left"):
        journal.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
