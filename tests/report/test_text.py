"""Foreign text is shown as it is, bounded, and inert in every file of a report."""

import csv
import io

import pytest

from workbench.report import text


@pytest.mark.parametrize(
    "character", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\x85", "\ufeff", "\u2028", "\ud800", "\U000e0041", "\r"]
)
def test_unseen_characters_are_written_out(character):
    assert text.visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"
    text.visible(f"a{character}b").encode()  # a lone surrogate could not be


def test_text_that_is_meant_stays():
    meant = "tab\tline\nمرحبا بالعالم שלום 你好 👩\u200d👩\u200d👧 می\u200cخواهم ½ ≤"
    assert text.visible(meant) == meant
    assert text.visible("a\r\nb") == "a\nb"


def test_ten_megabytes_are_cut_and_say_so():
    cut = text.bounded("x" * 10_485_760, 4_000)
    assert cut.startswith("x" * 4_000 + "…") and len(cut) < 4_100
    assert cut.endswith("10,485,760 characters in all; the whole text is in the bundle")
    assert text.bounded("short", 4_000) == "short"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", '=HYPERLINK("http://x")'])
def test_no_cell_is_a_formula(cell):
    assert text.csv_cell(cell) == f"'{cell}"
    file = io.StringIO()
    csv.writer(file).writerow([text.csv_cell(cell)])
    assert next(csv.reader(io.StringIO(file.getvalue(), newline="")))[0][0] == "'"


def test_cells_keep_numbers_and_are_bounded():
    assert text.csv_cell(-0.5) == -0.5 and text.csv_cell(None) == "" and text.csv_cell(["a", 1]) == '["a", 1]'
    cut = text.csv_cell("y" * 40_000)
    assert len(cut) < 32_767 and cut.endswith("40,000 characters in all")
    unseen = text.csv_cell("\x01" * 31_000)
    assert len(unseen) < 32_767 and unseen.startswith("⟨U+0001⟩") and unseen.endswith("31,000 characters in all")


def test_markdown_has_no_markup_of_a_models():
    shown = text.markdown(
        "<script>x</script> | `code` **bold** [a](javascript:alert(1)) ![i](http://e.com/p.png)\n# head @user https://e.com"
    )
    assert "<" not in shown and "\n" not in shown and "://" not in shown and "@user" not in shown
    for mark in "|`*[]!#":
        assert all(
            shown[place - 1] == "\\" or shown[place - 1 : place + 1] == "&#" for place, found in enumerate(shown) if found == mark
        )


def test_markdown_mentions_nobody_and_leaves_model_names_readable():
    assert text.markdown("demo:vlm@torch") == "demo:vlm@torch"
    for mention in ("@octocat", "a @octocat", "(@octocat)", "|@octocat"):
        assert "@octocat" not in text.markdown(mention) and "@&#8203;octocat" in text.markdown(mention)
    assert "@" not in text.markdown("somebody@example.com")


def test_numbers_as_readers_see_them():
    assert [text.points(value) for value in (0.0042, -0.012, 0.0, -0.00001)] == ["+0.42", "−1.20", "0.00", "0.00"]
    assert [text.milliseconds(value) for value in (0.0482, 1.5, None)] == ["48.2", "1,500", "–"]
    assert [text.byte_text(value) for value in (12, 2_740_000, 3.4e9, None)] == ["12 B", "2.74 MB", "3.4 GB", "–"]
    assert [text.fact(value) for value in ({}, [], 0, 0.0)] == ["none", "none", "0", "0"]
    assert [text.fact(value) for value in (None, True, 1234, 0.123456, [1, "a"], {"n": 2})] == [
        "–",
        "yes",
        "1,234",
        "0.1235",
        "1, a",
        "n 2",
    ]
