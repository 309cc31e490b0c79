"""The picture of error against depth: every point where its number says, whatever the numbers and the names are."""

import re
from itertools import pairwise
from math import log10
from xml.etree import ElementTree

import matplotlib
import pytest

from workbench.report.drift import EDGE, HEIGHT, NARROW, PITCH, WIDE, Drift, drift_figure, drift_svg, plot_drift

matplotlib.use("Agg")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>window.hacked=1</script>\"'& \u202e $x_1$"


def line(name, error, own=1e-7, made=None, **more):
    times = error / max(own, 2 * 2.0**-24) if error is not None and own is not None else None
    return {
        "layer": name,
        "relative_rms": error,
        "own_relative_rms": own,
        "made_relative_rms": made,
        "times_own": times,
        "reason": None,
        **more,
    }


def tower(n, guilty=None):
    """n layers of two towers; from the guilty one on the error is large."""
    found = []
    for place in range(n):
        side, number = ("vision", place) if place < n // 3 else ("text", place - n // 3)
        large = guilty is not None and place >= guilty
        found.append(
            line(
                f"{side}.block.{number // 3}{('', '.attention', '.mlp')[number % 3]}",
                3e-2 if large else 2e-7,
                made=3e-2 if place == guilty else 1e-7,
            )
        )
    return found


def drawn(lines, *arguments):
    source = str(drift_svg(lines, *arguments))
    return source, ElementTree.fromstring(source.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def dots(root, kind):
    path = next(each for each in root.iter(f"{SVG}path") if each.get("class") == kind)
    return [tuple(map(float, each)) for each in re.findall(r"M([\d.]+) ([\d.]+)h0", path.get("d"))]


def test_points_stand_where_their_numbers_say():
    errors = [1e-7, 1e-5, 1e-3, 1e-1]
    lines = [line(f"text.block.{place}", error, made=error / 10) for place, error in enumerate(errors)]
    _, root = drawn(lines)
    low, high = Drift.of(lines).decades
    assert low <= -8 and high >= -1
    for kind, values in (("error dots", errors), ("made", [each / 10 for each in errors])):
        found = dots(root, kind)
        assert [x for x, _ in found] == [0.5, 1.5, 2.5, 3.5]
        expected = [EDGE + (HEIGHT - 2 * EDGE) * (high - log10(value)) / (high - low) for value in values]
        assert [y for _, y in found] == pytest.approx(expected, abs=0.06)


def test_the_band_ends_where_a_layer_departs():
    _, root = drawn([line("a", 1e-6, own=5e-7), line("b", 5e-6, own=5e-7)])
    bands = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "healthy"]
    (_, one), (_, other) = dots(root, "error dots")
    assert other == pytest.approx(float(bands[1].get("y")), abs=0.06)  # ten times torch's own, exactly
    assert one > float(bands[0].get("y"))  # a smaller error stands lower


def test_zeros_gaps_and_what_is_not_finite():
    lines = [line("a", 1e-6), line("b", 0.0, made=0.0), line("c", None), line("d", 2e-6), line("e", 0.0, non_finite_candidate=7)]
    lines.append(line("f", None, own=None, reason="the port has no such layer"))
    _, root = drawn(lines)
    assert [x for x, _ in dots(root, "error dots")] == [0.5, 3.5]
    path = next(each for each in root.iter(f"{SVG}path") if each.get("class") == "error").get("d")
    assert path.count("M") == 2 and "L" not in path  # nothing is drawn across a zero or a gap
    kinds = [each.get("class") for each in root.iter(f"{SVG}path")]
    assert kinds.count("floor-mark of-error") == 2 and kinds.count("floor-mark of-made") == 1 and kinds.count("lost") == 1
    figure = drift_figure(lines)
    assert (
        "1 layer without a counterpart is not drawn" in figure
        and "no error at all" in figure
        and "not finite on one side" in figure
    )


