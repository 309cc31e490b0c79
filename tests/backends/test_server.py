"""The backend of served models says what it cannot know, and what is missing."""

import builtins

import pytest

from workbench.backends.hardware import describe_hardware
from workbench.errors import RuntimeMissing, UsageError
from workbench.models import options
from workbench.models.server_client import import_libraries
from workbench.registry import backend_names, get_backend


def test_nothing_is_claimed_about_the_other_side():
    backend = get_backend("server")
    assert "server" in backend_names() and backend.evidence({}) == "server"
    assert backend.device({})["kind"] == "server" and backend.device({})["memory_bytes"] is None
    assert backend.peak_memory_bytes() is None and backend.prepare({}) == {} and backend.distributions == ()
    assert "peak_memory_source" not in describe_hardware("server")


def test_missing_libraries_are_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "httpx_sse":
            raise ImportError("No module named 'httpx_sse'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeMissing, match=r"(?s)httpx_sse.*parity-workbench\[server\]"):
        import_libraries()


def test_options_of_a_server():
    found = options.read("server", {"retries": "0", "timeout": "7", "stream": "false"})
    assert (found["retries"], found["timeout"], found["concurrency"], found["stream"]) == (0, 7, 4, "false")
    for wrong in ({"timeout": "0"}, {"retries": "-1"}, {"stream": "yes"}, {"dtype": "float32"}, {"concurrency": "0"}):
        with pytest.raises(UsageError):
            options.read("server", wrong)


def test_what_cannot_change_an_answer_is_not_in_the_key():
    given = {"timeout": "7", "retries": "1", "api_key_env": "MINE", "concurrency": "2", "max_pixels": "9"}
    assert options.in_key("server", given) == {"concurrency": "2", "max_pixels": "9"}
    assert options.in_key("torch", {"threads": "2", "dtype": "float32"}) == {"dtype": "float32", "threads": "2"}
