"""Rung 1 of a converted model: which weights of its programs are those of the other side, which were compressed, skipped, or are others.

    told = compare_converted(reference_artifact, candidate_artifact)
    told.words      # ["130 of 161 weights are the same values", "28 are compressed (int8, a scale per channel; largest error 0.9 % in ...)", ...]

Pure functions of two ``artifact.json``. What the conversion recorded (the error against torch's value, why a weight was skipped) is believed
only where the hashes cannot settle it: a compressed value has another hash by right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

from workbench.parity.comparison import Table

Tensor = Mapping[str, Any]
ROUNDED = 1e-3
"""Relative L2 that rounding to float16 makes at most: half a unit roundoff (2**-11) is 5e-4; below its normal numbers a little more."""
NAMED = 3
SHOWN = 60
LEAST = 1024
"""Elements from which on a matrix counts as one to compress: smaller ones are not asked about."""
SAME = frozenset({"same values", "added by the converter"})
PLAIN = ("none", "cast", None)
FLOATS = {"F16": "float16", "F32": "float32", "BF16": "bfloat16", "F64": "float64"}
HALVES = ("F16", "BF16")
ROUNDING = {"F16": ROUNDED, "BF16": 8 * ROUNDED}
"""The same of each: bfloat16 has 8 bits where float16 has 11."""
ALTERED = "compressed, and not as recorded"
ASKED = {"fp32": "F32", "fp16": "F16"}
"""A recipe's precision as weights name theirs."""


@dataclass(frozen=True)
class Weight:
    """One weight of the converted side, and what it was found to be. ``twin``: its name on the other side."""

    name: str
    kind: str
    tensor: Tensor
    twin: str | None = None

    @property
    def error(self) -> float | None:
        return self.tensor.get("error")

    @property
    def where(self) -> str:
        """``lm_head.weight (linear, model.lm_head, modeling_llava.py:210)``."""
        return f"{self.name}{origin_text(self.tensor)}"


