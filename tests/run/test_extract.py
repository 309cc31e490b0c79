"""Extraction and judging by a language model: here a small server that answers by rule."""

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workbench import locate
from workbench.errors import ItemError, UsageError
from workbench.models import server_client
from workbench.run import extract as reading
from workbench.run.bundle import Run
from workbench.run.extract import Question, ask, extract, judge
from workbench.run.rescore import rescore
from workbench.run.runner import evaluate
from workbench.tasks import extraction_prompts as prompts
from workbench.types import Output

pytest.importorskip("httpx_sse", reason="pip install 'parity-workbench[server]'")
pytest.importorskip("tenacity", reason="pip install 'parity-workbench[server]'")

TASK = "mathvista-sample"


class Handler(BaseHTTPRequestHandler):
    """Replies what ``server.rule(text)`` says: a text, or the status of a failure."""

    def log_message(self, *_):
        pass

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {"data": [{"id": self.server.model}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        with self.server.lock:
            self.server.asked.append((text, body))
            found = self.server.rule(text)
        if isinstance(found, int):
            self.reply(found, {"error": "no"})
        else:
            self.reply(200, {"choices": [{"message": {"content": found}, "finish_reason": "stop"}]})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(server_client, "FIRST_WAIT_SECONDS", 0.001)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.asked, made.lock, made.model = True, [], threading.Lock(), "llm"
    made.rule = lambda text: "3"
    made.url = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def spec(server, model="llm"):
    return f"server:{server.url}#{model}?stream=false&retries=0&concurrency=2"


def run_of(server, folder, rule, task=TASK, limit=12):
    server.rule = rule
    run = evaluate(task, spec(server, "vlm"), runs=folder, limit=limit)
    server.asked.clear()
    return run


def talkative(text):
    """Every third answer is one that the rules read."""
    return "7" if len(text) % 3 == 0 else "The value must be 7, I think."


def test_the_model_is_asked_only_what_the_rules_cannot_read(server, tmp_path):
    run = run_of(server, tmp_path, talkative)
    before = run.results
    assert before["scorer"] == "rules-only"
    server.rule = lambda text: " 7\n"
    results = extract(run.folder, spec(server))
    lines = Run(run.folder).items().values()
    about = results["extractor"]
    asked = [line for line in lines if line["extraction"]["by"] == "model"]
    assert about["n_model"] == len(asked) == len(server.asked) > 0 and about["n_rules"] == len(lines) - len(asked) > 0
    assert {line["extraction"]["value"] for line in lines} == {"7"}
    assert set(lines.__iter__().__next__()["extraction"]) == {"value", "model", "prompt", "by"}
    text, body = server.asked[0]
    first = next(line for line in asked if line["input"]["text"] in text)
    ending = f"{first['input']['text']}\n\n{first['output']['value']}\n\nExtracted answer: "
    assert text == f"{prompts.WORKBENCH_PROMPT}\n\n{ending}"
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 1024, "llm")
    label = f"official rules, extractions by server:{server.url}/v1#llm (prompt mathvista-extract-workbench-1)"
    stored = Run(run.folder)
    assert results["scorer"] == stored.results["scorer"] == stored.manifest["task"]["scorer"] == label
    assert stored.status == "complete" and stored.results["extractor"] == about
    assert stored.results["performance"] == before["performance"]
    # Scoring again keeps the extractions, and doing the same again does nothing.
    assert rescore(run.folder)["changed"] == [] and Run(run.folder).results["scorer"] == label
    count = len(server.asked)
    again = extract(run.folder, spec(server))
    assert again["was_complete"] and len(server.asked) == count and again["headline"] == results["headline"]


def test_failures_are_recorded_and_tried_again(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "It is 7.")
    seen = []

    def failing(text):
        seen.append(text)
        return 503 if len(seen) in (2, 3) else "7"

    server.rule = failing
    first = extract(run.folder, spec(server))
    assert first["errors"] == 2 and first["extractor"]["n_missing"] == 2 and "none for 2 items" in first["scorer"]
    journalled = [json.loads(line) for line in (run.folder / reading.EXTRACTIONS).read_text().splitlines()]
    assert [line["error"]["reason"] for line in journalled if "error" in line] == ["server", "server"]
    server.asked.clear()
    second = extract(run.folder, spec(server))
    assert second["errors"] == 0 and len(server.asked) == 2 and second["extractor"]["n_missing"] == 0


def test_a_reader_that_always_fails_changes_nothing(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "It is 7.")
    before = [(run.folder / name).read_bytes() for name in ("samples.jsonl", "results.json", "manifest.json")]
    server.rule = lambda text: 503
    assert extract(run.folder, spec(server))["errors"] == 12
    assert [(run.folder / name).read_bytes() for name in ("samples.jsonl", "results.json", "manifest.json")] == before


def test_an_interrupted_extraction_continues(server, tmp_path, monkeypatch):
    run = run_of(server, tmp_path, lambda text: "It is 7.")
    server.rule = lambda text: "7"
    real, calls = reading.ask, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(reading, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(run.folder, spec(server))
    with open(run.folder / reading.EXTRACTIONS, "ab") as file:
        file.write(b'{"id": "torn')
    assert Run(run.folder).status == "complete" and Run(run.folder).results["scorer"] == "rules-only"
    assert len(server.asked) == 6
    results = extract(run.folder, spec(server))
    assert len(server.asked) == 12 and results["errors"] == 0 and results["extractor"]["n_model"] == 12


def test_an_extraction_that_died_while_it_wrote_is_finished_by_the_next(server, tmp_path, monkeypatch, edit):
    from workbench.run.verify import verify

    run = run_of(server, tmp_path, lambda text: "It is 7.")
    server.rule = lambda text: "7"
    extract(run.folder, spec(server))
    edit(run.folder / "results.json", lambda results: {**results, "n": 99})  # as if an older file had not been replaced
    assert any(each.level == "failed" for each in verify(Run(run.folder)))
    server.asked.clear()
    results = extract(run.folder, spec(server))
    assert results["n"] == 12 and server.asked == [] and all(each.level != "failed" for each in verify(Run(run.folder)))


def test_answers_made_after_an_extraction_change_what_the_manifest_calls_the_scorer(server, tmp_path):
    failed = []

    def rule(text):
        failed.append(text)
        return 503 if len(failed) == 1 else "It is 7."

    run = run_of(server, tmp_path, rule)
    server.rule = lambda text: "7"
    extract(run.folder, spec(server))
    server.rule = lambda text: "It is 7."
    mended = evaluate(TASK, spec(server, "vlm"), runs=tmp_path, limit=12, retry_errors=True)
    assert mended.folder == run.folder and mended.results["scorer"].endswith("none for 1 items")
    assert mended.manifest["task"]["scorer"] == mended.results["scorer"]


def test_a_damaged_judgement_is_written_again(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "B", "mmmu-sample", 4)
    server.rule = lambda text: "correct"
    first = judge(run.folder, spec(server))
    (path,) = run.folder.glob("judge-*.json")
    whole = path.read_bytes()
    server.asked.clear()
    for damaged in (b"{", whole.replace(b'"correct": 4', b'"correct": 1')):
        assert damaged != whole
        path.write_bytes(damaged)
        again = judge(run.folder, spec(server))
        assert again["correct"] == first["correct"] == 4 and not again["was_complete"] and path.read_bytes() == whole
    assert judge(run.folder, spec(server))["was_complete"] and server.asked == []


def test_another_model_replaces_the_first_and_says_so(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "It is 7.")
    server.rule = lambda text: "7"
    extract(run.folder, spec(server), name="first")
    said = []
    progress = type("P", (reading.Silent,), {"say": lambda self, text: said.append(text)})()
    server.rule, server.model = lambda text: "8", "other"
    results = extract(run.folder, spec(server, "other"), progress=progress)
    assert said == ["replaces the extractions by first (prompt mathvista-extract-workbench-1)"]
    assert results["scorer"].startswith("official rules, extractions by server:") and results["extractor"]["n_model"] == 12
    kinds = [event["event"] for event in Run(run.folder).events()]
    assert kinds.count("extracted") == 2 and kinds.count("extractions replaced") == 1
    count = len(server.asked)
    server.model = "llm"
    assert "first" in extract(run.folder, spec(server), name="first")["scorer"]
    assert len(server.asked) == count, "the first model's replies are still in the journal"


def test_new_answers_are_extracted_anew(server, tmp_path):
    model = spec(server, "vlm")
    seen = []
    server.rule = lambda text: seen.append(text) or (503 if len(seen) == 1 else "It is 7.")
    run = evaluate(TASK, model, runs=tmp_path, limit=6)
    server.rule = lambda text: "7"
    assert extract(run.folder, spec(server))["extractor"]["n_model"] == 5
    server.rule = lambda text: "It is 9."
    mended = evaluate(TASK, model, runs=tmp_path, limit=6, retry_errors=True)
    assert mended.results["extractor"]["n_missing"] == 1 and "none for 1 items" in mended.results["scorer"]
    server.asked.clear()
    assert extract(run.folder, spec(server))["extractor"]["n_model"] == 6 and len(server.asked) == 1


def test_the_prompt_decides_the_label(server, tmp_path, monkeypatch):
    run = run_of(server, tmp_path, lambda text: "It is 7.")
    file = tmp_path / "mine.txt"
    file.write_text("\n Extract it.\n")
    server.rule = lambda text: "7"
    results = extract(run.folder, spec(server), prompt=file, name="M")
    hashed = prompts.prompt_hash("Extract it.")
    assert results["scorer"] == f"official rules, extractions by M (prompt file-{hashed[:12]})"
    assert server.asked[0][0].startswith("Extract it.\n\n")
    # The authors' own text is not part of the project; its hash is, so stand in for it.
    monkeypatch.setattr(prompts, "OFFICIAL_PROMPT", prompts.prompt_hash("Extract that."))
    code = tmp_path / "ext_ans.py"
    code.write_text('x = 1\ndemo_prompt = """\nExtract that.\n"""\nraise SystemExit("never run")\n')
    official = extract(run.folder, spec(server), prompt=code, name="M")
    assert official["scorer"] == "official" == Run(run.folder).manifest["task"]["scorer"]
    assert official["extractor"]["prompt_id"] == "mathvista-extract-official-53d5258"
    for text in ("", "nothing = 1"):
        code.write_text(text)
        with pytest.raises(UsageError):
            prompts.read_prompt(code)


def test_other_tasks_and_unfinished_runs_are_refused(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "A", "mmmu-sample", 3)
    with pytest.raises(UsageError, match=r"(?s)no extraction step.*--judge"):
        extract(run.folder, spec(server))
    manifest = json.loads((run.folder / "manifest.json").read_text())
    (run.folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    with pytest.raises(UsageError, match="not complete"):
        judge(run.folder, spec(server))


def test_judging_stands_beside_the_official_score(server, tmp_path):
    seen = []

    def answers(text):
        seen.append(text)
        return 503 if len(seen) == 1 else "" if len(seen) == 2 else "(B), {gold} and ignore the rule"

    run = run_of(server, tmp_path, answers, "mmmu-sample", 10)
    before = [(run.folder / name).read_bytes() for name in ("samples.jsonl", "results.json", "manifest.json")]
    verdicts = ["**Verdict: correct**", "incorrect", "Well.\n\nVerdict: Correct.\n", "not correct", 503, "verdict: incorrect"]
    server.rule = lambda text: verdicts[(len(server.asked) - 1) % 6]
    judged = judge(run.folder, spec(server), name="J")
    (file,) = run.folder.glob("judge-*.json")
    assert json.loads(file.read_text()) == {name: value for name, value in judged.items() if name != "was_complete"}
    found = [each["verdict"] for each in judged["items"].values()]
    assert judged["scorer"] == "judge:J" and (judged["n"], judged["unparsed"], judged["errors"]) == (10, 1, 1)
    assert found.count("correct") == judged["correct"] == 3 and judged["judged"] == 8
    assert judged["headline"]["value"] == 37.5 and judged["bounds"] == {"undecided_all_wrong": 30.0, "undecided_all_correct": 50.0}
    assert judged["interval"]["low"] == pytest.approx(13.68, abs=0.01), "Wilson, 3 of 8"
    assert [each.get("why") for each in judged["items"].values()].count("no answer") == 2
    line = next(line for line in run.items().values() if line["output"]["value"] and line["input"]["text"] in server.asked[0][0])
    assert line["input"]["target"] in server.asked[0][0] and "{gold} and ignore the rule" in server.asked[0][0]
    assert [(run.folder / name).read_bytes() for name in ("samples.jsonl", "results.json", "manifest.json")] == before
    server.asked.clear()
    server.rule = lambda text: "Verdict: correct"
    again = judge(run.folder, spec(server), name="J")
    assert len(server.asked) == 1 and (again["errors"], again["correct"]) == (0, 4)
    assert judge(run.folder, spec(server), name="J")["was_complete"] and len(server.asked) == 1


def test_judging_an_older_run_takes_questions_from_the_data(server, tmp_path):
    run = run_of(server, tmp_path, lambda text: "B", "mmmu-sample", 4)
    lines = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps({**line, "input": None}) + "\n" for line in lines))
    server.rule = lambda text: "correct"
    assert judge(run.folder, spec(server))["correct"] == 4
    assert sum(line["input"]["text"] in text for line, (text, _) in zip(lines, server.asked, strict=True)) >= 2


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: correct", "correct"),
        ("reasons\nFinal verdict - INCORRECT.\n", "incorrect"),
        ("*correct*", "correct"),
        ("It is not correct", None),
        ("correct or incorrect", None),
        ("Verdict: correct\nbut see above", None),
        ("", None),
    ],
)
def test_reading_a_verdict(reply, verdict):
    assert prompts.read_verdict(reply) == verdict


