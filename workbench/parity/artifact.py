"""Rung 1: are these the same weights, and what was compressed? From ``artifact.json`` and the run keys.

A checkpoint converted for another runtime may name its weights otherwise: what has no namesake is paired by content, and
what is left over is listed. Same files loaded at another precision are the same artifact, read differently: that is said too. The
weights of a converted model have a reader of their own (``converted_artifact``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.parity.comparison import Rung, Table
from workbench.parity.converted_artifact import compare_converted, is_converted
from workbench.parity.sides import Side, flat

SHOWN = 40
QUANTISATION = "quantisation"
FIX = "run both with this version of `workbench eval`: it records every weight"


def artifact_rung(reference: Side, candidate: Side) -> Rung:
    """Compares hashes of the weights, their precisions, sizes and settings, and how both models were loaded."""
    sides = (reference, candidate)
    keys = [side.manifest["key"]["model"] for side in sides]
    facts: dict[str, Any] = {
        "weights": [short(key.get("weights")) for key in keys],
        "size_bytes": [key.get("size_bytes") for key in keys],
        "quantisation": [key.get("quantisation") for key in keys],
        "loaded_dtype": [side.loaded.get("dtype") for side in sides],
        "loaded_quantisation": [side.loaded.get("quantisation") for side in sides],
        "adapter": [key.get("adapter") for key in keys],
    }
    if None in facts["weights"]:
        unseen = ", ".join(side.label for side, key in zip(sides, keys, strict=True) if key.get("weights") is None)
        return Rung(1, "not run", f"The weights of {unseen} cannot be seen from here.", facts)
    loading = loading_differences(facts)
    if keys[0]["weights"] == keys[1]["weights"] and facts["adapter"][0] == facts["adapter"][1]:
        if loading:
            return Rung(1, "different", f"The same weight files, but loaded otherwise: {'; '.join(loading)}.", facts)
        loaded = f", loaded as {facts['loaded_dtype'][0]}" if facts["loaded_dtype"][0] else ""
        return Rung(1, "same", f"The same weight files ({size_text(facts['size_bytes'][0])}){loaded}.", facts)
    held = [artifact_of(side) for side in sides]
    adapters = [f"adapter {facts['adapter'][0]} and {facts['adapter'][1]}"] if facts["adapter"][0] != facts["adapter"][1] else []
    if keys[0]["weights"] == keys[1]["weights"]:
        return Rung(1, "different", f"The same weight files, but {'; '.join([*adapters, *loading])}.", facts)
    if held[0] is None or held[1] is None:
        return Rung(1, "different", f"{'; '.join(['The weight files differ', *adapters, *loading])}.", facts, fix=FIX)
    if is_converted(held[0]) or is_converted(held[1]):
        told_of = compare_converted(held[0], held[1])
        # Compression is told weight by weight already.
        loading = [f"the two are {each}" for each in loading if not each.startswith(QUANTISATION)]
        words = "; ".join([*told_of.words, *loading, *adapters])
        broken = told_of.broken or bool(loading or adapters)
        return Rung(1, "different" if broken else "same", f"{words}.", facts | told_of.facts, told_of.tables)
    found, table, numbers = compare_tensors(held[0], held[1])
    tables = (*([table] if table.rows else []), precision_table([held[0], held[1]]))
    facts |= numbers
    told = [*found, *loading, *adapters]
    if not told:
        return Rung(1, "same", "The weight files are packed otherwise, every weight in them is the same.", facts, tables)
    return Rung(1, "different", f"{'; '.join(told)}.", facts, tables)


def loading_differences(facts: Mapping[str, Any]) -> list[str]:
    """Precision and dequantisation in which two models of the same files were loaded."""
    found = []
    for name, words in (("loaded_dtype", "computed in"), ("loaded_quantisation", QUANTISATION)):
        before, after = facts[name]
        if before != after and (before or after):
            found.append(f"{words} {before or 'none'} and {after or 'none'}")
    return found


def artifact_of(side: Side) -> Mapping[str, Any] | None:
    """What is recorded of a side's files; None when no weight is listed."""
    return next((held for run in side.all_runs if (held := run.artifact) and held.get("tensors")), None)