@dataclass
class Told:
    """``words``: what there is to say; ``broken``: is any of it a difference? ``facts`` for the report."""

    words: list[str]
    broken: bool
    tables: tuple[Table, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def is_converted(held: Mapping[str, Any] | None) -> bool:
    return bool(held and isinstance(held.get("converted"), Mapping))


def origin_text(found: Mapping[str, Any]) -> str:
    parts = [str(found[name]) for name in ("op", "module", "line") if found.get(name)]
    return f" ({', '.join(parts)})" if parts else ""


def compare_converted(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> Told:
    """Of two converted sides the candidate's weights are told; of one, that one's, whichever side it is."""
    swapped = not is_converted(candidate)
    mine, theirs = (reference, candidate) if swapped else (candidate, reference)
    other = theirs["tensors"]
    asked = (mine["converted"].get("recipe") or {}).get("precision")
    weights = [judged(name, tensor, other, str(asked)) for name, tensor in mine["tensors"].items()]
    paired = {weight.twin for weight in weights}
    known = {content(tensor) for name, tensor in other.items() if name in paired}
    # A tied weight lies twice in a checkpoint, or in two programs of a converted model.
    left = [name for name, tensor in other.items() if name not in paired and content(tensor) not in known]
    groups: dict[str, list[Weight]] = {}
    for weight in weights:
        groups.setdefault(weight.kind, []).append(weight)
    words, broken = told_precision(mine["converted"], groups)
    moved = told_scales(mine["converted"])
    words += moved + told_groups(groups, len(weights)) + told_kept(mine["converted"])
    broken = broken or bool(moved) or any(kind not in (*SAME, "of no single weight") for kind in groups)
    words += told_left(left, swapped)
    return Told(words, broken, tables_of(weights, left, other), facts_of(mine, weights, groups, left))


def judged(name: str, tensor: Tensor, other: Mapping[str, Tensor], asked: str) -> Weight:
    """What one weight is. ``asked``: the precision of the recipe."""
    twin = next((each for each in (name, tensor.get("of")) if each in other), None) or by_content(tensor, other)
    if twin is None:
        return Weight(name, kind_without_twin(tensor), tensor)
    return Weight(name, kind_of(tensor, other[twin], asked), tensor, twin)


def kind_without_twin(tensor: Tensor) -> str:
    """Of a constant that torch computes from weights, what the conversion recorded: it ran the same operations."""
    if tensor.get("how") == "added by the converter":
        return "added by the converter"
    if is_compressed(tensor):
        return "compressed"
    return "other values" if (tensor.get("error") or 0.0) > ROUNDED else "of no single weight"


def kind_of(tensor: Tensor, known: Tensor, asked: str) -> str:
    compressed = is_compressed(tensor)
    if compressed and known.get("kind") == tensor.get("kind") and known["hash"] == tensor["hash"]:
        return "same values"
    if compressed:
        return "compressed" if as_recorded(tensor, known) else ALTERED
    if same_values(tensor, known):
        return "same values"
    if tensor["dtype"] in HALVES and rounded(tensor, known):
        name = FLOATS[tensor["dtype"]]
        return f"rounded to {name}" if asked_for(tensor["dtype"], asked) else f"{name}, not asked for"
    if tensor.get("turned") and tensor["turned"] in (known["hash"], known.get("half"), known.get("single")):
        return "transposed"
    return "other values"


def as_recorded(tensor: Tensor, known: Tensor) -> bool:
    """Can a compressed weight be that of which the conversion recorded its error? Its root mean square tells, whatever the hash.

    An error E (relative L2) moves it by E at most. One of rounding to whole levels is at a right angle to the values, or against them where
    they round to 0: of N values in int8 it moves it by E² / 2, and by chance by E / sqrt(N). Six times both is allowed.
    """
    error, mine, theirs = tensor.get("error"), tensor.get("rms"), known.get("rms")
    if error is None or not mine or not theirs or is_compressed(known) or tensor.get("sampled") or known.get("sampled"):
        return True
    whole = 3 * error**2 + 6 * error / sqrt(max(1, prod(tensor["shape"])))
    return bool(abs(mine / theirs - 1) <= (min(error, whole) if tensor.get("kind") == "int8" else error) * 1.001 + 1e-6)


def same_values(tensor: Tensor, known: Tensor) -> bool:
    alike = without_ones(tensor) == without_ones(known)
    if tensor["hash"] == known["hash"] and tensor["dtype"] == known["dtype"]:
        return alike
    if tensor["dtype"] == "F32" and known["dtype"] in HALVES and "single" in known and not tensor.get("sampled"):
        return alike and known["single"] == tensor["hash"]
    # Beyond the sizes that are hashed whole, and in another layout than the checkpoint's, only the conversion could tell.
    unknown = tensor.get("sampled") or known.get("sampled") or not alike or known["dtype"] in HALVES
    return bool(unknown and tensor.get("error") == 0)


def without_ones(tensor: Tensor) -> list[int]:
    return [size for size in tensor["shape"] if size != 1]


def asked_for(dtype: str, asked: str) -> bool:
    """Does the recipe's precision ask for weights of the type? int8 has its floats in float32."""
    return asked == "bf16" if dtype == "BF16" else asked not in ("fp32", "bf16", "int8-qdq")


def rounded(tensor: Tensor, known: Tensor) -> bool:
    half = known.get("half") if tensor["dtype"] == "F16" else None
    if tensor["hash"] in (half, known["hash"]):
        return True
    error = tensor.get("error")
    unknown = half is None or tensor.get("sampled")
    return bool(unknown and error is not None and error <= ROUNDING[tensor["dtype"]])


def by_content(tensor: Tensor, other: Mapping[str, Tensor]) -> str | None:
    """Of a weight without a name in the checkpoint, one of the same values, in float16 their rounding."""
    for name, known in other.items():
        same = tensor["hash"] == known["hash"] and tensor["dtype"] == known["dtype"]
        rounding = tensor["dtype"] == "F16" and tensor["hash"] == known.get("half")
        if (same or rounding) and without_ones(tensor) == without_ones(known):
            return name
    return None


def content(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor["hash"], tensor["dtype"], *tensor["shape"])


def told_precision(converted: Mapping[str, Any], groups: Mapping[str, Sequence[Weight]]) -> tuple[list[str], bool]:
    """(what computes or is stored in a float type that was not asked for, is there any?)"""
    asked = (converted.get("recipe") or {}).get("precision")
    found = [(name, each) for name, stage in (converted.get("stages") or {}).items() for each in stage.get("other") or ()]
    count = sum(stage.get("others") or 0 for stage in (converted.get("stages") or {}).values())
    stored = [weight for name in ("float16", "bfloat16") for weight in groups.get(f"{name}, not asked for", ())]
    parts = []
    if count:
        first = f": the first is {found[0][1]['value']} of {found[0][0]}{origin_text(found[0][1])}" if found else ""
        parts.append(f"{count:,} {'op computes' if count == 1 else 'ops compute'} in {float_name(found)}{first}")
    if stored:
        parts.append(
            f"{len(stored):,} {'weight is' if len(stored) == 1 else 'weights are'} stored in {FLOATS[stored[0].tensor['dtype']]}: {named(stored)}"
        )
    return ([f"{FLOATS.get(ASKED.get(str(asked), ''), asked)} was asked for, and {' and '.join(parts)}"] if parts else []), bool(
        parts
    )


def float_name(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    kinds = {str(each.get("dtype")) for _, each in found} or {"another type"}
    return " and ".join(sorted({"fp16": "float16", "fp32": "float32"}.get(kind, kind) for kind in kinds))


def told_groups(groups: Mapping[str, Sequence[Weight]], total: int) -> list[str]:
    words = []
    for kind, sentence in (
        ("transposed", "stored transposed, which its op does not undo"),
        ("other values", "of other values"),
        (ALTERED, "compressed, but other than its conversion recorded"),
    ):
        if kind in groups:
            many = groups[kind]
            words.append(
                f"{len(many):,} of {total:,} weights {'is' if len(many) == 1 else 'are'} {sentence}: "
                f"{named(many, recorded_words if kind == ALTERED else error_words)}"
            )
    words += told_compressed(groups, total)
    same = len(groups.get("same values", ()))
    if same:
        words.append(f"{same:,} of {total:,} weights {'has' if same == 1 else 'have'} the same values")
    for name in ("float16", "bfloat16"):
        if half := groups.get(f"rounded to {name}"):
            many = "weight is" if len(half) == 1 else "weights are"
            words.append(f"{len(half):,} {many} stored in {name}, as asked")
    if added := groups.get("added by the converter"):
        many = "constant is" if len(added) == 1 else "constants are"
        words.append(f"{len(added):,} {many} the converter's own, one number over and over")
    if unpaired := groups.get("of no single weight"):
        one = len(unpaired) == 1
        words.append(
            f"{len(unpaired):,} {'constant stems' if one else 'constants stem'} from no single weight and {'is' if one else 'are'} listed"
        )
    return words


def kept_fp32(converted: Mapping[str, Any]) -> dict[str, int]:
    """By reason, the ops of all stages that stay fp32 in another precision, the most frequent first."""
    found: dict[str, int] = {}
    for stage in (converted.get("stages") or {}).values():
        for reason, count in (stage.get("kept") or {}).items():
            found[str(reason)] = found.get(str(reason), 0) + int(count)
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def told_kept(converted: Mapping[str, Any]) -> list[str]:
    kept = kept_fp32(converted)
    if not kept:
        return []
    total = sum(kept.values())
    shown = ", ".join(f"{count:,} ({reason})" for reason, count in list(kept.items())[:NAMED]) + (
        " and others" if len(kept) > NAMED else ""
    )
    return [f"{total:,} {'op stays' if total == 1 else 'ops stay'} float32, as the recipe says: {shown}"]


def told_scales(converted: Mapping[str, Any]) -> list[str]:
    """Scales of Q/DQ that are not those that the calibration wrote down."""
    found = [(name, each) for name, stage in (converted.get("stages") or {}).items() for each in stage.get("scales") or ()]
    if not found:
        return []
    shown = ", ".join(f"{each['value']} of {name} ({each['found']:.3g} for {each['recorded']:.3g})" for name, each in found[:NAMED])
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    many = "scale is" if len(found) == 1 else "scales are"
    return [f"{len(found):,} {many} not what the calibration recorded: {shown}{more}"]


def told_compressed(groups: Mapping[str, Sequence[Weight]], total: int) -> list[str]:
    words = []
    done = groups.get("compressed", ())
    ways = dict.fromkeys(str(weight.tensor.get("compression") or weight.tensor.get("kind")) for weight in done)
    for way in ways:
        mine = [weight for weight in done if str(weight.tensor.get("compression") or weight.tensor.get("kind")) == way]
        known = [weight for weight in mine if weight.error is not None]
        worst = max(known, key=lambda weight: weight.error or 0.0, default=None)
        largest = f"; largest error {100 * (worst.error or 0.0):.2g} %, in {worst.name}" if worst else ""
        words.append(f"{len(mine):,} of {total:,} weights {'is' if len(mine) == 1 else 'are'} compressed ({way}{largest})")
    skipped = [weight for many in groups.values() for weight in many if is_skipped(weight.tensor)]
    if skipped:
        was = "was" if len(skipped) == 1 else "were"
        words.append(f"{len(skipped):,} {was} to be compressed and {was} not: {named(skipped, reason_words)}")
    return words


def is_compressed(tensor: Tensor) -> bool:
    """Is it stored in another way, and not larger for it?"""
    stored, dense = tensor.get("stored_bytes"), tensor.get("dense_bytes")
    return tensor.get("kind") not in PLAIN and not (stored and dense and stored > dense)


def is_skipped(tensor: Tensor) -> bool:
    """Was compression asked for and left out? Vectors and the converter's own constants are never compressed, and say nothing."""
    if is_compressed(tensor) or not (tensor.get("why_not") or tensor.get("kind") not in PLAIN):
        return False
    matrix = len(without_ones(tensor)) > 1 and prod(tensor["shape"]) >= LEAST
    return matrix and tensor.get("how") != "added by the converter"


def reason_words(weight: Weight) -> str:
    return f" ({weight.tensor.get('why_not') or 'stored otherwise, and larger for it'})"


def told_left(left: Sequence[str], swapped: bool) -> list[str]:
    if not left:
        return []
    shown = ", ".join(left[:NAMED]) + (" and more" if len(left) > NAMED else "")
    one = len(left) == 1
    return [
        f"{len(left):,} {'weight' if one else 'weights'} of the {'candidate' if swapped else 'reference'} {'is' if one else 'are'} in no program: {shown}"
    ]


def named(weights: Sequence[Weight], more: Callable[[Weight], str] = lambda weight: "") -> str:
    shown = ", ".join(f"{weight.where}{more(weight)}" for weight in weights[:NAMED])
    return shown + (f" and {len(weights) - NAMED:,} more" if len(weights) > NAMED else "")


def recorded_words(weight: Weight) -> str:
    return f", recorded as {100 * (weight.error or 0.0):.2g} % away"


def error_words(weight: Weight) -> str:
    """The hashes say that it is another: an error that is too small for that is of what the conversion wrote, not of what is there now."""
    if weight.error is None:
        return ""
    said = f"{100 * weight.error:.2g} %"
    return f", {said} away" if weight.error > ROUNDED else f", though its conversion recorded an error of {said}"


def tables_of(weights: Sequence[Weight], left: Sequence[str], other: Mapping[str, Tensor]) -> tuple[Table, ...]:
    order = (
        "transposed",
        "other values",
        "float16, not asked for",
        "bfloat16, not asked for",
        ALTERED,
        "compressed",
        "of no single weight",
        "rounded to float16",
        "rounded to bfloat16",
        "added by the converter",
        "same values",
    )
    rows = [
        [
            weight.name,
            weight.kind if not is_skipped(weight.tensor) else f"{weight.kind}, not compressed",
            "×".join(map(str, weight.tensor["shape"])),
            weight.tensor.get("compression") or FLOATS.get(weight.tensor["dtype"], weight.tensor["dtype"]),
            None if weight.error is None else 100 * weight.error,
            weight.tensor.get("stored_bytes"),
            weight.tensor.get("dense_bytes"),
            weight.tensor.get("why_not"),
            ", ".join(map(str, weight.tensor.get("stages") or ())),
        ]
        for weight in sorted(weights, key=lambda each: (not is_skipped(each.tensor), order.index(each.kind)))
    ]
    rows += [[name, "in no program", "×".join(map(str, other[name]["shape"])), None, None, None, None, None, ""] for name in left]
    note = f"{len(rows) - SHOWN:,} more are not shown; artifact.json lists all" if len(rows) > SHOWN else None
    columns = ("weight", "what", "shape", "stored as", "error (%)", "stored bytes", "dense bytes", "why not compressed", "stages")
    return (Table("Weights of the converted model", columns, rows[:SHOWN], note),)


def facts_of(
    mine: Mapping[str, Any], weights: Sequence[Weight], groups: Mapping[str, Sequence[Weight]], left: Sequence[str]
) -> dict[str, Any]:
    return {
        "recipe": mine["converted"].get("label"),
        "weights_compared": len(weights),
        "weights_by_kind": {kind: len(many) for kind, many in groups.items()},
        "compressed": len(groups.get("compressed", ())),
        "asked_not_compressed": [weight.name for weight in weights if is_skipped(weight.tensor)],
        "stored_bytes": sum(weight.tensor.get("stored_bytes") or 0 for weight in weights),
        "dense_bytes": sum(weight.tensor.get("dense_bytes") or 0 for weight in weights),
        "kept_fp32": kept_fp32(mine["converted"]),
        "in_no_program": list(left),
    }