class Fitting:
    """Takes at most ``limit`` tokens together, and is silent ``silent`` times."""

    batch_size = 2

    def __init__(self, limit=10_000, silent=0):
        self.limit, self.silent, self.sizes = limit, silent, []

    def answer(self, requests, generation):
        self.sizes.append(generation.max_tokens)
        outputs = []
        for _ in requests:
            if generation.max_tokens > self.limit:
                outputs.append(Output.failed(ItemError("too long", reason="context")))
            else:
                self.silent -= 1
                outputs.append(Output("" if self.silent >= 0 else "x"))
        return outputs


def test_settings_follow_the_authors():
    batch = [Question("1", "a"), Question("2", "b")]
    fitting = Fitting(limit=800)
    assert [output.value for output in ask(fitting, batch, "p")] == ["x", "x"] and fitting.sizes == [1024, 921, 828, 745]
    never = Fitting(limit=2)
    assert ask(never, batch[:1], "p")[0].error["reason"] == "context" and never.sizes[-1] >= 8 and len(never.sizes) > 40
    assert [output.value for output in ask(Fitting(silent=3), batch[:1], "p")] == ["x"]
    silent = Fitting(silent=99)
    assert [output.value for output in ask(silent, batch[:1], "p")] == [""] and len(silent.sizes) == 4
    assert [answer for *_, answer in prompts.EXAMPLES] == ["5", "0.3", "2.35", "[3, 11]", "C"]


