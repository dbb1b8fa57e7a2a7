"""The command, against an upstream that knows how each homework is to be graded, and by which prompt how."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deploy.grading_model import Asked
from deploy.grading_sheets import in_full
from pool_monitor.grading import evaluate as command
from pool_monitor.grading.dataset import DatasetError, Image, load_dataset
from pool_monitor.grading.evaluate import KEPT, main
from pool_monitor.grading.quality import PLAN
from tests.grading_simulators import running_simulator
from tests.pool_monitor.grading.pictures import png
from tests.support import PATIENCE, holds, serving

KEY = "sk-very-secret"
GRADES = ("CORRECT", "INCORRECT", "EMPTY", "PARTIAL_CREDIT")


def dataset(folder: Path, count: int, questions: int = 10) -> Path:
    """Homeworks whose every grade is CORRECT."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"h{number:03}.png").write_bytes(png(1024, 768))
        labels = [
            {"question_number": one, "grade": "CORRECT", "points_earned": 1.0, "student_answer": f"x = {one}"}
            for one in range(1, questions + 1)
        ]
        homework = {
            "image": f"h{number:03}.png",
            "prompt_after": f"homework {number} of {questions}",
            "questions": labels,
        }
        (folder / f"h{number:03}.json").write_text(json.dumps(homework))
    return folder


