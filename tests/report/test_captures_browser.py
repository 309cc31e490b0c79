"""Pages of captures, alone and beside runs, as a reader meets them: in headless Chromium. Skipped where there is no Chromium."""

import pytest

from tests.report import browser
from tests.report.bundles import compared, make_line, make_run
from tests.report.capture_bundles import NAMES, make_candidate, make_reference
from tests.report.test_page import HOSTILE
from tests.report.test_zoo_browser import LOW_CONTRAST, OVERLAPS
from workbench.report import write

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason="no Chromium on PATH")]
KINDS = ["captures", "several", "alone", "beside"]
LONG = "a.layer.with.a.name.that.has.no.space.and.does.not.end." * 4
CLIPPED = """[...document.querySelectorAll('table.layers th[scope=row]')].filter(e => e.scrollWidth > e.clientWidth + 1).length"""


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as started:
        yield started


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    where = tmp_path_factory.mktemp("captures")
    names = [*NAMES[:4], HOSTILE, LONG, *NAMES[4:]]
    inputs = {"names": names, "items": ["wide", HOSTILE, "dark"], "asked": HOSTILE}
    reference = make_reference(where, **inputs)
    errors = dict.fromkeys(names[5:], 1e-2)
    bad = make_candidate(where, "demo:b", errors=errors, made={LONG: 1e-2}, reference=reference, failing=["dark"], **inputs)
    good = make_candidate(where, f"demo:{HOSTILE}", **inputs)
    lines = [make_line(str(number), number % 4 > 0) for number in range(60)]
    runs = [make_run(where / "runs", model, lines) for model in ("demo:a", "demo:b")]
    chosen = {
        "captures": [reference, bad],
        "several": [reference, good, bad],
        "alone": [reference],
        "beside": [*runs, reference, bad],
    }
    return {name: write(*compared(*found), where / name) for name, found in chosen.items()}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [1400, 1000, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_word_from_the_console_and_fits(chromium, reports, name, width, dark):
    page = chromium.open(reports[name], width=width, dark=dark)
    assert page.wait() < 5
    assert page.errors == [] and page.requests == []
    assert page.run("document.documentElement.scrollWidth") == width
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run("typeof window.hacked") == "undefined" and page.run(OVERLAPS) <= 0.5
    assert (
        page.run("document.querySelectorAll('.drift-box').length") == {"captures": 1, "several": 2, "alone": 0, "beside": 1}[name]
    )
    assert page.run(CLIPPED) == 0, "a long name or a mark stands over the numbers beside it"
    assert page.run(LOW_CONTRAST) == []
    page.close()


@pytest.mark.parametrize("name", KINDS)
def test_every_link_leads_somewhere(chromium, reports, name):
    page = chromium.open(reports[name])
    page.wait()
    missing = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(e => !e.hash.startsWith('#item/') && !document.getElementById(e.hash.slice(1))).length"
    assert page.run(missing) == 0
    page.close()
