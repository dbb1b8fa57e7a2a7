"""COUNT queries in source code, and whether what they return is merely tested."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pool_monitor.advisor.detect import Finding, detect

SUFFIXES = frozenset({".js", ".cjs", ".mjs", ".jsx", ".ts", ".cts", ".mts", ".tsx", ".py"})
SKIPPED = frozenset({"node_modules", "dist", "build", "coverage", "__pycache__", "venv", "vendor"})
MAX_FILE_BYTES = 2 * 1024 * 1024
LINES_AFTER = 12
"""How far behind a query its result is looked for."""

# quoted text of JavaScript and Python; a template's ${…} and an f-string's {…} are made parameters below
_TEXT = re.compile(
    r"""(?P<long>\"\"\"|''')(?P<a>.*?)(?P=long)|(?P<quote>["'`])(?P<b>(?:\\.|(?!(?P=quote)).)*?)(?P=quote)""", re.DOTALL
)
_SELECT_COUNT = re.compile(r"\bselect\b.*\bcount\s*\(", re.IGNORECASE | re.DOTALL)
# what becomes a parameter: holes, those in quotes with them, and the placeholders of other drivers
_PLACE = re.compile(
    r"""'\$?\{(?P<quoted>[^{}]*)\}'|\$?\{(?P<hole>[^{}]*)\}|%\((?P<named>\w+)\)s|%s|\?(?![|&])"""
    r"""|(?<![:\w]):(?P<colon>[a-z_]\w*)"""
)
_ALIAS = re.compile(r"count\s*\([^()]*\)(?:::\w+)?\s+(?:as\s+)?\"?(\w+)\"?", re.IGNORECASE)
# with nothing or with one in such a way that it only matters whether there is any
_TESTED = r"(?:\)|::\w+)*\s*(?:>\s*0|>=\s*1|!==?\s*['\"]?0|===?\s*['\"]?0|<\s*1|<=\s*0)(?![\w.])"
# what a name belongs to, as `result` in `result.rows[0]["total"]`, and what is reckoned with it
_HOLDER = re.compile(r"""(?<![\w$.])([a-z_$][\w$]*)(?:\??\.[\w$]+|\[\w+\]|\(\))*(?:\??\.|\[['"])$""", re.IGNORECASE)
_RECKONED = re.compile(r"""[-+*/%][\s\w.$\[\]()'"?!]*$""")
# the rest of a statement that is put together
_MORE_BEHIND = re.compile(r"""\s*(?:\+|\\|[rbfu]{0,2}["'`])""", re.IGNORECASE)
_MORE_BEFORE = re.compile(r"""(?:\+|["'`]\\?)\s*[rbfu]{0,2}$""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """A finding in a file. tested -- all that is done with the result nearby is to compare it with nothing, which makes
    the rewrite safe there."""

    file: str
    line: int
    finding: Finding
    tested: bool


def texts(source: str) -> Iterator[tuple[int, int, str]]:
    """Quoted texts that count something, with the offsets where each begins and ends."""
    for match in _TEXT.finditer(source):
        text = match["a"] if match["a"] is not None else match["b"]
        if _SELECT_COUNT.search(text):
            yield match.start(), match.end(), text


def is_whole(source: str, start: int, end: int) -> bool:
    """Whether a quoted text is put together with no others, which may group, limit or pick what it counts."""
    line = source.rfind("\n", 0, source.rfind("\n", 0, start)) + 1
    return not _MORE_BEHIND.match(source, end) and not _MORE_BEFORE.search(source[line:start])


def as_sql(text: str) -> str:
    """A quoted text with its holes, and the placeholders of other drivers, as parameters; each has its number."""
    sql = text.replace("\\n", " ").replace("\\'", "'").replace('\\"', '"')
    last = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
    numbers: dict[str, int] = {}

    def parameter(match: re.Match[str]) -> str:
        nonlocal last
        name = next((one for one in match.groups() if one), None)
        if name is None or name not in numbers:
            last += 1
        return f"${last if name is None else numbers.setdefault(name, last)}"

    return _PLACE.sub(parameter, sql)


def is_tested(sql: str, after: str) -> bool:
    """Whether the code behind a query compares the count with nothing, as in `rows[0].total > 0`, and does no more, not
    even with what it belongs to."""
    alias = _ALIAS.search(sql)
    name = re.escape(alias[1]) if alias is not None and alias[1].lower() not in {"from", "where"} else "count"
    uses = list(re.finditer(rf"\b{name}\b['\"\]]*({_TESTED})?", after))
    before = [after[: use.start()] for use in uses]
    holders = Counter(holder[1] for text in before if (holder := _HOLDER.search(text)) is not None)
    return (
        bool(uses)
        and all(use[1] for use in uses)
        and not any(_RECKONED.search(text) for text in before)
        and all(len(re.findall(rf"(?<![\w$.]){re.escape(one)}\b", after)) == count for one, count in holders.items())
    )


def scan_text(source: str, file: str) -> Iterator[Place]:
    """The findings in one file's text."""
    found = list(texts(source))
    ends = [start for start, _, _ in found[1:]] + [len(source)]
    for (start, end, text), following in zip(found, ends, strict=False):
        finding = detect(as_sql(text)) if is_whole(source, start, end) else None
        if finding is not None:
            after = "\n".join(source[end:following].splitlines()[:LINES_AFTER])
            yield Place(file, source.count("\n", 0, start) + 1, finding, is_tested(text, after))


def scan(folder: Path) -> Iterator[Place]:
    """The findings in every source file below a folder."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.suffix not in SUFFIXES or any(part in SKIPPED or part.startswith(".") for part in inside):
            continue
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                continue
            source = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from scan_text(source, str(path.relative_to(folder)))
