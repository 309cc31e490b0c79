"""What a Core ML conversion is asked for: precision, compression, oldest system, states; checked before anything is converted.

Recipe(precision="fp16", quantize="int4-block32", target="iOS18", stateful=True).label   # "fp16 int4-block32 iOS18 stateful"
Recipe.from_options({"quantize": "palette4", "stateful": "false"})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from workbench.errors import UsageError

PRECISIONS = ("fp32", "fp16")
TARGETS = ("iOS17", "iOS18")
"""iOS17 is macOS 14 and its siblings, iOS18 is macOS 15."""
QUANTIZATIONS = {
    "int8": "8-bit integers, linear and symmetric, a scale per output channel",
    "int4-block32": "4-bit integers, linear and symmetric, a scale per 32 input channels (from iOS18 on)",
    "palette4": "a table of 16 values a weight, found by k-means",
    "palette6": "a table of 64 values a weight, found by k-means",
    "prune50": "the smaller half of a weight's values is 0 and not stored",
}
YES, NO = frozenset({"true", "yes", "1", "on"}), frozenset({"false", "no", "0", "off"})


@dataclass(frozen=True)
class Recipe:
    """``keep_fp32``: patterns of what stays fp32 in a conversion to fp16 (op types, MIL values, the project's layers, with ``*``).
    ``context``: positions of the cache, where the model's own are too many. Inputs and outputs are fp32 whatever the precision."""

    precision: str = "fp32"
    quantize: str | None = None
    target: str = "iOS18"
    stateful: bool = False
    keep_fp32: tuple[str, ...] = ()
    context: int | None = None

    def check(self) -> Recipe:
        """Itself. Raises UsageError naming what is not known or does not go together."""
        _known("precision", self.precision, PRECISIONS)
        _known("target", self.target, TARGETS)
        if self.quantize is not None:
            _known("quantize", self.quantize, QUANTIZATIONS)
        if self.target != "iOS18":
            if self.quantize == "int4-block32":
                raise UsageError(
                    f"int4-block32 cannot be stored for {self.target}", why="4-bit blocks exist from iOS18 on", fix="target=iOS18"
                )
            if self.stateful:
                raise UsageError(
                    f"a model for {self.target} cannot keep states",
                    why="states exist from iOS18 on",
                    fix="target=iOS18 or stateful=false",
                )
        if self.keep_fp32 and self.precision == "fp32":
            raise UsageError(
                f"keep_fp32={','.join(self.keep_fp32)} means nothing in fp32", why="every op is fp32 already", fix="precision=fp16"
            )
        if self.context is not None and (isinstance(self.context, bool) or not isinstance(self.context, int) or self.context < 2):
            raise UsageError(f"context={self.context!r} is no number of positions", fix="context=512")
        return self

    @property
    def label(self) -> str:
        """All of it in words for people: ``fp16 int4-block32 iOS18 stateful``."""
        parts = [self.precision, self.quantize or "", self.target, "stateful" if self.stateful else ""]
        parts += [f"keep-fp32({','.join(self.keep_fp32)})" if self.keep_fp32 else ""]
        parts += [f"context{self.context}" if self.context is not None else ""]
        return " ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Every field, for a manifest."""
        return {**asdict(self), "keep_fp32": list(self.keep_fp32)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """What ``to_json`` wrote. Raises UsageError for fields that are not known."""
        _fields(value)
        return cls(**{**value, "keep_fp32": tuple(value.get("keep_fp32", ()))}).check()

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Recipe:
        """From words a user typed; ``keep_fp32`` is separated by commas. States are the default where the target has them.

        Raises UsageError naming the option.
        """
        _fields(options)
        target = options.get("target", cls.target)
        stateful = str(options.get("stateful", target == "iOS18")).lower()
        if stateful not in YES | NO:
            raise UsageError(f"stateful={options['stateful']!r} is neither true nor false", fix="stateful=true")
        quantize = options.get("quantize")
        context: Any = options.get("context") or None
        if context is not None:
            if not str(context).isdigit():
                raise UsageError(f"context={context!r} is no number of positions", fix="context=512")
            context = int(context)
        kept = tuple(part.strip() for part in (options.get("keep_fp32") or "").split(",") if part.strip())
        return cls(
            precision=options.get("precision", cls.precision),
            quantize=None if quantize in (None, "", "none") else quantize,
            target=target,
            stateful=stateful in YES,
            keep_fp32=kept,
            context=context,
        ).check()


def _fields(given: Mapping[str, Any]) -> None:
    for name in given:
        _known("recipe option", name, [field.name for field in fields(Recipe)])


def _known(what: str, name: Any, known: Any) -> None:
    if name not in known:
        near = get_close_matches(str(name), list(known), n=1)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise UsageError(f"{what} {name!r} is not known", why=f"known: {', '.join(known)}", fix=fix)
