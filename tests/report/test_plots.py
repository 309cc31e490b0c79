"""The pictures of the notebook show the numbers of the report."""

import matplotlib
import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.report.speech_bundles import make_speech_run, some_lines
from workbench.report import plot_differences, plot_scores

matplotlib.use("Agg")


@pytest.fixture
def two(tmp_path):
    lines = [make_line(str(number), number % 4 > 0, groups=[["kind", f"$k_{number % 2}$"]]) for number in range(80)]
    other = [make_line(str(number), number % 4 > 0 and number > 4, groups=line["groups"]) for number, line in enumerate(lines)]
    return compared(make_run(tmp_path, "demo:a", lines), make_run(tmp_path, "demo:b", other))


def test_differences_are_drawn_where_they_are(two):
    comparison = two[1][0]
    ax = plot_differences(comparison)
    points = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert points == pytest.approx([100 * each.paired.difference for each in comparison.strata])
    band = ax.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-2, 2))
    assert comparison.verdict.name in ax.get_title(loc="left")
    ax.figure.canvas.draw()  # dollar signs of a group's name are no mathematics


def test_scores_are_drawn_of_sides_and_of_paths(two):
    sides = two[0]
    values = []
    for ax in (plot_scores(sides), plot_scores([str(side.all_runs[0].folder) for side in sides])):
        values.append([float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1])
    assert values[0] == values[1] == [side.all_runs[0].results["headline"]["value"] for side in sides]


def test_an_axis_that_was_given_is_used(two):
    from matplotlib import pyplot

    _, ax = pyplot.subplots()
    assert plot_differences(two[1][0], ax) is ax and plot_scores(two[0], ax) is ax


def test_nothing_to_draw_is_said(tmp_path):
    sides, comparisons = compared(make_run(tmp_path, "demo:a", [make_line("1")]), make_run(tmp_path, "demo:b", [make_line("2")]))
    with pytest.raises(ValueError, match="no item"):
        plot_differences(comparisons[0])


def test_thousands_of_groups_make_a_picture_that_can_be_drawn(tmp_path):
    lines = [make_line(str(number), groups=[["kind", f"group {number % 700}"]]) for number in range(1_000)]
    _, comparisons = compared(make_run(tmp_path, "demo:a", lines), make_run(tmp_path, "demo:b", lines))
    ax = plot_differences(comparisons[0])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0].startswith("all items") and len(labels) == 60 and all("n=2" in label for label in labels[1:])
    assert "641 more groups" in ax.get_xlabel() and ax.figure.get_size_inches()[1] < 30


def test_word_error_rates_are_drawn_with_whose_rules_they_are(tmp_path):
    sides, comparisons = compared(
        *(make_speech_run(tmp_path, f"demo:{name}", some_lines(20, wrong)) for name, wrong in (("a", ()), ("b", (3,))))
    )
    ax = plot_scores(sides)
    values = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert values == pytest.approx([100 * side.runs["asr-made"][0].results["wer"] for side in sides])
    assert "WER, more is worse" in plot_differences(comparisons[0]).get_xlabel()
    assert all("whisper-english 1" in label.get_text() and "errors in" in label.get_text() for label in ax.get_yticklabels())
