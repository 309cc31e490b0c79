"""Vision-language models behind an OpenAI-compatible server, asked over HTTP.

    model = open_vision_language(ModelSpec.parse("server:http://127.0.0.1:8080#vlm?concurrency=8"))
    outputs = model.answer(requests, Generation(max_tokens=16))

Images travel as they are encoded in the data set; what the server's chat template and preprocessing make of them is not
known. Up to ``concurrency`` requests are under way at once, each in a thread of its own and with a clock of its own.
"""

from __future__ import annotations

import base64
import io
import math
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from workbench.errors import ItemError, ModelError, UsageError
from workbench.models import options as known
from workbench.models.answering import cut
from workbench.models.server_client import Address, Refused, Reply, ServerClient, read_address
from workbench.types import Generation, Media, ModelSpec, Output, Request, Timing

KEY_NAMES = ("WORKBENCH_SERVER_KEY", "OPENAI_API_KEY")
NOTES = (
    "the server's chat template and image preprocessing are not known",
    "each time is one request's, the network and the server's queue included; other requests were under way at the same time",
    "token counts are the server's own; 0 where it sends none",
)
SENT_AS_THEY_ARE = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""First bytes of the encodings that servers take; WebP has its name at byte 8."""


class ServerVisionLanguage:
    """A model on a server; made by ``workbench.models.loading.open_vision_language``."""

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]):
        self.spec, self.options = spec, options
        self.batch_size: int = options["concurrency"]
        self.address, self.client = connect(spec, options)
        try:
            self.model, self.listing = choose(self.address, self.client)
        except BaseException:
            self.client.close()
            raise
        self._accepted = False

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order. Raises ModelError when the server's first word is that our key is not accepted."""
        stopping = threading.Event()
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        answered: queue.SimpleQueue[tuple[int, Output | BaseException]] = queue.SimpleQueue()
        for index in range(len(requests)):
            waiting.put(index)

        def work() -> None:
            while not stopping.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    answered.put((index, self._answer(requests[index], generation, stopping)))
                except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
                    answered.put((index, error))

        outputs: list[Output | None] = [None] * len(requests)
        try:
            # Daemon threads: one that waits for a slow server does not keep an interrupted process alive.
            for _ in range(min(self.batch_size, len(requests))):
                threading.Thread(target=work, name="workbench request", daemon=True).start()
            for _ in requests:
                index, found = answered.get()
                if isinstance(found, BaseException):
                    raise found
                outputs[index] = found
        finally:
            stopping.set()
        return outputs  # type: ignore[return-value]  every place was filled above

    def describe(self) -> dict[str, Any]:
        """What is known of the other side: little."""
        return {
            "class": "OpenAI-compatible server",
            "url": self.address.label,
            "model": self.client.safe(public_name(self.model)),
            "owned_by": self._listed("owned_by", str),
            "created": self._listed("created", int),
            "concurrency": self.batch_size,
            "stream": self.client.stream,
            "image_position": self.options["image_position"],
            "image_detail": self.options["image_detail"] or None,
            "min_pixels": self.options["min_pixels"],
            "max_pixels": self.options["max_pixels"],
            "preprocessing": "unknown, the server's own",
            "prompt": "unknown, the server's own chat template",
            "notes": list(NOTES),
        }

    def _listed(self, name: str, kind: type) -> Any:
        """A field of the server's own list; None where it is of another kind, and text without what may not be repeated."""
        value = self.listing.get(name)
        return None if not isinstance(value, kind) else self.client.safe(value) if kind is str else value

    def close(self) -> None:
        """Let the connections go."""
        self.client.close()

    def _answer(self, request: Request, generation: Generation, stopping: threading.Event) -> Output:
        began = time.perf_counter()
        try:
            body = self._body(request, generation)
        except (ItemError, MemoryError) as error:
            return Output.failed(error)
        prepared = time.perf_counter() - began
        try:
            reply = self.client.chat(body, stopping)
        except Refused as error:
            status, said = error.args
            if not self._accepted:
                raise self.client.not_accepted(status) from error
            return Output.failed(ItemError(f"the server refused the request with status {status}", reason="server", why=said))
        except ItemError as error:
            return Output.failed(error)
        self._accepted = True
        return output_of(reply, generation, prepared)

    def _body(self, request: Request, generation: Generation) -> dict[str, Any]:
        """The JSON of one request. Raises ItemError for images that cannot be used."""
        text = request.inputs["text"]
        detail = {"detail": self.options["image_detail"]} if self.options["image_detail"] else {}
        pictures = [
            {"type": "image_url", "image_url": {"url": self._data_url(media), **detail}}
            for media in request.inputs.get("images", ())
        ]
        words = [{"type": "text", "text": text}]
        first = self.options["image_position"] == "first"
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": (pictures + words if first else words + pictures) if pictures else text}],
            "temperature": generation.temperature,
            "max_tokens": generation.max_tokens,
            "seed": generation.seed,
            "stream": self.client.stream,
        }
        if generation.stop:
            body["stop"] = list(generation.stop)
        if self.client.stream:
            body["stream_options"] = {"include_usage": True}
        return body

    def _data_url(self, media: Media) -> str:
        picture = media.image()  # an image that no other runtime could read is not sent either
        data = media.read()
        kind = next((kind for start, kind in SENT_AS_THEY_ARE if data.startswith(start)), None)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            kind = "image/webp"
        size = limited(picture.width, picture.height, self.options["min_pixels"], self.options["max_pixels"])
        if kind is None or size != picture.size:
            from PIL import Image

            written = io.BytesIO()
            (picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)).save(written, "PNG")
            data, kind = written.getvalue(), "image/png"
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def output_of(reply: Reply, generation: Generation, prepared: float) -> Output:
    """The answer, cut at a stop string and stripped as on every runtime; its time starts before the images were encoded."""
    timing = Timing(
        prepared, None if reply.first is None else prepared + reply.first, prepared + reply.total, reply.n_in, reply.n_out
    )
    text = cut(reply.text, generation.stop) if generation.stop else reply.text
    return Output(value=text.strip(), tokens=None, finish=reply.finish, timing=timing)  # type: ignore[arg-type]


