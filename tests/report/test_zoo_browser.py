"""The zoo's page as a reader meets it: in headless Chromium, wide and narrow, light and dark. Skipped where there is no Chromium."""

import pytest

from tests.report import browser
from tests.report.zoo_bundles import hostile_zoo, make_layers, make_row, make_zoo, some_rows
from workbench.report.zoo import write_zoo_report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason="no Chromium on PATH")]
OVERLAPS = """(() => {
  let worst = 0;
  for (const box of document.querySelectorAll('.drift-box')) {
    const shown = [...box.querySelectorAll('.name text')].map((e) => e.getBoundingClientRect()).filter((r) => r.width).sort((a, b) => a.left - b.left);
    shown.forEach((each, place) => { if (place) worst = Math.max(worst, shown[place - 1].right - each.left); });
  }
  return worst;
})()"""
LOW_CONTRAST = """(() => {
  const parts = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
  const paper = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || ['SCRIPT', 'OPTION', 'title'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parts(e instanceof SVGElement ? style.fill : style.color)), light(paper(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.add(`${e.tagName}.${e.getAttribute('class')} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return [...found];
})()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Every kind of row, hostile ones, and one with 300 layers."""
    where = tmp_path_factory.mktemp("zoo")
    (rows, layers), (bad_rows, bad_layers) = some_rows(), hostile_zoo()
    large = make_row("large", verdict="differs", error=0.2, first_layer="text.block.200.attention")
    return write_zoo_report(
        make_zoo(where, [*rows, *bad_rows, large], [*layers, *bad_layers, *make_layers(large, 300, guilty=200)]), where / "out"
    )


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as started:
        yield started


@pytest.mark.parametrize("width", [1400, 1000, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_word_from_the_console_and_fits(chromium, report, width, dark):
    page = chromium.open(report, width=width, dark=dark)
    page.wait()
    assert page.errors == [] and page.requests == []
    assert page.run("document.documentElement.scrollWidth") == width
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run("document.querySelectorAll('.drift-box .name').length") > 50 and page.run(OVERLAPS) <= 0.5
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run(LOW_CONTRAST) == []
    page.close()


def test_filters_search_and_links(chromium, report):
    page = chromium.open(report)
    page.wait()
    choose = "(e => { e.value = '%s'; e.dispatchEvent(new Event('%s', {bubbles: true})) })(document.getElementById('%s'))"
    shown = "[...document.querySelectorAll('.zoo-row:not([hidden])')].filter(e => e.getClientRects().length).length"
    total = page.run(shown)
    assert total == 15
    page.run(choose % ("refused", "change", "verdict"))
    assert page.run(shown) == 1 and page.run("document.getElementById('count').textContent") == "1 of 15 rows fit."
    page.run(choose % ("hub", "change", "layout"))
    assert page.run(shown) == 0 and page.run("document.getElementById('count').textContent") == "No row of 15 fits."
    page.run("document.getElementById('clear').click()")
    assert page.run(shown) == total
    page.run(choose % ("text.block.200", "input", "search"))
    assert page.run(shown) == 1
    page.run("location.hash = '#row-3'")
    page.wait("document.getElementById('row-3').open")
    assert page.run(shown) == total and page.errors == []
    page.close()


def test_it_reads_without_script(chromium, report):
    page = chromium.open("about:blank")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.send("Page.navigate", url=report.resolve().as_uri())
    page.wait("document.readyState === 'complete' && !!document.querySelector('#reading')")
    assert page.run("document.querySelectorAll('.zoo-row').length") == 15
    assert page.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    page.close()


def test_controls_have_names_and_can_be_reached(chromium, report):
    page = chromium.open(report)
    page.wait()
    unnamed = "[...document.querySelectorAll('button, select, input, a[href], summary, [role=img], [role=region]')].filter(e => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label'))).length"
    assert page.run(unnamed) == 0
    assert page.run("[...document.querySelectorAll('button, select, input, a[href]')].every(e => e.tabIndex >= 0)")
    page.close()
