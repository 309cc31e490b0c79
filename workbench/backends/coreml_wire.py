"""How this process and a worker that runs Core ML talk: one JSON message with arrays after it, over a socket pair.

    send(link, {"op": "predict", "model": 1}, {"tokens": tokens})
    message, arrays = Receiver(link).receive()

Arrays travel as raw bytes straight from and into numpy's memory. One that stays as it is (``mark`` "keep") is kept by the
receiver under its slot, and the next time only its place in the message is sent (``mark`` "same").
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

LENGTH = struct.Struct(">Q")
MOST_MESSAGE_BYTES = 1 << 28
"""A message is names and numbers; more than this is no message of ours."""
BUFFER_BYTES = 4 << 20


class Closed(ConnectionError):
    """The other side is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends with large buffers."""
    ends = socket.socketpair()
    for end in ends:
        for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # a system may allow less
                end.setsockopt(socket.SOL_SOCKET, side, BUFFER_BYTES)
    return ends


def send(
    link: socket.socket,
    message: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Send ``message`` and ``arrays``. ``marks``: name -> "keep" or "same"; the slot is the message's ``model`` and the name.

    Raises OSError when the other side is gone, TypeError for an array of objects.
    """
    listed, parts = [], []
    for name, given in (arrays or {}).items():
        mark = (marks or {}).get(name)
        array = np.asarray(given, order="C")
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} holds {array.dtype}")
        listed.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "mark": mark})
        if mark != "same" and array.nbytes:
            parts.append(array.reshape(-1).view(np.uint8).data)
    head = json.dumps({"message": dict(message), "arrays": listed}).encode()
    link.sendall(LENGTH.pack(len(head)) + head)
    for part in parts:
        link.sendall(part)


class Receiver:
    """One side's ear, with the arrays that are kept for it."""

    def __init__(self, link: socket.socket):
        self.link = link
        self.kept: dict[tuple[Any, str], np.ndarray] = {}

    def receive(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The next message and its arrays, which are writable. Raises Closed, and TimeoutError where the socket has a limit."""
        (length,) = LENGTH.unpack(bytes(self._exactly(bytearray(LENGTH.size))))
        if length > MOST_MESSAGE_BYTES:
            raise Closed(f"a message of {length:,} bytes is none of ours")
        head = json.loads(bytes(self._exactly(bytearray(length))))
        arrays = {}
        for item in head["arrays"]:
            slot = (head["message"].get("model"), item["name"])
            if item["mark"] == "same":
                arrays[item["name"]] = self.kept[slot]
                continue
            array = np.empty(tuple(item["shape"]), np.dtype(item["dtype"]))
            if array.nbytes:
                self._exactly(array.reshape(-1).view(np.uint8).data)
            if item["mark"] == "keep":
                self.kept[slot] = array
            arrays[item["name"]] = array
        return head["message"], arrays

    def forget(self, model: Any) -> None:
        """Drop what is kept for a model that was closed."""
        self.kept = {slot: array for slot, array in self.kept.items() if slot[0] != model}

    def _exactly(self, buffer: Any) -> Any:
        view, done = memoryview(buffer), 0
        while done < len(view):
            got = self.link.recv_into(view[done:])
            if got == 0:
                raise Closed("the other side is gone")
            done += got
        return buffer