def limited(width: int, height: int, least: int | None, most: int | None) -> tuple[int, int]:
    """The size within the limits on the number of pixels, in the same proportions."""
    pixels, scale = width * height, 1.0
    if most and pixels > most:
        scale = math.sqrt(most / pixels)
    elif least and pixels < least:
        scale = math.sqrt(least / pixels)
    if scale == 1.0:
        return width, height
    rounded = math.floor if scale < 1 else math.ceil
    return max(1, rounded(width * scale)), max(1, rounded(height * scale))


def connect(spec: ModelSpec, options: Mapping[str, Any]) -> tuple[Address, ServerClient]:
    """The server's address and a client with the user's key. Raises UsageError."""
    if spec.adapter:
        raise UsageError("a server's model takes no adapter from here", fix="give it to the server when it starts")
    address = read_address(spec.source)
    key, name = find_key(options["api_key_env"])
    client = ServerClient(
        address,
        key,
        timeout=options["timeout"],
        retries=options["retries"],
        stream=options["stream"] == "true",
        key_name=name,
        connections=options["concurrency"],
    )
    return address, client


def find_key(name: str) -> tuple[str | None, str]:
    """(key or None, the environment variable that holds it or should). Raises UsageError when a named one is not usable."""
    used = name or next((each for each in KEY_NAMES if os.environ.get(each)), KEY_NAMES[0])
    key = os.environ.get(used, "").strip()
    if name and not key:
        raise UsageError(f"the environment variable {name} holds no key", why="api_key_env names it", fix=f"export {name}=...")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the key in {used} cannot be sent", why="it holds other characters than printable ASCII", fix=f"export {used}=..."
        )
    return key or None, used


def choose(address: Address, client: ServerClient) -> tuple[str, dict[str, Any]]:
    """(the model's name on the server, its entry in the server's list or {}). Raises ModelError when the choice is not clear."""
    listed = {entry["id"]: entry for entry in client.models()}
    if address.model:
        return address.model, listed.get(address.model, {})
    if len(listed) == 1:
        return next(iter(listed.items()))
    names = [client.safe(public_name(name)) for name in listed]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    raise ModelError(
        f"the server at {address.label} serves {len(names)} models",
        why=f"they are {', '.join(names[:10])}{more}" if names else "it does not list any",
        fix=f"--model 'server:{address.label}#{names[0] if names else 'NAME'}'",
    )


def public_name(model: str) -> str:
    """A model's name without the folders above it: some servers name a model by its path."""
    if PurePosixPath(model).is_absolute():
        return PurePosixPath(model).name
    return PureWindowsPath(model).name if PureWindowsPath(model).is_absolute() else model


def identify_served(spec: ModelSpec) -> dict[str, Any]:
    """What the run key holds of a served model: address, name and owner. The weights are unknown, and said to be.

    The list's ``created`` is left out: vLLM and llama.cpp put the time of the request there, mlx-vlm that of its start, so a
    run could not be continued. It is kept in the bundle's events.
    """
    address, client = connect(spec, known.read("server", spec.options))
    try:
        model, entry = choose(address, client)
        owner = entry.get("owned_by")
        return {
            "source": f"{address.label}#{client.safe(public_name(model))}",
            "revision": None,
            "weights": None,
            "config": None,
            "format": "unknown",
            "size_bytes": None,
            "owned_by": client.safe(owner) if isinstance(owner, str) else None,
        }
    finally:
        client.close()
