import json

import pytest

from workbench.data.predictions import match, read_predictions
from workbench.errors import DataError
from workbench.types import Response


def write(tmp_path, *lines):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_ids_are_text_whatever_column_they_come_from(tmp_path):
    path = write(
        tmp_path, {"id": "a", "response": "1"}, {"index": 3, "response": "2"}, {"pid": "9", "response": "3", "extraction": 4}
    )
    assert read_predictions(path) == {"a": Response("1"), "3": Response("2"), "9": Response("3", extraction="4")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1, "response": "x"}', "{oops"], "line 2 of 'p.jsonl' is not a JSON object"),
        (['{"response": "x"}'], "line 1 of 'p.jsonl' lacks 'id'"),
        (['{"id": "a"}'], "line 1 of 'p.jsonl' lacks 'response'"),
        (['{"id": "a", "response": null}'], "line 1 of 'p.jsonl': response must be text, not null"),
        (['{"id": "a", "response": 3}'], "response must be text, not int"),
        (['{"id": true, "response": "x"}'], "id must be text or an integer"),
        (['{"id": "a", "response": "x", "extraction": {}}'], "extraction must be text"),
        (["", ""], "holds no predictions"),
        (['{"id": "1", "response": "x"}', '{"id": 1, "response": "y"}'], "1 item has more than one prediction"),
    ],
)
def test_broken_files_name_the_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_predictions(write(tmp_path, *lines))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no predictions file"):
        read_predictions(tmp_path / "none.jsonl")


GIVEN = {name: Response("x") for name in "abc"}


def test_a_match_is_in_item_order():
    assert list(match(GIVEN, ["c", "b", "a"])) == ["c", "b", "a"]


def test_all_that_does_not_fit_is_counted_and_the_first_are_named():
    with pytest.raises(DataError, match="3 predictions have no item and 5 items have no prediction") as caught:
        match(GIVEN, ["1", "2", "3", "4", "5"])
    assert "'a', 'b', 'c'" in caught.value.why
    assert "'1', '2', '3' and 2 more" in caught.value.why


def test_partial_leaves_out_items_but_never_predictions():
    assert list(match(GIVEN, ["a", "z", "b", "c"], partial=True)) == ["a", "b", "c"]
    with pytest.raises(DataError, match="1 item has no prediction") as caught:
        match(GIVEN, ["a", "z", "b", "c"])
    assert "--partial" in caught.value.fix
    with pytest.raises(DataError, match="1 prediction has no item"):
        match(GIVEN, ["a", "b"], partial=True)