class Upstream:
    """Speaks OpenAI's API; grades all CORRECT, but what `wrong` says of (homework, question, whether compact)."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.wrong: Callable[[int, int, bool], bool] = lambda *_: False
        self.script: Callable[[int, bool], web.Response | str | None] = lambda *_: None
        self.go = asyncio.Event()
        self.go.set()
        self.key = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.key = request.headers["Authorization"]
        body = await request.json()
        text = body["messages"][0]["content"][0]["text"]
        compact = "minified" in text
        words = text.rsplit("homework ", 1)[1].split()
        homework, questions = int(words[0]), int(words[2])
        self.requests.append({"homework": homework, "compact": compact, "body": body})
        await self.go.wait()
        scripted = self.script(homework, compact)
        if isinstance(scripted, web.Response):
            return scripted
        grades = ["I" if self.wrong(homework, one, compact) else "C" for one in range(1, questions + 1)]
        content = scripted or (rows(grades) if compact else full(grades))
        message = {"role": "assistant", "content": content}
        return web.json_response(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 1000 if compact else 1200,
                    "completion_tokens": 400 if compact else 1000,
                    "total_tokens": 1400 if compact else 2200,
                },
            }
        )


def rows(grades: list[str]) -> str:
    told = [
        [one, f"{one}. What?", 0, f"X={one}", 0 if grade == "C" else "x = 0", grade, 90, "ok"]
        for one, grade in enumerate(grades, 1)
    ]
    return json.dumps({"s": "Mathematics", "c": 95, "k": len(grades), "q": told, "t": "fine", "n": ""})


def full(grades: list[str]) -> str:
    questions = [
        {
            "question_number": one,
            "raw_question_text": f"{one}. What?",
            "question_text": "What?",
            "student_answer": f"x = {one}",
            "correct_answer": f"x = {one}",
            "grade": {"C": "CORRECT", "I": "INCORRECT"}[grade],
            "points_earned": {"C": 1.0, "I": 0.0}[grade],
            "points_possible": 1.0,
            "confidence": 0.9,
            "has_visuals": False,
            "feedback": "ok",
            "sub_parts": [],
        }
        for one, grade in enumerate(grades, 1)
    ]
    return f"```json\n{json.dumps({'subject': 'Mathematics', 'questions': questions}, indent=2)}\n```"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    fake = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fake.answer)
    async with serving(app, shutdown_timeout=0) as url:
        fake.url = f"{url}/v1"
        yield fake


async def evaluated(upstream: Upstream, folder: Path, *options: str, yes: bool = True) -> int:
    argv = ["--dataset", str(folder), "--upstream", upstream.url, *(["--yes"] if yes else []), *options]
    async with asyncio.timeout(PATIENCE * 3):
        return await asyncio.to_thread(main, argv, {"OPENAI_API_KEY": KEY})


# -- what is found


async def test_within(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 24)
    assert await evaluated(upstream, folder, "--json") == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["verdict"] == "within"
    assert (document["homeworks"], document["questions"], document["failed"]) == (24, 240, 0)
    assert document["ways"] == [
        {
            "accuracy": {"estimate": 1.0, "low": 1.0, "high": 1.0},
            "questionsFound": 1.0,
            "studentAnswersRead": 1.0,
            "questionsInvented": 0,
            "pointsOff": 0.0,
            "unreadable": 0,
            "askedAgain": 0,
            "promptTokens": 24 * tokens_in,
            "completionTokens": 24 * tokens_out,
            "dollars": pytest.approx(24 * (tokens_in * 0.15 + tokens_out * 0.60) / 1e6),
        }
        for tokens_in, tokens_out in ((1200, 1000), (1000, 400))
    ]
    assert "24 homeworks with 240 questions, 2 ways to grade, 1 time each: 48 calls to gpt-4o-mini" in told.err
    # 24 images of four tiles in both ways, besides the texts
    estimated = int(told.err.partition("estimated: ")[2].split()[0].replace(",", ""))
    assert 48 * (2833 + 4 * 5667) < estimated < 48 * (2833 + 4 * 5667) + 24 * 600
    assert "a claim of ±2 % needs 2,627 questions if the two ways differ in 10 % of them, and 220 if" in told.err
    assert "48/48 answered, 0 errors, $0.0" in told.err
    assert KEY not in told.out + told.err
    assert upstream.key == f"Bearer {KEY}"


async def test_different(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 24)
    upstream.wrong = lambda homework, one, compact: compact and one <= 1 + homework % 2
    assert await evaluated(upstream, folder) == 1
    told = capsys.readouterr().out
    assert "different: accuracy differs by -15.00 percentage points" in told
    assert "right in the first alone: 36, in the second alone: 0; McNemar's exact test p = 2.91e-11" in told
    assert "original, detail auto" in told.splitlines()[0]
    assert "100.0 % (100.0 to 100.0)" in told.splitlines()[1]
    assert "85.0 %" in told.splitlines()[1]


async def test_not_enough(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 20, 2)
    assert await evaluated(upstream, folder, "--limit", "3") == 3
    told = capsys.readouterr().out
    assert "not enough: 6 questions of at least" in told
    assert len(upstream.requests) == 6


async def test_requests_are_those_of_a_caller(upstream: Upstream, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", 1)
    await evaluated(upstream, folder, "--detail", "high", "--temperature", "default", "--model", "gpt-4o")
    await evaluated(upstream, folder)
    first, second, *others = [one["body"] for one in sorted(upstream.requests, key=lambda one: one["compact"])]
    assert first["model"] == "gpt-4o"
    assert "temperature" not in first
    image = first["messages"][0]["content"][1]
    assert image["image_url"]["detail"] == "high"
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert second["temperature"] == 0
    assert len(others) == 2


async def test_repeats_show_how_far_a_prompt_agrees_with_itself(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "d", 2)
    seen: set[int] = set()

    def wavering(homework: int, one: int, compact: bool) -> bool:
        if one == 10 and not compact:
            seen.add(homework)
        return one == 1 and not compact and homework in seen

    upstream.wrong = wavering
    assert await evaluated(upstream, folder, "--repeat", "2", "--json", "--concurrency", "1") == 3
    document = json.loads(capsys.readouterr().out)
    assert document["gradeAgreementOfTheFirstWithItself"]["estimate"] == pytest.approx(0.9)
    # a question that is asked twice is one question
    assert document["questions"] == 20
    assert document["ways"][0]["accuracy"]["estimate"] == pytest.approx(0.95)
    assert len(upstream.requests) == 8


async def test_an_answer_that_is_not_certain_is_asked_again(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "d", 2)
    upstream.script = lambda homework, compact: "I cannot." if compact and homework == 1 else None
    assert await evaluated(upstream, folder, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    original, compact = document["ways"]
    assert (original["askedAgain"], compact["askedAgain"], compact["unreadable"]) == (0, 1, 0)
    assert compact["promptTokens"] == 2 * 1000 + 1200
    assert compact["accuracy"]["estimate"] == 1.0


async def test_prices_of_details(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 2)
    await evaluated(upstream, folder, "--price-detail", "--detail", "low", "--json")
    document = json.loads(capsys.readouterr().out)
    counts = {row["detail"]: row["tokens"] for row in document["priceDetail"]}
    assert counts == {
        "high": 2 * (2833 + 4 * 5667),
        "low": 2 * 2833,
        "high, 1024 pixels at most": 2 * (2833 + 4 * 5667),
        "high, 512 pixels at most": 2 * (2833 + 5667),
    }
    assert document["compares"] == ["original, detail auto", "compact, detail auto"]
    [low] = document["lowDetail"]
    assert low["compares"] == ["compact, detail auto", "compact, detail low"]
    details = [one["body"]["messages"][0]["content"][1]["image_url"]["detail"] for one in upstream.requests]
    assert sorted(details) == ["auto"] * 4 + ["low"] * 2
    await evaluated(upstream, folder, "--price-detail")
    told = capsys.readouterr().out
    assert "detail high, 512 pixels at most" in told
    # everything was answered before
    assert len(upstream.requests) == 6


# -- going on


async def test_what_failed_is_asked_by_the_next_run(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "d", 3)
    bad = {"error": {"message": f"no such {KEY}", "type": "invalid_request_error"}}
    upstream.script = lambda homework, _: web.json_response(bad, status=400) if homework == 1 else None
    assert await evaluated(upstream, folder) == 3
    told = capsys.readouterr().err
    assert "2 of 6 are not answered; the last error: BadRequestError" in told
    assert "6 calls" in told
    assert KEY not in told
    upstream.script = lambda *_: None
    upstream.requests.clear()
    with (folder / KEPT).open("ab") as file:
        file.write(b'{"key":"half writ')
    assert await evaluated(upstream, folder) == 3
    assert [one["homework"] for one in upstream.requests] == [1, 1]
    assert "2 calls to gpt-4o-mini (4 answered before)" in capsys.readouterr().err
    # what was added behind the half line is read as well
    assert await evaluated(upstream, folder, yes=False) == 3
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(("status", "calls"), [(401, 1), (400, 10)])
async def test_a_hopeless_upstream_is_left(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, calls: int
) -> None:
    folder = dataset(tmp_path / "d", 12)
    bad = {"error": {"message": "no", "type": "x"}}
    upstream.script = lambda *_: web.json_response(bad, status=status)
    assert await evaluated(upstream, folder, "--concurrency", "1") == 4
    assert len(upstream.requests) == calls
    assert "24 of 24 are not answered" in capsys.readouterr().err


async def test_ctrl_c_keeps_what_is_answered_and_says_how_to_go_on(upstream: Upstream, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", 6)
    # whoever runs the tests in the background has Ctrl-C ignored, and what they start as well
    code = (
        "import os, signal, sys; from pool_monitor.grading.evaluate import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main(sys.argv[1:], os.environ))"
    )
    arguments = ("--dataset", str(folder), "--upstream", upstream.url, "--yes", "--concurrency", "1")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *arguments,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    def hold(*_: object) -> None:
        if len(upstream.requests) == 5:
            upstream.go.clear()

    upstream.script = hold
    try:
        await holds(lambda: len(upstream.requests) == 6)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert out == b""
    assert b"stopped; 5 of 12 answered and kept" in err
    assert b"Traceback" not in err
    upstream.go.set()
    upstream.script = lambda *_: None
    upstream.requests.clear()
    assert await evaluated(upstream, folder) == 3
    assert len(upstream.requests) == 7


# -- asking before it costs


@pytest.mark.parametrize(
    ("terminal", "typed", "asked"), [(True, "y\n", 2), (True, "\n", 0), (True, "no\n", 0), (False, "y\n", 0)]
)
async def test_nothing_is_spent_without_a_yes(
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    typed: str,
    asked: int,
) -> None:
    folder = dataset(tmp_path / "d", 1)

    class Stdin:
        def isatty(self) -> bool:
            return terminal

        def readline(self) -> str:
            return typed

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert await evaluated(upstream, folder, yes=False) == (3 if asked else 2)
    assert len(upstream.requests) == asked
    told = capsys.readouterr().err
    assert "estimated: " in told
    assert ("go on?" in told) is terminal


def test_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", str(dataset(tmp_path / "d", 1)), "--yes"], {}) == 2
    assert "set OPENAI_API_KEY or GRADING_API_KEY" in capsys.readouterr().err


def test_an_unknown_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", str(dataset(tmp_path / "d", 1)), "--template", "none"], {}) == 2
    assert "--template none: allowed: homework-grading" in capsys.readouterr().err


def test_answers_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 1)
    assert main(["--dataset", str(folder), "--output", str(tmp_path / "none" / "kept")], {}) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_help_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"], {})
    assert "within ±2 %, 1 different" in " ".join(capsys.readouterr().out.split())


# -- datasets


def test_every_fault_of_a_dataset_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "d", 1)
    label = {"question_number": 1, "grade": "CORRECT"}
    (folder / "text.png").write_text("no picture")
    (folder / "page.txt").write_text("no picture")
    faulty: dict[str, Any] = {
        "a": {"image": "h000.png", "questions": [{**label, "grade": "RIGHT"}, {**label, "question_number": None}, 7]},
        "b": {"image": ["h000.png", "gone.png"], "questions": [{**label, "points_earned": "1"}]},
        "c": {"image": "../secret.png", "questions": [{**label, "student_answer": 4}]},
        "d": {"images": "h000.png", "prompt_before": 1, "questions": [label]},
        "e": {"image": "text.png", "questions": [{"question_number": 1, "sub_parts": [{"question_number": "1a"}]}]},
        "f": {"image": "page.txt", "questions": []},
        "g": [],
    }
    for name, document in faulty.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    (folder / "h.json").write_text("{")
    (folder / "i.json").write_bytes(b"\xff")
    assert main(["--dataset", str(folder)], {}) == 2
    told = capsys.readouterr()
    assert told.out == ""
    for line in (
        "17 faults:",
        "a.json: questions[0].grade: it is 'RIGHT'; allowed: CORRECT, INCORRECT, EMPTY, PARTIAL_CREDIT",
        "a.json: questions[1].question_number: it is None; allowed: a number, or a text such as 1a",
        "a.json: questions[2]: it is no JSON object",
        "b.json: image 'gone.png': it cannot be read: No such file or directory",
        "b.json: questions[0].points_earned: it is '1'; allowed: a number",
        "c.json: image '../secret.png': it is not in the folder",
        "c.json: questions[0].student_answer: it is 4; allowed: a text",
        "d.json: images: this key is not known; did you mean image?",
        "d.json: image: it must be the name of a file beside it, or a list of such names",
        "d.json: prompt_before: it is 1; allowed: a text",
        "e.json: image 'text.png': it is no picture, as far as can be seen",
        "e.json: questions[0].sub_parts[0].grade: it is None; allowed",
        "f.json: questions: it must be a list of at least one question",
        "g.json: it is no JSON object",
        "h.json: it is not JSON: ",
        "i.json: it is not JSON: it is not UTF-8 text",
    ):
        assert line in told.err, told.err


def test_a_dataset_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="it is no folder"):
        load_dataset(tmp_path / "none", PLAN, GRADES)
    with pytest.raises(DatasetError, match=r"there is no \*\.json in it"):
        load_dataset(tmp_path, PLAN, GRADES)


def test_a_homework(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", 0)
    (folder / "page.jpg").write_bytes(png(30, 40))
    parts = [{"question_number": "1a", "grade": "EMPTY"}, {"question_number": "1b", "grade": "CORRECT"}]
    questions = [{"question_number": 1, "sub_parts": parts}, {"question_number": 2, "grade": "CORRECT"}]
    (folder / "a.json").write_text(
        json.dumps({"image": ["page.jpg"], "prompt_before": "Be kind.", "questions": questions})
    )
    [homework] = load_dataset(folder, PLAN, GRADES)
    assert (homework.name, homework.before, homework.after) == ("a", "Be kind.", "")
    assert [(image.width, image.height) for image in homework.images] == [(30, 40)]
    assert homework.count(PLAN) == 3


# -- against the simulator, which writes both forms without what expands them


def drawn_dataset(folder: Path, count: int) -> Path:
    """Homeworks labelled with what the simulator reads off their images."""
    folder.mkdir()
    for number in range(count):
        name = f"h{number:03}"
        (folder / f"{name}.png").write_bytes(png(600, 400 + number))
        url = Image(folder / f"{name}.png", 600, 400).url()
        image = {"type": "image_url", "image_url": {"url": url}}
        sheet = Asked.of({"messages": [{"role": "user", "content": [image]}]}).sheet
        homework = {"image": f"{name}.png", "questions": in_full(sheet)["questions"]}
        (folder / f"{name}.json").write_text(json.dumps(homework))
    return folder


async def test_the_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = drawn_dataset(tmp_path / "d", 60)
    async with running_simulator() as simulator:
        argv = ["--dataset", str(folder), "--upstream", simulator.url, "--yes", "--json"]
        assert await asyncio.to_thread(main, argv, {"GRADING_API_KEY": KEY}) == 0
        same = json.loads(capsys.readouterr().out)
        simulator.state.disagree = 15.0
        argv += ["--output", str(tmp_path / "other.jsonl")]
        assert await asyncio.to_thread(main, argv, {"GRADING_API_KEY": KEY}) == 1
        other = json.loads(capsys.readouterr().out)
    for way in same["ways"]:
        assert way["accuracy"]["estimate"] == way["questionsFound"] == way["studentAnswersRead"] == 1.0
        assert way["questionsInvented"] == way["pointsOff"] == way["unreadable"] == 0
    assert same["ways"][1]["completionTokens"] < 0.5 * same["ways"][0]["completionTokens"]
    assert other["ways"][0]["accuracy"]["estimate"] == 1.0
    assert -0.25 < other["difference"]["estimate"] < -0.08