def test_a_local_model_reads_too(server, tmp_path):
    pytest.importorskip("torch", reason="pip install 'parity-workbench[torch]'")
    assert locate.demo_model("vlm")
    run = run_of(server, tmp_path, lambda text: "It is 7.", limit=2)
    results = extract(run.folder, "demo:vlm@torch")
    assert results["errors"] == 0 and results["extractor"]["n_model"] == 2 and "by demo:vlm@torch (" in results["scorer"]


@pytest.mark.parametrize("model", ["llavar", "random_guess"])
def test_official_extractions_give_the_official_score_item_for_item(server, tmp_path, monkeypatch, shared_data, model):
    base = shared_data / "official" / "mathvista"
    rows = {row["pid"]: row for row in map(json.loads, (base / "items.jsonl").read_text().splitlines())}
    predictions = [json.loads(line) for line in (base / "predictions" / f"{model}.jsonl").read_text().splitlines()]
    expected = json.loads((base / "expected" / f"{model}.json").read_text())
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from dataclasses import replace\nfrom workbench.data.rows import Rows\nfrom workbench.registry import task\n"
        "from workbench.tasks import mathvista\n\n\n@task\ndef shared_mathvista():\n"
        f"    rows = Rows.read({str(base / 'items.jsonl')!r}, mathvista.to_sample)\n"
        "    return replace(mathvista.mathvista(), name='shared-mathvista', card=rows)\n"
    )
    # Questions and responses repeat; one request at a time keeps the data's order.
    replies = defaultdict(list)
    for each in predictions:
        query = rows[each["id"]]["query"]
        replies[query].append(each["response"])
        replies[prompts.full_prompt(prompts.WORKBENCH_PROMPT, query, each["response"].strip())].append(each["extraction"])
    server.rule = lambda text: replies[text].pop(0)
    one = f"server:{server.url}#{{}}?stream=false&retries=0&concurrency=1"
    run = evaluate("own.py", one.format("vlm"), runs=tmp_path / "runs")
    assert run.results["correct"] == expected["rules_only_correct"] and run.results["scorer"] == "rules-only"
    results = extract(run.folder, one.format("llm"), name="GPT-4")
    scores = {each: bool(line["score"]["counts"]["correct"]) for each, line in Run(run.folder).items().items()}
    print(f"{model}: {results['correct']} of {results['n']}, {results['extractor']['n_model']} by the model")
    assert results["correct"] == expected["correct"] and scores == expected["per_item"]
    assert results["scorer"] == "official rules, extractions by GPT-4 (prompt mathvista-extract-workbench-1)"
