"""Character error rate for Hugging Face ``evaluate``: spaces count, texts are normalised by a profile first.

cer = evaluate.load(str(evaluate_module("cer")))        # from workbench.metrics.transcripts; needs no network
cer.compute(predictions=["turn it of"], references=["turn it off"], profile="none")
"""

import evaluate

import datasets
from workbench.metrics.transcripts import word_error_rate

DESCRIPTION = "Corpus character error rate: edits over the characters of the references, spaces included, both texts normalised."
ARGUMENTS = """
predictions: transcripts. references: what was said. profile: "whisper", "oal-2026-08" or "none". language: "en" or another code.
Returns a fraction, with profile, normaliser, characters and errors.
"""


class CharacterErrorRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=ARGUMENTS, features=texts)

    def _compute(self, predictions, references, profile="whisper", language="en"):
        found = word_error_rate(references, predictions, profile=profile, language=language)
        names = ("cer", "characters", "character_errors", "utterances", "profile", "normaliser", "empty_references")
        return {name: found[name] for name in names}
