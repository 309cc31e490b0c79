"""Messages of foreign libraries leave a machine without its paths and names."""

import json

import pytest

from workbench.run.scrub import Private

ADA = Private.of(
    ["/Users/ada love", "/Users/ada love/my work", "/private/tmp/x"], ["ada", "adas-macbook.local", "adas-macbook", "root", "me"]
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('  File "/Users/ada love/my work/v/coremltools/model.py", line 3, in load', '  File "…/model.py", line 3, in load'),
        ("cannot open /private/tmp/x/y.mlpackage: gone", "cannot open …/y.mlpackage: gone"),
        ("path=/Users/bob/a at=(/opt/x/y) ['/opt/m.mlpackage'] path:/home/eve/b", "path=…/a at=(…/y) ['…/m.mlpackage'] path:…/b"),
        ("file:///Users/bob/x.py and ~/secret/y and C:\\Users\\bob\\z.py", "…/x.py and …/y and …/z.py"),
        ("clang -I/Users/bob/include/m.h -L/opt/bob/lib", "clang -I…/m.h -L…/lib"),
        ("Ada on ADAS-MacBook.local", "… on …"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07and\ttab", "red and tab"),
        ("adapter, root, me; a/b, 3/4", "adapter, root, me; a/b, 3/4"),
        ("see https://github.com/apple/coremltools/issues/12", "see https://github.com/apple/coremltools/issues/12"),
        ("demo:vlm@coreml?units=ALL&precision=fp16", "demo:vlm@coreml?units=ALL&precision=fp16"),
    ],
)
def test_paths_and_names_go_and_the_message_stays(text, left):
    assert ADA.scrubbed(text) == left


def test_a_folder_of_this_machine_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Private.here()
    assert here.found_in(f'{{"path": "{tmp_path}/x"}}') == str(tmp_path) and here.found_in('{"path": "x"}') is None
    odd = tmp_path / "Zoë's"
    odd.mkdir()
    assert Private.here(odd).found_in(json.dumps({"path": f"{odd}/x"})) is not None, "JSON may write it in another way"
    assert str(tmp_path) not in here.scrubbed(f"failed: {tmp_path}/run one/x")
