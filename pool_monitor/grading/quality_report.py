"""What was found of quality, as JSON and as metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pool_monitor.grading.paired import MARGIN, Finding, Interval, Verdict
from pool_monitor.grading.quality import Summary

PREFIX = "siding_grading_quality"
DIGITS = 5


def interval_json(interval: Interval | None) -> dict[str, float] | None:
    """A share or a number of points with its 95 % interval."""
    if interval is None:
        return None
    return {
        "estimate": round(interval.estimate, DIGITS),
        "low": round(interval.low, DIGITS),
        "high": round(interval.high, DIGITS),
    }


def finding_json(finding: Finding) -> dict[str, object]:
    """The verdict, and what it rests on."""
    return {
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
        "homeworks": finding.homeworks,
        "questions": finding.questions,
        "needed": finding.needed,
        "margin": MARGIN,
        "difference": interval_json(finding.difference),
        "mcnemar": {
            "onlyOriginal": finding.test.first_only,
            "onlyCompact": finding.test.second_only,
            "p": finding.test.p,
            "midP": finding.test.mid_p,
        },
        "designEffect": round(finding.design_effect, 3),
    }


def summary_json(summary: Summary) -> dict[str, object]:
    """The verdict, agreement of grades, points and extraction, and the paired differences."""
    return {
        **finding_json(summary.finding),
        "agreement": {
            "grades": interval_json(summary.grades),
            "points": interval_json(summary.points_agree),
            "extraction": {
                "questionsFoundByBoth": interval_json(summary.found),
                "studentAnswers": interval_json(summary.answers),
                "homeworksWithTheSameQuestions": int(summary.counts.get("same_count", 0)),
            },
        },
        "pointsDifference": interval_json(summary.points),
    }


def summary_levels(summaries: Mapping[str, Summary]) -> Iterable[Metric]:
    """The same as gauges, by template."""
    by_template = ["template"]
    homeworks = GaugeMetricFamily(f"{PREFIX}_homeworks", "Homeworks compared, of those kept.", labels=by_template)
    questions = GaugeMetricFamily(f"{PREFIX}_questions", "Questions compared, of those kept.", labels=by_template)
    least = GaugeMetricFamily(f"{PREFIX}_needed_questions", "Questions needed for a claim of ±2 %.", labels=by_template)
    p = GaugeMetricFamily(f"{PREFIX}_mcnemar_p", "McNemar's exact test, two-sided.", labels=by_template)
    verdicts = GaugeMetricFamily(
        f"{PREFIX}_verdict", "The verdict; 1 is the present one.", labels=["template", "verdict"]
    )
    agreement = GaugeMetricFamily(
        f"{PREFIX}_agreement_ratio", "Share of questions on which both ways agree.", labels=["template", "of", "bound"]
    )
    difference = GaugeMetricFamily(
        f"{PREFIX}_difference_ratio", "Share graded correct: compact minus original.", labels=["template", "bound"]
    )
    points = GaugeMetricFamily(
        f"{PREFIX}_points_difference",
        "Mean points of a question: compact minus original.",
        labels=["template", "bound"],
    )
    for name, summary in summaries.items():
        finding = summary.finding
        homeworks.add_metric([name], finding.homeworks)
        questions.add_metric([name], finding.questions)
        least.add_metric([name], finding.needed)
        p.add_metric([name], finding.test.p)
        for verdict in Verdict:
            verdicts.add_metric([name, verdict.value], verdict is finding.verdict)
        _add(difference, [name], finding.difference)
        _add(points, [name], summary.points)
        _add(agreement, [name, "grades"], summary.grades)
        _add(agreement, [name, "points"], summary.points_agree)
        _add(agreement, [name, "found"], summary.found)
        _add(agreement, [name, "answers"], summary.answers)
    return homeworks, questions, least, p, verdicts, agreement, difference, points


def _add(family: GaugeMetricFamily, labels: list[str], interval: Interval | None) -> None:
    for bound, value in (interval_json(interval) or {}).items():
        family.add_metric([*labels, bound], value)
