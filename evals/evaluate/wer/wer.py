"""Word error rate for Hugging Face ``evaluate``, with the profile, words, errors and intervals that belong to it.

wer = evaluate.load(str(evaluate_module("wer")))        # from workbench.metrics.transcripts; needs no network
wer.compute(predictions=["turn it of"], references=["turn it off"], profile="whisper")
"""

import evaluate

import datasets
from workbench.metrics.transcripts import word_error_rate

DESCRIPTION = "Corpus word error rate: substitutions, deletions and insertions over the words of the references, both normalised."
ARGUMENTS = """
predictions: transcripts. references: what was said. profile: "whisper", "oal-2026-08" or "none". language: "en" or another code.
speakers: who speaks, one a text (their interval is then given too). Returns fractions; the rate with profile, normaliser, words,
errors and interval.
"""


class WordErrorRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=ARGUMENTS, features=texts)

    def _compute(self, predictions, references, profile="whisper", language="en", speakers=None):
        found = word_error_rate(references, predictions, profile=profile, language=language, speakers=speakers)
        found.pop("per_item")
        return found