@pytest.mark.parametrize("value", [None, 0.0, 1e-320, 5e-324, 1e308, float("inf"), float("nan"), -1.0, "1e-6", True, [], 10**400])
@pytest.mark.parametrize("name", ["relative_rms", "own_relative_rms", "made_relative_rms", "times_own"])
def test_every_number_can_be_drawn(name, value):
    lines = tower(6, guilty=2)
    lines[3][name] = value
    _, root = drawn(lines, lines[2]["layer"])
    for each in root.iter():
        for attribute in ("y", "y1", "y2"):
            if (found := each.get(attribute)) is not None and not found.endswith("%"):
                assert -10 <= float(found) <= HEIGHT + 200
    if name == "relative_rms":
        plot_drift(lines).figure.draw_without_rendering()
        matplotlib.pyplot.close("all")


@pytest.mark.parametrize("n", [1, 2, 7, 31, 100, 300, 2000])
@pytest.mark.parametrize("guilty", [0, None])
def test_names_never_overlap_and_the_guilty_one_is_always_there(n, guilty):
    lines = tower(n, guilty)
    name = None if guilty is None else lines[n // 2]["layer"]
    source, root = drawn(lines, name)
    labels = [each for each in root.iter(f"{SVG}svg") if (each.get("class") or "").startswith("name")]
    for pixels, found in ((WIDE, labels), (NARROW, [each for each in labels if "wide" not in each.get("class")])):
        places = [float(each.get("x")[:-1]) / 100 * pixels for each in found]
        assert found and all(after - before >= PITCH - 0.02 for before, after in pairwise(places))
    assert len(labels) <= WIDE / PITCH + 1
    if name:
        strong = [each for each in labels if "strong" in each.get("class")]
        assert len(strong) == 1 and "wide" not in strong[0].get("class") and source.count('class="guilty"') == 1


def test_hostile_names_are_text():
    lines = [line(HOSTILE, 1e-6), line("b", 1e-3, made=1e-3)]
    source, _ = drawn(lines, HOSTILE, HOSTILE)
    figure = str(drift_figure(lines, HOSTILE, HOSTILE))
    for each in (source, figure):
        assert "<script" not in each and "\u202e" not in each and "⟨U+202E⟩" in each
    assert "first guilty layer" in figure and 'class="guilty"' in figure
    ax = plot_drift(lines, guilty=HOSTILE, side=HOSTILE)
    ax.figure.canvas.draw()  # dollar signs are no mathematics
    matplotlib.pyplot.close("all")


def test_it_says_in_words_what_it_shows():
    lines = tower(30, guilty=12)
    source, _ = drawn(lines, lines[12]["layer"])
    words = re.search(r'aria-label="([^"]*)"', source)[1]
    assert (
        words
        == f"the port&#39;s error at 30 layers in order; largest 0.03 at {lines[12]['layer']}; first guilty layer {lines[12]['layer']}"
    )
    assert source.count("<title>") == 30 and drift_svg(lines) == drift_svg(lines)


def test_nothing_to_draw_is_said():
    nothing = [line("a", None, own=None, reason="shapes (1, 2) and (3,)")]
    for lines in ([], nothing):
        assert "No layer could be compared" in drift_figure(lines)
        drawn(lines)
        with pytest.raises(ValueError, match="no layer"):
            plot_drift(lines)


def test_the_notebooks_picture_shows_the_same_numbers():
    lines = tower(40, guilty=20)
    lines[5]["relative_rms"] = 0.0
    ax = plot_drift(lines, guilty=lines[20]["layer"])
    error = next(each for each in ax.lines if each.get_label() == "the port's error").get_ydata()
    assert [each for each in error if each > 0] == pytest.approx([each["relative_rms"] for each in lines if each["relative_rms"]])
    made = next(each for each in ax.lines if each.get_label() == "made by the layer itself").get_ydata()
    assert list(made) == [each["made_relative_rms"] for each in lines]
    assert ax.get_yscale() == "log" and any("first guilty" in each.get_label() for each in ax.lines)
    assert any(each.get_label() == "no error at all" and list(each.get_xdata()) == [5] for each in ax.lines)
    _, other = matplotlib.pyplot.subplots()
    assert plot_drift(lines, other) is other
    matplotlib.pyplot.close("all")
