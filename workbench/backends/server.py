"""A model behind an OpenAI-compatible server: vLLM, llama.cpp, mlx-vlm's own server, or a hosted one.

>>> get_backend("server").evidence({})
'server'

Runtime and hardware are on the other side and are not seen, so nothing here measures memory or waits for a device.
"""

from __future__ import annotations

from typing import Any

from workbench.backends.base import Availability, Evidence
from workbench.backends.torch import package_availability
from workbench.registry import backend

FIX = "pip install 'parity-workbench[server]'"
PACKAGES = ("httpx", "httpx-sse", "tenacity")


@backend("server")
class ServerBackend:
    """The runtime behind ``server:http://...`` models."""

    name = "server"
    distributions = ()

    def available(self) -> Availability:
        """Are the HTTP libraries installed? Whether a server answers is known when a model is named."""
        return package_availability(PACKAGES, FIX)

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        return {}

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """What can be said of hardware that is not seen: nothing."""
        return {"name": "behind a server, not seen", "kind": "server", "memory_bytes": None}

    def evidence(self, options: dict[str, str]) -> Evidence:
        return "server"

    def synchronize(self) -> None:
        """An answer that has come is done."""

    def peak_memory_bytes(self) -> int | None:
        return None

    def reset_peak_memory(self) -> None:
        """The server's memory is not ours to measure."""
