"""`siding-monitor evaluate`: grade labelled homework with both prompts, and say what may be said of the difference.

Exit status: 0 within ±2 %, 1 different, 2 it cannot be done as asked, 3 not enough or undecided, 4 the upstream gave
up on it, 130 stopped by Ctrl-C. With --price-detail --detail low, the status is that of the prompts, not of the detail.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import openai

from config.output import say
from config.process import INTERRUPTED
from config.words import counted, masked
from pool_monitor.grading import images, tokens
from pool_monitor.grading.calls import Left
from pool_monitor.grading.costs import ANSWER_TOKENS, input_tokens, spent
from pool_monitor.grading.dataset import DatasetError, Homework, load_dataset
from pool_monitor.grading.evaluate_report import (
    Answers,
    Evaluation,
    dollars_text,
    evaluate,
    evaluation_json,
    evaluation_text,
)
from pool_monitor.grading.evaluate_runs import (
    RETRIES,
    Arm,
    Asker,
    Job,
    Parameters,
    Progress,
    Result,
    Results,
    Stopped,
    body_of,
    completer,
    in_form,
    key_of,
    run,
)
from pool_monitor.grading.models import Model, ModelsError, load_models
from pool_monitor.grading.paired import PLANNED_SHARE, Verdict, expected_share, needed
from pool_monitor.grading.quality import QualityFields, fields_of
from pool_monitor.grading.reading import Form, read_answer
from pool_monitor.grading.template_files import TemplatesError, load_templates
from pool_monitor.grading.templates import Template

PROG = "siding-monitor evaluate"
UNUSABLE, GAVE_UP = 2, 4
STATUS = {Verdict.WITHIN: 0, Verdict.DIFFERENT: 1, Verdict.NOT_ENOUGH: 3, Verdict.UNDECIDED: 3}
KEPT = ".siding-evaluate.jsonl"
SMALLER_SIDES = (1024, 512)
"""Pixels of the longest side, for which images are priced as well."""
SECONDS = 600.0


class Unusable(Exception):
    """It cannot be done as asked. Its text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be asked. arms -- the first two are compared, and the second with the third."""

    template: Template
    templates: Sequence[Template]
    named: QualityFields
    parameters: Parameters
    model: Model | None
    homeworks: Sequence[Homework]
    arms: Sequence[Arm]
    repeats: int
    jobs: Sequence[Job]
    tokens: Mapping[str, int]
    """Estimated input tokens of a job by its key; without those of images where the model is not known."""

    def dollars(self, jobs: Sequence[Job]) -> float | None:
        """Estimated; None where the model has no known price."""
        if self.model is None:
            return None
        model = self.model
        return sum(model.cost(self.tokens[job.key], self.answer_tokens(job)) for job in jobs)

    def answer_tokens(self, job: Job) -> int:
        """Estimated."""
        return ANSWER_TOKENS[job.arm.form] * job.homework.count(self.named)

    @property
    def questions(self) -> int:
        return sum(homework.count(self.named) for homework in self.homeworks)

    def bill(self, usage: Mapping[str, Any]) -> float | None:
        """Dollars for what was reported; None where the model has no known price."""
        return spent(usage, self.model) if self.model is not None else None


# -- what is asked for


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _temperature(text: str) -> float | None:
    return None if text == "default" else float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Grade labelled homework with the original and the compact prompt, and compare the grades. The key "
        "comes from OPENAI_API_KEY or GRADING_API_KEY. What was answered is kept: a second run asks only what is "
        "missing.",
        epilog="Exit status: 0 within ±2 %, 1 different, 2 it cannot be done as asked, 3 not enough or undecided, "
        "4 the upstream gave up on it, 130 stopped by Ctrl-C.",
    )
    add = parser.add_argument
    add("--dataset", type=Path, required=True, help="a folder with a JSON file for each homework, and its images")
    add("--upstream", help="the grading upstream itself, not a pool monitor, which would change the original prompt")
    add("--model", default="gpt-4o-mini", help="default: %(default)s")
    add("--template", default="homework-grading", help="the prompt template; default: %(default)s")
    add("--limit", type=_positive, help="only so many homeworks, by name")
    add("--concurrency", type=_positive, default=4, help="so many at once; default: %(default)s")
    add("--repeat", type=_positive, default=1, help="ask each so often; shows how far a prompt agrees with itself")
    add("--detail", choices=("low", "high", "auto"), default="auto", help="of the images; default: %(default)s")
    add("--temperature", type=_temperature, default=0.0, help="a number, or default for the model's own; default: 0")
    add("--price-detail", action="store_true", help="price the images at low detail and smaller as well; with --detail "
        "low, grade at low detail beside auto, and compare")  # fmt: skip
    add("--yes", action="store_true", help="do not ask before it costs money")
    add("--json", action="store_true", help="the result as JSON")
    add("--output", type=Path, help=f"where answers are kept; default: {KEPT} in the dataset")
    return parser


def arms_of(detail: str, price_detail: bool) -> list[Arm]:
    """The ways to compare."""
    if price_detail and detail == "low":
        return [Arm(Form.ORIGINAL, "auto"), Arm(Form.COMPACT, "auto"), Arm(Form.COMPACT, "low")]
    return [Arm(Form.ORIGINAL, detail), Arm(Form.COMPACT, detail)]


def make_plan(given: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """Everything read and checked. Raises Unusable, DatasetError, TemplatesError, ModelsError and OSError."""
    folder, models_file = environ.get("GRADING_TEMPLATES"), environ.get("GRADING_MODELS_FILE")
    templates = load_templates(Path(folder) if folder else None)
    template = next((one for one in templates if one.name == given.template), None)
    if template is None:
        raise Unusable(f"--template {given.template}: allowed: {', '.join(one.name for one in templates)}")
    model = load_models(Path(models_file) if models_file else None).find(given.model)
    named = fields_of(template.shape)
    record = template.shape.record(template.shape.rows.rows or "")
    grades = next((tuple(one.codes.values() or one.enum) for one in record if one.name == named.grade), ())
    homeworks = load_dataset(given.dataset, named, grades)[: given.limit]
    parameters = Parameters(given.model, given.temperature)
    arms = arms_of(given.detail, given.price_detail)
    jobs, estimates = [], {}
    for homework in homeworks:
        for arm in arms:
            body = body_of(homework, arm.detail, template, parameters)
            asked = in_form(body, arm.form, templates)
            if isinstance(asked, Left):
                raise Unusable(f"{homework.name}: its prompt would be left as it is: {asked.value}")
            counted_tokens = input_tokens(asked, model) if model is not None else tokens.estimate(asked, None).text
            for repeat in range(given.repeat):
                job = Job(homework, arm, repeat, key_of(asked, arm.form, repeat))
                jobs.append(job)
                estimates[job.key] = counted_tokens
    return Plan(template, templates, named, parameters, model, homeworks, arms, given.repeat, jobs, estimates)


def announcement(plan: Plan, left: Sequence[Job]) -> str:
    """What it will cost, and what it can show. left -- what is not answered yet."""
    into = sum(plan.tokens[job.key] for job in left)
    out = sum(plan.answer_tokens(job) for job in left)
    without = "" if plan.model is not None else ", images not counted"
    lines = [
        f"{counted(len(plan.homeworks), 'homework')} with {counted(plan.questions, 'question')}, "
        f"{counted(len(plan.arms), 'way')} to grade, {counted(plan.repeats, 'time')} each: "
        f"{counted(len(left), 'call')} to {plan.parameters.model} ({len(plan.jobs) - len(left)} answered before)",
        f"estimated: {into:,} tokens in{without}, {out:,} out, {dollars_text(plan.dollars(left))}",
        f"a claim of ±2 % needs {needed(PLANNED_SHARE):,} questions if the two ways differ in "
        f"{100 * PLANNED_SHARE:g} % of them, and {_fewest():,} if they never do; more where those of one homework go "
        "together",
    ]
    return "\n".join(lines)


def _fewest() -> int:
    """Questions that are enough where no grade differs."""
    questions = 1
    while needed(expected_share(0, questions)) > questions:
        questions += 1
    return questions


def _agreed(stdin: TextIO, stderr: TextIO) -> bool:
    if not stdin.isatty():
        raise Unusable("nobody can be asked whether it may cost that: give --yes")
    print("go on? [y/N] ", end="", file=stderr, flush=True)
    return stdin.readline().strip().lower() in {"y", "yes"}


# -- doing it


class _Shown:
    """Progress on stderr: on one line of a terminal, else every twentieth."""

    def __init__(self, plan: Plan, left: int, stderr: TextIO) -> None:
        self.spent: float | None = 0.0
        self._plan = plan
        self._left = left
        self._stderr = stderr
        self._terminal = stderr.isatty()
        self.progress = Progress(self._show)

    def bill(self, result: Result) -> None:
        """Add what a result has cost."""
        dollars = self._plan.bill(result.usage) if result.usage is not None else 0.0
        self.spent = self.spent + dollars if self.spent is not None and dollars is not None else None

    def _show(self) -> None:
        done, faults = self.progress.done, self.progress.faults
        ended = done + faults
        if not self._terminal and ended % max(1, self._left // 20) and ended != self._left:
            return
        line = f"{done}/{self._left} answered, {counted(faults, 'error')}, {dollars_text(self.spent)}"
        print(f"\r{line}\033[K" if self._terminal else line, end="" if self._terminal else "\n", file=self._stderr)
        self._stderr.flush()

    def end(self) -> None:
        """Leave the line of progress."""
        if self._terminal:
            print(file=self._stderr)


async def _ask(
    plan: Plan, left: Sequence[Job], results: Results, shown: _Shown, upstream: str, key: str, at_once: int
) -> None:
    """Raises Stopped."""

    def keep(job: Job, result: Result) -> None:
        results.keep(job, result)
        shown.bill(result)

    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=upstream,
        max_retries=RETRIES,
        timeout=SECONDS,
        http_client=openai.DefaultAioHttpClient(),
    )
    async with client:
        asker = Asker(completer(client), read_answer, plan.template, plan.templates, plan.parameters)
        await run(left, asker, keep, at_once, shown.progress)


def _evaluations(plan: Plan, results: Results) -> list[Evaluation]:
    answers: Answers = {
        (job.homework.name, job.arm, job.repeat): results.kept[job.key] for job in plan.jobs if job.key in results.kept
    }
    pairs = list(zip(plan.arms, plan.arms[1:], strict=False))
    return [evaluate(plan.homeworks, pair, plan.repeats, answers, plan.named, plan.bill) for pair in pairs]


def price_detail(plan: Plan) -> list[dict[str, object]]:
    """What the images of the dataset cost, once, at each detail and smaller."""
    sizes = [(image.width, image.height) for homework in plan.homeworks for image in homework.images]
    ways = [("high", sizes), ("low", sizes)]
    ways += [(f"high, {side} pixels at most", [images.within(size, side) for size in sizes]) for side in SMALLER_SIDES]
    told: list[dict[str, object]] = []
    for name, seen in ways:
        found = [
            images.tokens_of(size, name.partition(",")[0], plan.model) if plan.model is not None else None
            for size in seen
        ]
        tokens_in = sum(one for one in found if one is not None) if None not in found else None
        dollars = plan.model.cost(tokens_in, 0) if plan.model is not None and tokens_in is not None else None
        told.append({"detail": name, "images": len(seen), "tokens": tokens_in, "dollars": dollars})
    return told


def _detail_text(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["the images of the dataset, once:"]
    for row in rows:
        count = "not known" if row["tokens"] is None else f"{row['tokens']:,}"
        lines.append(f"  detail {row['detail']:<30}{count:>12} tokens  {dollars_text(row['dollars'])}")
    return "\n".join(lines)


def _tell(plan: Plan, given: argparse.Namespace, evaluations: Sequence[Evaluation], failed: int) -> bool:
    first, *others = evaluations
    if given.json:
        document: dict[str, object] = {**evaluation_json(first), "failed": failed}
        if given.price_detail:
            document |= {"priceDetail": price_detail(plan), "lowDetail": [evaluation_json(one) for one in others]}
        return say(json.dumps(document, indent=2, ensure_ascii=False))
    told = [evaluation_text(one) for one in evaluations]
    if given.price_detail:
        told.append(_detail_text(price_detail(plan)))
    return say("\n\n".join(told))


def _carry_out(given: argparse.Namespace, environ: Mapping[str, str], plan: Plan, results: Results) -> int:
    left = list({job.key: job for job in plan.jobs if job.key not in results.kept}.values())
    print(announcement(plan, left), file=sys.stderr)
    shown = _Shown(plan, len(left), sys.stderr)
    stopped = key = ""
    if left:
        key = environ.get("OPENAI_API_KEY") or environ.get("GRADING_API_KEY") or ""
        if not key:
            raise Unusable("set OPENAI_API_KEY or GRADING_API_KEY")
        if not given.yes and not _agreed(sys.stdin, sys.stderr):
            raise Unusable("nothing was asked")
        upstream = given.upstream or environ.get("GRADING_UPSTREAM_URL") or "https://api.openai.com/v1"
        try:
            asyncio.run(_ask(plan, left, results, shown, upstream, key, given.concurrency))
        except Stopped as fault:
            stopped = str(fault)
        except KeyboardInterrupt:
            shown.end()
            done = f"{shown.progress.done} of {len(left)} answered and kept in {results.path}"
            print(f"{PROG}: stopped; {done}. The same command goes on with the rest.", file=sys.stderr)
            return INTERRUPTED
        shown.end()
    missing = sum(job.key not in results.kept for job in plan.jobs)
    if missing:
        why = masked(stopped or f"the last error: {shown.progress.last}").replace(key, "***")
        print(f"{PROG}: {missing} of {len(plan.jobs)} are not answered; {why}", file=sys.stderr)
        print(f"{PROG}: the same command asks for them again", file=sys.stderr)
    return _end(given, plan, results, missing, bool(stopped))


def _end(given: argparse.Namespace, plan: Plan, results: Results, missing: int, stopped: bool) -> int:
    evaluations = _evaluations(plan, results)
    if stopped or not evaluations[0].finding.homeworks:
        return GAVE_UP
    told = _tell(plan, given, evaluations, missing)
    return STATUS[evaluations[0].finding.verdict] if told else GAVE_UP


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status; see above."""
    given = _parser().parse_args(argv)
    try:
        plan = make_plan(given, environ)
        path = given.output or given.dataset / KEPT
        results = Results(path)
    except (Unusable, DatasetError, TemplatesError, ModelsError) as fault:
        print(f"{PROG}: {fault}", file=sys.stderr)
        return UNUSABLE
    except OSError as fault:
        print(f"{PROG}: {fault.filename}: {fault.strerror}", file=sys.stderr)
        return UNUSABLE
    try:
        return _carry_out(given, environ, plan, results)
    except Unusable as fault:
        print(f"{PROG}: {fault}", file=sys.stderr)
        return UNUSABLE
    finally:
        results.close()
