"""The page as a reader meets it: in headless Chromium, wide and narrow, light and dark. Skipped where there is no Chromium."""

import hashlib
import http.server
import threading

import pytest

from tests.report import browser
from tests.report.bundles import compared, make_line, make_run, picture
from workbench.report import write

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason="no Chromium on PATH")]

SVG = '<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked=1"><script>window.hacked=1</script></svg>'
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    SVG,
    '<img src=x onerror="window.hacked=1">',
    "[click](javascript:window.hacked=1) javascript:window.hacked=1",
    "x" * 10_485_760,
    "مرحبا بالعالم \u202eabc\u202c שלום",
]


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Hostile answers, a picture, an SVG that claims to be a PNG, 130 items, two candidates."""
    where = tmp_path_factory.mktemp("report")
    good, bad = picture(1), SVG.encode()
    names = [hashlib.sha256(data).hexdigest() for data in (good, bad)]
    before, after, third = [], [], []
    for number in range(130):
        told = HOSTILE[number] if number < len(HOSTILE) else None
        more = {"groups": [["kind", f"a very long group name {number % 3}"]], "media": [names[number % 2]]}
        before.append(make_line(f"item {number}/{number}", True, **more))
        changed = {"text": told, "answer": None, "reason": "unparsed"} if told else {}
        after.append(make_line(f"item {number}/{number}", not told, **more, **changed))
        third.append(make_line(f"item {number}/{number}", number % 10 > 0, **more))
    media = {f"{names[0]}.png": good, f"{names[1]}.png": bad}
    runs = [make_run(where, f"demo:{name}", lines, media=media) for name, lines in (("a", before), ("b", after), ("c", third))]
    return write(*compared(*runs), where / "out")


def set_to(page, name, value, kind="change"):
    page.run(
        f"(e => {{ e.value = {value!r}; e.dispatchEvent(new Event({kind!r}, {{bubbles: true}})) }})(document.getElementById({name!r}))"
    )


def count(page):
    return page.run("document.getElementById('count').textContent")


@pytest.mark.parametrize("width", [1400, 1210, 1024, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_word_from_the_console_and_fits(chromium, report, width, dark):
    page = chromium.open(report, width=width, dark=dark)
    assert page.wait() < 5
    assert page.errors == [] and page.requests == []
    assert page.run("document.documentElement.scrollWidth") == width
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("document.documentElement.scrollWidth") == width
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") != dark
    page.close()


def test_hostile_answers_are_inert_text(chromium, report):
    page = chromium.open(report)
    page.wait()
    assert page.run("typeof window.hacked") == "undefined"
    shown = page.run("[...document.querySelectorAll('.item .answer pre')].map(e => e.textContent).join('\\n')")
    for text in HOSTILE[:4]:
        assert text in shown
    assert "10,485,760 characters in all" in shown and "⟨U+202E⟩" in shown and "مرحبا" in shown
    assert page.run("document.querySelectorAll('.item script, .item svg, .item a[href^=javascript]').length") == 0
    assert page.run("[...document.querySelectorAll('.item pre')].every(e => e.dir === 'auto' && e.children.length === 0)")
    assert page.run("getComputedStyle(document.querySelector('.item pre')).unicodeBidi") == "isolate"
    assert page.run("[...document.querySelectorAll('.item img')].every(e => e.complete && e.naturalWidth === 64)")
    assert "cannot be decoded" in page.run("document.querySelector('.no-picture').textContent")
    assert page.errors == []
    page.close()


def test_no_script_can_be_added(chromium, report):
    page = chromium.open(report)
    page.wait()
    page.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s) })()"
    )
    page.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert page.run("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in text for text in page.errors)
    page.close()


def test_filters_search_pages_and_candidates(chromium, report):
    page = chromium.open(report)
    page.wait()
    assert count(page) == "1 to 50 of 130 items."
    assert page.run("document.querySelector('.item .chip').textContent") == "▼broke"
    page.run("[...document.querySelectorAll('.pager button')].find(b => b.textContent === 'last').click()")
    page.wait("document.getElementById('count').textContent.startsWith('101 to 130')")
    set_to(page, "change", "0")
    page.wait("document.getElementById('count').textContent.startsWith('1 to 6 of 6')")
    set_to(page, "search", "PICTURE javascript:", "input")
    page.wait("document.getElementById('count').textContent.includes('No item')")
    set_to(page, "search", "javascript: click", "input")
    page.wait("document.getElementById('count').textContent.startsWith('1 to 1 of 1')")
    page.run("document.getElementById('clear').click()")
    page.wait("document.getElementById('count').textContent === '1 to 50 of 130 items.'")
    set_to(page, "reason", page.run("[...document.getElementById('reason').options].find(o => o.text === 'unparsed').value"))
    page.wait("document.getElementById('count').textContent.startsWith('1 to 6 of 6')")
    set_to(page, "view", "1")
    page.wait("document.getElementById('count').textContent === '1 to 50 of 130 items.'")
    set_to(page, "change", "0")
    page.wait("document.getElementById('count').textContent.startsWith('1 to 13 of 13')")
    assert page.errors == []
    page.close()


def test_it_begins_with_the_first_candidate_that_has_flips(chromium, tmp_path):
    lines = [make_line(str(number)) for number in range(20)]
    flipped = [make_line(str(number), number != 7) for number in range(20)]
    runs = [make_run(tmp_path, f"demo:{name}", each) for name, each in (("a", lines), ("b", lines), ("c", flipped))]
    page = chromium.open(write(*compared(*runs), tmp_path / "out"))
    page.wait()
    assert page.run("[...document.getElementById('view').options].map(o => o.text)") == ["demo:b (flips: 0)", "demo:c (flips: 1)"]
    assert page.run("document.getElementById('view').value") == "1"
    assert page.run("document.querySelector('.item .chip').textContent") == "▼broke"
    page.close()


def test_runs_that_share_no_items_say_so(chromium, tmp_path):
    runs = [make_run(tmp_path, f"demo:{name}", [make_line(name)]) for name in "ab"]
    page = chromium.open(write(*compared(*runs), tmp_path / "out"))
    page.wait()
    assert count(page) == "There are no items to show." and page.errors == []
    page.close()


def test_a_link_to_an_item_opens_its_page(chromium, report):
    page = chromium.open(f"{report.resolve().as_uri()}#item/1/colours/item%20129%2F129")
    page.wait()
    assert page.run("document.querySelector('.item.here a').textContent") == "item 129/129"
    assert page.run("document.getElementById('view').value") == "1" and page.errors == []
    page.close()


def test_a_broken_link_opens_the_list(chromium, report):
    page = chromium.open(f"{report.resolve().as_uri()}#item/9/%E0%A4%A/x")
    page.wait()
    assert count(page) == "1 to 50 of 130 items." and page.errors == []
    page.close()


def test_the_theme_can_be_chosen(chromium, report):
    page = chromium.open(report, dark=True)
    page.wait()
    colours = []
    for _ in range(3):
        colours.append(
            (page.run("document.getElementById('theme').textContent"), page.run("getComputedStyle(document.body).backgroundColor"))
        )
        page.run("document.getElementById('theme').click()")
    assert colours == [
        ("Theme: auto", "rgb(21, 24, 28)"),
        ("Theme: light", "rgb(255, 255, 255)"),
        ("Theme: dark", "rgb(21, 24, 28)"),
    ]
    page.close()


def test_it_prints_on_white(chromium, report):
    page = chromium.open(report, dark=True)
    page.wait()
    page.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(chromium, report, dark):
    """WCAG AA: 4.5 to 1 for every colour of text on what it stands on."""
    page = chromium.open(report, dark=dark)
    page.wait()
    low = page.run(
        """(() => {
          const parts = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
          const paper = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
          const found = new Set();
          for (const e of document.querySelectorAll('body *')) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.disabled || ['SCRIPT', 'OPTION'].includes(e.tagName)) continue;
            const style = getComputedStyle(e);
            const ink = e instanceof SVGElement ? style.fill : style.color;
            const [a, b] = [light(parts(ink)), light(paper(e))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) found.add(`${e.tagName}.${e.className} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
          }
          return [...found];
        })()"""
    )
    assert low == []
    page.close()


def test_controls_have_names_and_can_be_reached(chromium, report):
    page = chromium.open(report)
    page.wait()
    unnamed = page.run(
        "[...document.querySelectorAll('button, select, input, a[href], [role=img], [role=region]')].filter(e => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label') || e.querySelector('img[alt]'))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert page.run("[...document.querySelectorAll('button, select, input, a[href]')].every(e => e.tabIndex >= 0)")
    page.close()


def test_it_reads_without_script(chromium, report):
    page = chromium.open("about:blank")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.send("Page.navigate", url=report.resolve().as_uri())
    page.wait("document.readyState === 'complete' && !!document.querySelector('#reading')")
    assert page.run("document.querySelectorAll('svg[role=img]').length") > 5
    assert page.run("getComputedStyle(document.querySelector('noscript')).display") != "none"
    page.close()


def test_it_works_over_http_too(chromium, report):
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(report.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = chromium.open(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait()
        assert page.errors == [] and page.requests == []
        page.close()
    finally:
        server.shutdown()


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_sizes_fit_the_window_and_run_nothing(chromium, tmp_path, width, dark):
    from tests.report.size_bundles import compressed_runs

    page = chromium.open(write(*compared(*compressed_runs(tmp_path, n=12)), tmp_path / "out"), width=width, dark=dark)
    page.wait()
    assert not page.errors and not page.run("window.hacked || 0")
    assert page.run("document.documentElement.scrollWidth") <= width
    box = "document.querySelector('.sizes-plot svg').getBoundingClientRect()"
    assert page.run(f"{box}.width") > 250 and page.run(f"{box}.right") <= width
    assert page.run("document.querySelectorAll('.sizes-plot text.mark').length") == 5
