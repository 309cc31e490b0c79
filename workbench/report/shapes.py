"""Do a bundle's files hold what a report prints? What is of another kind is an error with a name, never a traceback.

    check(run)     # BundleError: results.json of mmmu-... is damaged / why: headline.value is no finite number

Beside ``workbench.parity.shapes``, which checks what a comparison reads.
"""

from __future__ import annotations

from workbench.parity.shapes import NUMBER, Each, Maybe, damaged, misfit
from workbench.run.bundle import Run

SPEECH = {
    **dict.fromkeys(("wer", "cer", "mer", "wil", "sentence_error_rate"), Maybe(NUMBER)),
    **dict.fromkeys(("words", "errors", "substitutions", "deletions", "insertions"), Maybe(int)),
    "normaliser": Maybe(dict),
    "intervals": Maybe(Each(Maybe({"low": Maybe(NUMBER), "high": Maybe(NUMBER)}))),  # an own eval's names are redacted
    "empty_references": Maybe({"n": Maybe(int)}),
}
GROUP = {
    **{"n": int, "value": Maybe(NUMBER), "correct": Maybe(NUMBER), "words": Maybe(int), "errors": Maybe(int)},
    "interval": Maybe({"low": NUMBER, "high": NUMBER, "unit": str}),
}
RESULTS = Maybe(
    {
        **SPEECH,
        "n": int,
        "headline": {"metric": str, "value": Maybe(NUMBER), "unit": str},
        "interval": Maybe({"low": NUMBER, "high": NUMBER, "unit": str}),
        "groups": Maybe(Each(Each(GROUP))),
        "scorer": Maybe(str),
        "score_range_over_seeds": Maybe([NUMBER]),
        **dict.fromkeys(("scored", "missing", "item_errors", "random_fallbacks"), Maybe(int)),
        "chance": Maybe(NUMBER),
    }
)
ENVIRONMENT = Maybe([{"memory_bytes": Maybe(NUMBER), "device": Maybe(dict)}])
MANIFEST = {"created": Maybe(str), "finished": Maybe(str), "workbench": Maybe(str)}


def check(run: Run) -> None:
    """Raises BundleError naming file and field."""
    check_results(run)
    for file, value, shape in (("environment.json", run.environment, ENVIRONMENT), ("manifest.json", run.manifest, MANIFEST)):
        if why := misfit(value, shape):
            raise damaged(run, file, why)


def check_results(run: Run) -> None:
    """Of results.json alone; a run that is not finished has none. Raises BundleError."""
    why = misfit(run.results, RESULTS)
    if why is None and run.results is not None and "value" not in run.results["headline"]:
        why = "headline.value is missing"  # null where no item has a score
    if why is not None:
        raise damaged(run, "results.json", why)
