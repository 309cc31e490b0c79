"""Progress lines say how many are done, how fast, how long it will take and the score so far."""

import io

from workbench.run import progress
from workbench.run.summary import interval_text, performance, score_text


def test_plain_lines(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = progress.PlainLines(stream)
    lines.start("t  m", 100, 20)
    for done in range(21, 101):
        clock[0] += 0.25
        lines.update(done, "score 50.0 %")
    lines.finish()
    said = stream.getvalue().splitlines()
    assert said[0] == "t  m  continues: 20/100 items are done"
    assert said[1] == "t  m  40/100  4.0 items/s  15 s left  score 50.0 %"
    assert said[-1] == "t  m  100/100  4.0 items/s  score 50.0 %"
    assert len(said) == 5


def test_a_terminal_shows_each_bar_once():
    from rich.console import Console

    bar = progress.Bar()
    bar.console = Console(file=io.StringIO(), force_terminal=True, width=100)
    for title in ("first [task]", "second"):
        bar.start(title, 2, 0)
        bar.update(2, "score 100.0 %")
        bar.finish()
    said = bar.console.file.getvalue()
    assert said.rindex("first [task]") < said.index("second")
    assert "score 100.0 %" in said and "items/s" in said


def test_time_left_in_the_unit_that_fits():
    assert progress.remaining(10, 0, 100, 10)[1] == "2 min left"
    assert progress.remaining(1, 0, 10_000, 10)[1] == "27.8 h left"
    assert progress.remaining(0, 0, 10, 5)[1] == "time left unknown"


def test_scores_and_intervals_as_text():
    percent = {"headline": {"value": 36.6667, "unit": "%", "of": None}, "interval": {"low": 33.58, "high": 39.87, "unit": "%"}}
    assert (score_text(percent), interval_text(percent)) == ("36.67 %", "33.6 to 39.9 %")
    count = {"headline": {"value": 632, "unit": "items", "of": 1000}, "interval": None}
    assert (score_text(count), interval_text(count)) == ("632 of 1000", "-")


def test_performance_counts_only_items_with_a_timing():
    def line(total):
        return {"timing": {"prepare": 0.1, "first": None, "total": total, "n_in": 1, "n_out": 2, "batch": 1}}

    found = performance([line(1.0), line(3.0), {"timing": None}], evidence="host")
    assert found["n"] == 2 and found["items_per_second"] == 0.5 and found["tokens_per_second"] == 1.0
    assert found["item_seconds"]["median"] == 2.0 and found["first_token_seconds"] is None and found["evidence"] == "host"
    assert performance([])["items_per_second"] is None


def test_a_reference_executor_shows_no_speed_and_names_steer_no_terminal():
    for rate in (True, False):
        stream = io.StringIO()
        shown = progress.PlainLines(stream, rate=rate)
        shown.start("capture  \x1b[2Jnet\u202e", 2, 0)
        shown.update(2, "one\x07")
        shown.finish()
        assert ("items/s" in stream.getvalue()) is rate and "2/2" in stream.getvalue()
        assert not {"\x1b", "\u202e", "\x07"} & set(stream.getvalue())