def compare_tensors(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[list[str], Table, dict[str, Any]]:
    """(what differs in words, the weights that differ, counts) of two ``artifact.json``."""
    reference, candidate = first["tensors"], second["tensors"]
    names = pair_names(reference, candidate)
    rows: list[list[Any]] = []
    kinds: Counter[str] = Counter()
    for name, twin in names.items():
        before, after = reference[name], candidate[twin]
        if before["hash"] == after["hash"] and before["dtype"] == after["dtype"] and before["shape"] == after["shape"]:
            continue
        packed = quantised(name, first), quantised(twin, second)
        kind = (
            "compressed" if packed[0] != packed[1] else "another precision" if before["dtype"] != after["dtype"] else "other values"
        )
        if before["shape"] != after["shape"] and packed[0] == packed[1]:
            kind = "another shape"
        kinds[kind] += 1
        ratio = after["rms"] / before["rms"] if before.get("rms") and after.get("rms") else None
        rows.append(
            [
                name,
                kind,
                packed[0] or dtype_text(before),
                packed[1] or dtype_text(after),
                None if ratio is None else round(ratio, 4),
            ]
        )
    matched = set(names.values())
    only_reference = [name for name in reference if name not in names and not is_sidecar(name, first)]
    only_candidate = [name for name in candidate if name not in matched and not is_sidecar(name, second)]
    total = len(names)
    words = [f"{count} of {total} weights {told(kind, count, rows)}" for kind, count in kinds.most_common()]
    if only_reference or only_candidate:
        known = [{content(each) for each in side.values()} for side in (reference, candidate)]
        copies = sum(content(reference[name]) in known[1] for name in only_reference)
        copies += sum(content(candidate[name]) in known[0] for name in only_candidate)
        same = f" ({copies} of them with the values of another weight there, as tied ones have)" if copies else ""
        words.append(f"{len(only_reference)} weights only in the reference, {len(only_candidate)} only in the candidate{same}")
        rows += [[name, "only in the reference", dtype_text(reference[name]), None, None] for name in only_reference]
        rows += [[name, "only in the candidate", None, dtype_text(candidate[name]), None] for name in only_candidate]
    note = f"{len(rows) - SHOWN} more are not shown" if len(rows) > SHOWN else None
    table = Table("Weights that differ", ("weight", "what", "reference", "candidate", "RMS ratio"), rows[:SHOWN], note)
    counts = {"weights_compared": total, "weights_different": dict(kinds), "only_in": [len(only_reference), len(only_candidate)]}
    return words, table, counts


def told(kind: str, count: int, rows: list[list[Any]]) -> str:
    """``are compressed to 4-bit``, ``have other values (root mean square x 1.1)``; names a single weight."""
    mine = [row for row in rows if row[1] == kind]
    name = f": {mine[0][0]}" if count == 1 else ""
    verb = "is" if count == 1 else "are"
    if kind == "compressed":
        return f"{verb} compressed ({mine[0][2]} to {mine[0][3]}){name}"
    if kind == "another precision":
        return f"{verb} stored in {mine[0][3].split()[0]} instead of {mine[0][2].split()[0]}{name}"
    if kind == "another shape":
        return f"{verb} of another shape{name}"
    ratios = sorted({row[4] for row in mine if row[4] is not None})
    scale = f" (root mean square × {ratios[0]:g}{'' if len(ratios) == 1 else f' to {ratios[-1]:g}'})" if ratios else ""
    return f"{'has' if count == 1 else 'have'} other values{scale}{name}"


def pair_names(reference: Mapping[str, Mapping[str, Any]], candidate: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Weights by name; those without a namesake by content. Of several with one content (norms of ones) any two are a pair."""
    pairs = {name: name for name in reference if name in candidate}
    waiting: dict[tuple[Any, ...], list[str]] = {}
    for name, each in candidate.items():
        if name not in pairs:
            waiting.setdefault(content(each), []).append(name)
    for name, each in reference.items():
        if name not in pairs and (twins := waiting.get(content(each))):
            pairs[name] = twins.pop(0)
    return pairs


def content(tensor: Mapping[str, Any]) -> tuple[Any, ...]:
    return (tensor["hash"], tensor["dtype"], *tensor["shape"])


def quantised(name: str, held: Mapping[str, Any]) -> str | None:
    """``"4-bit, groups of 64"`` when ``name`` is packed in MLX's way: integers beside ``.scales``; None for plain weights.

    Shapes alone do not tell bits from group size, so both come from the quantisation section of config.json.
    """
    stem = name.removesuffix(".weight")
    tensors = held["tensors"]
    if f"{stem}.scales" not in tensors or tensors[name]["dtype"] not in ("U32", "I32"):
        return None
    said = held.get("quantisation") or {}
    own = said.get(stem) if isinstance(said.get(stem), Mapping) else said
    return f"{own['bits']}-bit, groups of {own.get('group_size', said.get('group_size'))}" if "bits" in own else "packed integers"


def is_sidecar(name: str, held: Mapping[str, Any]) -> bool:
    """Is it the scales or biases of a packed weight?"""
    stem, _, last = name.rpartition(".")
    weight = f"{stem}.weight"
    return last in ("scales", "biases") and weight in held["tensors"] and quantised(weight, held) is not None


def precision_table(sides: Sequence[Mapping[str, Any]]) -> Table:
    """How many weights are stored in which precision, on both sides."""
    counts = [
        Counter(quantised(name, held) or each["dtype"] for name, each in held["tensors"].items() if not is_sidecar(name, held))
        for held in sides
    ]
    rows = [[kind, counts[0][kind], counts[1][kind]] for kind in sorted({*counts[0], *counts[1]})]
    return Table("Precision of the stored weights", ("precision", "reference", "candidate"), rows)


def settings_differences(reference: Side, candidate: Side, files: tuple[str, ...]) -> list[list[Any]]:
    """``[file, field, value here, value there]`` for the fields in which the models' settings files differ."""
    held = [next((run.artifact for run in side.all_runs if run.artifact), None) or {} for side in (reference, candidate)]
    rows = []
    for file in files:
        before, after = (flat((each.get("settings") or {}).get(file) or {}) for each in held)
        rows += [
            [file, name, before.get(name), after.get(name)]
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
    return rows


def dtype_text(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['dtype']} {'×'.join(map(str, tensor['shape']))}"


def short(value: Any) -> str | None:
    return None if value is None else str(value)[:12]


def size_text(size: int | None) -> str:
    """Bytes as people read them: ``11.1 MB``."""
    if size is None:
        return "size unknown"
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size = size / 1000
    return ""
