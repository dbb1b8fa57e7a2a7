"""What grading costs, and whether it is as good."""

from __future__ import annotations

from deploy.grafana.panels import AFTER, BEFORE, MONITOR, SPARED, Board, Panel, or_zero, quantile, rate

TOKENS = "siding_grading_tokens_total"


def saved(way: str) -> str:
    """Dollars a second by the dashboard's own price. way -- input or output."""
    before, after = (rate(TOKENS, f'{figure}, direction="{way}"') for figure in (BEFORE, AFTER))
    return f"({before} - {after}) * ${way}_price / 1e6"


GRADING = Board(
    "siding-grading",
    "Siding: grading",
    "What grading costs before and after, and whether the grades are the same.",
    {
        "Tokens and money": (
            Panel(
                "Tokens a second",
                "lines",
                "short",
                {"{{figure}} {{direction}}": rate("siding_grading_tokens_total", MONITOR, "figure, direction")},
                "before is what callers sent, after is what the upstream was sent. Equal: USE_OPTIMIZED_PROMPTS is off, or "
                "the prompt has changed and is not recognised; see 'Templates and breaker'.",
            ),
            Panel(
                "Tokens spared",
                "lines",
                "percentunit",
                {"{{direction}}": f"1 - {rate(TOKENS, AFTER, 'direction')} / {rate(TOKENS, BEFORE, 'direction')}"},
                "Of all tokens, images included; of the prompt alone it is 60 %, see /api/metrics/grading. Fallen: as beside.",
            ),
            Panel(
                "Dollars saved an hour",
                "number",
                "currencyUSD",
                {"": f"3600 * ({saved('input')} + {saved('output')})"},
                "By the prices above, per million tokens, at today's rate. /api/metrics/grading has the exact sums by model, tier and day.",
            ),
            Panel(
                "Spared by shared and kept answers",
                "lines",
                "short",
                {"tokens": or_zero(rate("siding_grading_tokens_total", SPARED))},
                "Tokens of answers that were given twice and asked once. Nought: no two equal requests, or ENABLE_DEDUP is off.",
            ),
        ),
        "Service": (
            Panel(
                "Requests",
                "bars",
                "reqps",
                {"{{what}} {{status}}": rate("siding_grading_requests_total", MONITOR, "what, status")},
                "expanded is in the compact form; a reason such as unrecognised: forwarded untouched; client-gone: the caller did "
                "not wait. Much 'asked-again' or 5xx: set USE_OPTIMIZED_PROMPTS off and compare.",
            ),
            Panel(
                "Duration",
                "lines",
                "s",
                {"{{what}} p95": quantile(0.95, "siding_grading_duration_seconds", MONITOR, "what")},
                "Compact answers should be quicker: fewer tokens are written. Slower: the upstream; see beside.",
            ),
            Panel(
                "The upstream",
                "bars",
                "reqps",
                {"{{lane}} {{outcome}}": rate("siding_grading_upstream_seconds_count", MONITOR, "lane, outcome")},
                "Anything but 'answered', or 'left' (the caller did): see the vendor's status page, and the log for the reason.",
            ),
            Panel(
                "Asked again",
                "lines",
                "cps",
                {"{{template}}": or_zero(rate("siding_grading_asked_again_total", MONITOR, "template"))},
                "Compact answers that could not be expanded with certainty, and were asked for in full. Often: the template "
                "is switched off by itself; see 'Templates and breaker'.",
            ),
            Panel(
                "Retries",
                "lines",
                "cps",
                {"{{reason}}": or_zero(rate("siding_grading_retries_total", MONITOR, "reason"))},
                "Rate limits or faults of the upstream. Steady rate limits: fewer at once, or a higher limit of the account.",
            ),
            Panel(
                "Waiting for a turn",
                "lines",
                "short",
                {"{{lane}}": f"sum by (lane) (siding_grading_waiting{{{MONITOR}}})"},
                "Grows without end: more is asked than the upstream takes.",
            ),
            Panel(
                "Templates and breaker",
                "list",
                "short",
                {
                    "{{template}} {{state}}": f"max by (template, state) (siding_grading_template{{{MONITOR}}}) == 1",
                    "breaker {{state}}": f"max by (state) (siding_grading_breaker{{{MONITOR}}}) == 1",
                },
                "on is right. off or trying: compact answers failed of late, requests go through untouched. Breaker open: "
                "the upstream fails, callers are told at once.",
            ),
        ),
        "Quality": (
            Panel(
                "Shadow agreement",
                "lines",
                "percentunit",
                {
                    "{{template}} {{of}} {{bound}}": f"max by (template, of, bound) (siding_grading_quality_agreement_ratio{{{MONITOR}}})"
                },
                "Share of questions on which compact and original prompt give the same grade, with its bounds. Nothing: "
                "SHADOW_SAMPLE_RATE is 0. Under 98 % with narrow bounds: switch USE_OPTIMIZED_PROMPTS off.",
            ),
            Panel(
                "Questions compared",
                "lines",
                "short",
                {
                    "compared": f"sum(siding_grading_quality_questions{{{MONITOR}}})",
                    "needed": f"max(siding_grading_quality_needed_questions{{{MONITOR}}})",
                },
                "Under 'needed' nothing can be claimed: wait, or raise SHADOW_SAMPLE_RATE within its budget.",
            ),
            Panel(
                "Shadow offers",
                "bars",
                "cps",
                {"{{outcome}}": rate("siding_grading_quality_offers_total", MONITOR, "outcome")},
                "Why homeworks were compared or not. over-budget: SHADOW_DOLLARS_A_DAY is spent.",
            ),
        ),
    },
    {
        "input_price": ("dollars per million input tokens", "0.15"),
        "output_price": ("per million output tokens", "0.60"),
    },
)
