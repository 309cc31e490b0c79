"""Utterances as a reader meets them: words with marks beside colours, players, hostile transcripts. Skipped where there is no Chromium."""

import hashlib

import pytest

from tests.report import browser
from tests.report.bundles import compared
from tests.report.speech_bundles import SENTENCES, make_speech_run, some_lines, spoken, tone
from tests.report.test_browser import HOSTILE
from workbench.report import write

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.find() is None, reason="no Chromium on PATH")]


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    where = tmp_path_factory.mktemp("speech")
    data = tone(1, 0.5)
    name = hashlib.sha256(data).hexdigest()
    before, after = some_lines(30), some_lines(30, (6, 7))
    for number, text in enumerate(HOSTILE):
        more = {"speaker": text[:200], "voice": text[:200], "media": [name]}
        before[number] = spoken(f"{number} {text[:300]}", SENTENCES[0], SENTENCES[0], **more)
        after[number] = spoken(f"{number} {text[:300]}", SENTENCES[0], f"turn {text[:2000]} on", text=text, **more)
    for lines in (before, after):
        lines[7]["input"]["media"] = [name]
    runs = [
        make_speech_run(where, f"demo:{side}", lines, media={f"{name}.wav": data}) for side, lines in (("a", before), ("b", after))
    ]
    return write(*compared(*runs), where / "out")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_word_from_the_console_and_fits(chromium, report, width, dark):
    page = chromium.open(report, width=width, dark=dark)
    page.wait()
    assert page.errors == [] and page.requests == []
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("document.documentElement.scrollWidth") == width
    contrast = page.run(
        "[...document.querySelectorAll('.w')].map(each => [getComputedStyle(each).color, getComputedStyle(each).backgroundColor])"
    )
    assert contrast and all(ink != paper for ink, paper in contrast)
    page.close()


def test_words_are_marked_by_more_than_colour_and_said_in_words(chromium, report):
    page = chromium.open(report)
    page.wait()
    card = "[...document.querySelectorAll('.item')].find(each => each.querySelector('.item-head a').textContent === '7')"
    assert (
        page.run(f"{card}.querySelector('.answer:last-child .aligned').textContent")
        == "the [mistaken: said train→, heard cat] leaves at half past 4"
    )
    lines = "['del', 'ins'].map(tag => getComputedStyle(document.querySelector(`.w-s ${tag}`)).textDecorationLine)"
    assert page.run(lines) == ["line-through", "underline"]
    assert "1 error in 7 words: 1 mistaken" in page.run(f"{card}.textContent")
    assert page.run(f"{card}.querySelector('.chip').textContent") == "▼broke: more word errors"
    page.close()


def test_a_recording_plays_from_the_page_itself(chromium, report):
    page = chromium.open(report)
    page.wait()
    assert page.run(
        "[...document.querySelectorAll('audio')].every(each => each.preload === 'none' && each.controls && each.src.startsWith('data:audio/wav;'))"
    )
    played = "(async () => { const each = document.querySelector('audio'); each.load(); each.preload = 'auto'; await new Promise(done => { each.onloadedmetadata = done; each.onerror = done; }); return each.error ? each.error.message : each.duration; })()"
    assert page.run(played) == pytest.approx(0.5, abs=0.01)
    assert page.errors == [] and page.requests == []
    page.close()


def test_hostile_transcripts_speakers_and_ids_are_inert_text(chromium, report):
    page = chromium.open(report)
    page.wait()
    assert page.run("typeof window.hacked") == "undefined"
    shown = page.run("document.getElementById('list').textContent")
    for text in HOSTILE[:4]:
        assert text in shown
    assert page.run("document.querySelectorAll('.item script, .item svg, .item img, .item a[href^=javascript]').length") == 0
    assert "⟨U+202E⟩" in shown and page.errors == []
    page.close()


def test_the_search_finds_a_word_that_was_said(chromium, report):
    page = chromium.open(report)
    page.wait()
    page.run(
        "(e => { e.value = 'half past 4 cat'; e.dispatchEvent(new Event('input', {bubbles: true})) })(document.getElementById('search'))"
    )
    page.wait("document.getElementById('count').textContent.includes('that fit')")
    assert "1 to 1 of 1 items" in page.run("document.getElementById('count').textContent")
    page.close()
