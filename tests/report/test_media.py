"""Pictures: only re-encoded ones of ours, each once, within the budget; whatever is wrong is said and ends nothing."""

import base64
import hashlib
import io

import pytest
from PIL import Image

from tests.report.bundles import make_line, make_run, picture
from workbench.report import media
from workbench.run.bundle import Run

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


def sha(data):
    return hashlib.sha256(data).hexdigest()


def thumbnails(tmp_path, files, **more):
    return media.Thumbnails([Run(make_run(tmp_path, "demo:a", [make_line("1")], media=files))], **more)


def decoded(kept):
    head, _, data = kept.url.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert f"image/{image.format.lower()};" in head
    return image


def test_small_pictures_are_kept_pixel_by_pixel_and_large_ones_bounded(tmp_path):
    small, large = picture(1), picture(2, (2000, 700))
    found = thumbnails(tmp_path, {f"{sha(small)}.png": small, f"{sha(large)}.png": large})
    assert found.find("colours", "1", sha(small)) == 0 and found.find("colours", "1", sha(large)) == 1
    assert found.find("colours", "2", sha(small)) == 0 and len(found.kept) == 2  # once, whoever asks
    one, two = found.kept
    assert one.pixelated and (one.width, one.height) == (128, 128)
    assert list(decoded(one).getdata()) == list(Image.open(io.BytesIO(small)).getdata())
    assert not two.pixelated and max(decoded(two).size) == 256 == max(two.width, two.height)


def test_no_foreign_byte_is_embedded(tmp_path):
    noted = io.BytesIO()
    details = Image.Exif()
    details[0x010E] = "<script>alert(1)</script>"
    Image.new("RGB", (300, 200), "red").save(noted, "JPEG", exif=details)
    polyglot = noted.getvalue() + b"<script>alert(2)</script>"
    found = thumbnails(tmp_path, {f"{sha(polyglot)}.jpg": polyglot})
    found.find("colours", "1", sha(polyglot))
    assert b"script" not in base64.b64decode(found.kept[0].url.partition(",")[2])


@pytest.mark.parametrize(
    ("data", "why"),
    [(SVG, "no known image format"), (b"not an image", "no known image format"), (picture(3)[:60], "cannot be decoded")],
)
def test_what_cannot_be_decoded_is_said(tmp_path, data, why):
    found = thumbnails(tmp_path, {f"{sha(data)}.png": data}).find("colours", "1", sha(data))
    assert isinstance(found, media.Missing) and why in found.reason


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.types.MAX_PIXELS", 1000)
    data = picture(4)
    found = thumbnails(tmp_path, {f"{sha(data)}.png": data}).find("colours", "1", sha(data))
    assert "cannot be decoded" in found.reason


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    found = thumbnails(tmp_path, {f"{'0' * 64}.png": picture(5)}).find("colours", "1", "0" * 64)
    assert "does not match its hash" in found.reason


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, 7, None])
def test_a_name_that_is_no_hash_is_never_looked_for(tmp_path, name):
    assert "no valid hash" in thumbnails(tmp_path, {}).find("colours", "1", name).reason


def test_what_was_not_recorded_says_how_to_record_it(tmp_path):
    assert "--record media" in thumbnails(tmp_path, {}).find("colours", "1", "b" * 64).reason


def test_the_budget_holds_and_what_is_left_out_is_counted(tmp_path):
    files = {f"{sha(data)}.png": data for data in (picture(number) for number in range(6))}
    found = thumbnails(tmp_path, files, budget=1_200)
    answers = [found.find("colours", "1", name.removesuffix(".png")) for name in files]
    assert found.bytes <= 1_200 and 0 < len(found.kept) < 6
    assert found.left_out == sum(isinstance(answer, media.Missing) for answer in answers) == 6 - len(found.kept)


def test_a_picture_left_out_is_counted_once_and_not_when_it_came_later(tmp_path):
    files = {f"{sha(data)}.png": data for data in (picture(1), picture(2))}
    first, second = (name.removesuffix(".png") for name in files)
    found = thumbnails(tmp_path, files)
    for name in (first, first, second, second):
        assert found.skip(name).reason == media.OVER_BUDGET
    assert found.left_out == 2
    assert found.find("colours", "1", first) == 0 and found.left_out == 1


def test_what_was_redacted_is_not_brought_back_from_the_tasks_data(tmp_path):
    from workbench.run.redact import redact
    from workbench.tasks.catalogue import load_task

    task = load_task("mmstar-sample")
    sample = task.load(1).samples[0]
    asked = task.ask(sample).inputs["images"][0]
    plain = Run(make_run(tmp_path, "demo:a", [make_line(sample.id, media=[asked.sha256])], task=task.name))
    hidden = redact(plain, tmp_path / "hidden", b"key")
    assert media.Thumbnails([hidden]).find(task.name, sample.id, asked.sha256).reason == media.REDACTED
    assert media.Thumbnails([hidden, plain]).find(task.name, sample.id, asked.sha256) == 0


def test_none_are_made_when_none_are_wanted(tmp_path):
    data = picture(1)
    found = thumbnails(tmp_path, {f"{sha(data)}.png": data}, wanted=False)
    assert found.find("colours", "1", sha(data)).reason == media.NOT_ASKED and not found.kept


def test_a_bundles_task_never_names_a_file_to_run(tmp_path):
    mine = tmp_path / "evil.py"
    mine.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert media.TaskMedia(str(mine)).find("1", "b" * 64) is None
    assert not (tmp_path / "ran").exists()


def test_pictures_come_from_the_tasks_own_data_where_they_are_here():
    from workbench.tasks.catalogue import load_task

    task = load_task("mmstar-sample")
    sample = task.load(1).samples[0]
    asked = task.ask(sample).inputs["images"][0]
    found = media.Thumbnails([])
    assert found.find("mmstar-sample", sample.id, asked.sha256) == 0
    assert decoded(found.kept[0]).size == asked.image().size
