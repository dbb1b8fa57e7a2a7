"""Reports, each made anew, and the homework that they follow."""

from __future__ import annotations

import io
import json
import zlib

import pytest
from aiohttp import ClientSession

from tests.deploy.example_origin.support import REPORT, SEPTEMBER, bearer, report


async def test_a_report_is_a_few_kilobytes_without_any_word_on_caching(client: ClientSession) -> None:
    status, fields, document = await report(client, "rita")
    assert status == 200
    assert 2000 < int(fields["Content-Length"]) < 10_000
    assert not {"Cache-Control", "ETag", "Last-Modified", "Expires"} & set(fields)
    assert document["summary"]["homeworkCount"] == len(document["homework"]) == 12
    assert document["summary"]["questionsAnswered"] == 120
    correct = sum(piece["correct"] for piece in document["homework"])
    assert document["summary"]["accuracy"] == round(correct / 120, 4)


async def test_every_report_is_made_anew(client: ClientSession) -> None:
    (_, _, first), (_, _, second) = await report(client, "rita"), await report(client, "rita")
    assert second["generation"] > first["generation"]
    assert second["homework"] == first["homework"]


async def test_a_report_covers_the_days_asked_for(client: ClientSession) -> None:
    _, _, document = await report(client, "rita", startDate="2025-09-03", endDate="2025-09-07")
    assert [piece["day"] for piece in document["homework"]] == ["2025-09-03", "2025-09-05", "2025-09-07"]


async def test_a_report_follows_the_homework(client: ClientSession) -> None:
    async with client.post(
        "/api/homework/archive",
        json={"subject": "Latin", "title": "Ablatives", "day": "2025-09-30", "questions": 4, "correct": 3},
        headers=bearer("leo"),
    ) as answer:
        added = await answer.json()
        assert (answer.status, answer.headers["Location"]) == (201, f"/api/homework/{added['id']}")
    _, _, document = await report(client, "leo")
    latin = next(subject for subject in document["subjects"] if subject["name"] == "Latin")
    assert (latin["questions"], latin["correct"], latin["accuracy"]) == (4, 3, 0.75)
    assert document["summary"]["homeworkCount"] == 13


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"", 400),
        (b"\xff", 400),
        (b'{"userId": null, "startDate": "2025-09-01", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": "yesterday", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": "2025-09-31", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": 20250901, "endDate": "2025-10-01"}', 400),
        (b'{"userId": "someone else", "startDate": "2025-09-01", "endDate": "2025-10-01"}', 403),
        (b" " * (8 * 1024 * 1024 + 1), 413),
    ],
)
async def test_reports_that_are_refused(client: ClientSession, content: bytes, status: int) -> None:
    async with client.post(REPORT, data=io.BytesIO(content), headers=bearer("rita")) as answer:
        assert (answer.status, (await answer.json())["statusCode"]) == (status, status)


async def test_the_plans_curl_line_declares_a_form_and_is_understood(client: ClientSession) -> None:
    content = json.dumps({"userId": "test_user", **SEPTEMBER})
    fields = {**bearer("test_user"), "Content-Type": "application/x-www-form-urlencoded"}
    async with client.post(REPORT, data=content, headers=fields) as answer:
        assert answer.status == 200


async def test_a_token_shows_its_users_data_only(client: ClientSession) -> None:
    async with client.post("/api/homework/archive", json={"title": "Secret"}, headers=bearer("mia")) as answer:
        path = answer.headers["Location"]
    seen = {}
    for user in ("mia", "mia.phone", "noah"):
        async with client.get("/api/homework", headers=bearer(user)) as answer:
            listed = "Secret" in await answer.text()
        async with client.get(path, headers=bearer(user)) as answer:
            seen[user] = (listed, answer.status)
    assert seen == {"mia": (True, 200), "mia.phone": (True, 200), "noah": (False, 404)}
    for method in ("PUT", "DELETE"):
        async with client.request(method, path, json={}, headers=bearer("noah")) as answer:
            assert answer.status == 404


async def test_homework_is_changed_and_removed(client: ClientSession) -> None:
    async with client.put("/api/homework/hw-1", json={"title": "Again"}, headers=bearer("omar")) as answer:
        assert (answer.status, (await answer.json())["title"]) == (200, "Again")
    async with client.get("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert (await answer.json())["title"] == "Again"
    async with client.delete("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    async with client.get("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    "described",
    [{"title": 5}, {"questions": -1}, {"questions": 3, "correct": 4}, {"day": "1 May"}, {"subject": "x" * 101}],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/homework/archive"), ("PUT", "/api/homework/hw-2")])
async def test_bad_homework_changes_nothing(
    client: ClientSession, method: str, path: str, described: dict[str, object]
) -> None:
    async with client.get("/api/homework", headers=bearer("pia")) as answer:
        before = await answer.read()
    async with client.request(method, path, json=described, headers=bearer("pia")) as answer:
        assert answer.status == 400
    async with client.get("/api/homework", headers=bearer("pia")) as answer:
        assert await answer.read() == before


async def test_text_without_utf8_comes_back_as_json(client: ClientSession) -> None:
    content = b'{"title": "half a pair: \\ud83d"}'
    async with client.post("/api/homework/archive", data=content, headers=bearer("quentin")) as answer:
        assert (answer.status, json.loads(await answer.read())["title"]) == (201, "half a pair: \ud83d")


async def test_grading_marks_what_was_answered(client: ClientSession) -> None:
    async with client.post("/api/homework/grade", json={"answers": ["36", "0", "", 50]}) as answer:
        content = await answer.read()
        assert "Content-Encoding" not in answer.headers
    document = json.loads(content)
    grades = [question["grade"] for question in document["questions"]]
    assert grades == ["CORRECT", "INCORRECT", "EMPTY", "INCORRECT"] + ["EMPTY"] * 6
    assert document["performance_summary"]["accuracy_rate"] == 0.1
    assert document["total_questions_found"] == 10
    assert len(content) > 2000
    assert len(zlib.compress(content)) < len(content) / 4
    async with client.post("/api/homework/grade", json={"answers": "36"}) as answer:
        assert answer.status == 400
