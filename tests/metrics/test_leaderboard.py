import kaldialign
import pytest

from tests.metrics.spoken import word_pairs
from workbench.errors import DataError
from workbench.metrics import leaderboard, wer
from workbench.metrics.speed import rtf, rtfx, shared_out, speed


def test_the_rate_of_a_data_set_is_kaldialigns_batch_error_rate_rounded():
    pairs = word_pairs(8, 200)
    expected = kaldialign.batch_error_rate(*zip(*pairs, strict=True), merge_compounds=True)["err_rate"]
    counts = [wer.count(" ".join(reference), " ".join(heard), merge_compounds=True) for reference, heard in pairs]
    assert leaderboard.dataset_wer(counts) == round(100 * expected, 2)
    assert leaderboard.dataset_wer([wer.count("a b c", "a b x")]) == 33.33


def test_the_headline_weighs_data_sets_alike_and_rounds_first():
    assert leaderboard.headline({"small": 33.33, "large": 0.01, "other": 1.0}) == 11.45
    assert leaderboard.headline({"a": 1.234, "b": 1.234}) == 1.23
    assert leaderboard.headline({"a": 2.006, "b": 1.0}) == 1.5  # 2.01 and 1.00, not 1.503
    with pytest.raises(ValueError):
        leaderboard.headline({})


def test_chunks_are_joined_in_order():
    rows = [
        {"parent_id": "call-b", "chunk_index": 0, "response": "one"},
        {"parent_id": "call-a", "chunk_index": 10, "response": "eleven"},
        *(
            {"parent_id": "call-a", "chunk_index": index, "response": text}
            for index, text in enumerate([" no ", "", None] + ["x"] * 7)
        ),
    ]
    assert leaderboard.join_chunks(rows) == [
        {"id": "call-a", "response": "no x x x x x x x eleven"}, {"id": "call-b", "response": "one"},
    ]  # fmt: skip
    with pytest.raises(DataError, match="call-a"):
        leaderboard.join_chunks([row for row in rows if row["chunk_index"] != 3])
    with pytest.raises(DataError, match="chunk_index"):
        leaderboard.join_chunks([{"parent_id": "a", "response": "x"}])


def test_speed_is_pooled_and_names_its_machine():
    found = speed([(10.0, 1.0), (1.0, 1.0), (5.0, None), (None, 2.0)], "a machine")
    assert (found["rtfx"], found["rtf"]) == (11 / 2, 2 / 11)  # 10 s in 1 s and 1 s in 1 s, summed
    assert (found["items"], found["untimed"], found["machine"]) == (2, 2, "a machine")
    assert (rtfx(1.0, 0.0), rtf(0.0, 1.0), speed([], "m")["rtfx"]) == (None, None, None)
    assert [shared_out(6.0, 4)] * 4 == [1.5] * 4
    for wrong in (lambda: speed([], " "), lambda: speed([(-1.0, 1.0)], "m"), lambda: shared_out(1.0, 0)):
        with pytest.raises(ValueError):
            wrong()
