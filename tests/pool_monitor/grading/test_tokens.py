"""Tokens as the vendor counts them: texts by its vocabulary, images by its published rules, prices by the table."""

from __future__ import annotations

import struct
from base64 import encodebytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading import images, tokens
from pool_monitor.grading.images import Size
from pool_monitor.grading.models import OTHER, PACKAGED, Model, ModelsError, load_models
from tests.pool_monitor.grading.pictures import png, url

MODELS = load_models()


def model(name: str) -> Model:
    found = MODELS.find(name)
    assert found is not None
    return found


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    """Its size stands behind so many bytes of a camera's notes."""
    notes = b"".join(b"\xff\xe1" + struct.pack(">H", 60_002) + b"x" * 60_000 for _ in range(before // 60_000))
    return b"\xff\xd8" + notes + b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00"


# -- images


@pytest.mark.parametrize(
    ("size", "detail", "name", "expected"),
    [
        # the vendor's own examples
        ((1024, 1024), "high", "gpt-4o", 765),
        ((2048, 4096), "high", "gpt-4o", 1105),
        ((4096, 8192), "low", "gpt-4o", 85),
        ((512, 512), "high", "gpt-4o", 255),
        ((1024, 1024), "high", "gpt-4o-mini", 2833 + 4 * 5667),
        ((1024, 1024), "low", "gpt-4o-mini", 2833),
        ((1024, 1024), "auto", "o1", 75 + 4 * 150),
        ((1024, 1024), "high", "gpt-4.1-mini", 1659),
        ((1800, 2400), "high", "gpt-4.1-mini", 2353),
        # as billed, https://community.openai.com/t/1281361: its sizes are rounded to whole pixels
        ((2049, 513), "high", "gpt-4.1", 85 + 8 * 170),
        ((2050, 513), "high", "gpt-4.1", 85 + 4 * 170),
        # detail makes no difference to patches
        ((4000, 1474), "high", "gpt-4.1-mini", 2489),
        ((4000, 1474), "low", "gpt-4.1-mini", 2489),
        ((128, 64), "low", "gpt-4.1-mini", 13),
        (None, "low", "gpt-4.1-mini", None),
        ((1024, 1024), "high", "o3-mini", None),
        ((1, 1), "high", "gpt-4o", 255),
        (None, "low", "gpt-4o", 85),
        (None, "high", "gpt-4o", None),
    ],
)
def test_tokens_of_an_image(size: Size | None, detail: str, name: str, expected: int | None) -> None:
    assert images.tokens_of(size, detail, model(name)) == expected


@pytest.mark.parametrize(
    ("size", "count"),
    [((1024, 1024), 1024), ((1800, 2400), 1452), ((2048, 2048), 1521), ((1, 20_000), 64), ((32, 32), 1), ((33, 32), 2)],
)
def test_patches(size: Size, count: int) -> None:
    assert images.patches(size) == count


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_an_image_never_costs_without_bound(width: int, height: int) -> None:
    assert 1 <= images.tiles((width, height)) <= 8
    assert 1 <= images.patches((width, height)) <= 1536
    assert images.tiles((width, height)) == images.tiles((height, width))
    assert images.patches((width, height)) == images.patches((height, width))
    smaller = images.within((width, height), 1024)
    assert max(smaller) <= 1024
    assert images.tiles(smaller) <= 8


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (url(png(640, 480)), (640, 480)),
        (url(jpeg(1200, 1600), "jpeg"), (1200, 1600)),
        (url(jpeg(1200, 1600, before=300_000), "jpeg"), (1200, 1600)),
        (url(gif(3, 5), "gif"), (3, 5)),
        (url(png(640, 480), "jpeg"), (640, 480)),
        ("https://example.com/a.png", None),
        ("data:image/png;base64,", None),
        ("data:image/png;base64,!!!!", None),
        ("data:image/png;base64,AAA", None),
        ("data:text/plain;base64,aGk=", None),
        ("data:image/svg+xml,<svg/>", None),
        (url(b"\x89PNG\r\n\x1a\n"), None),
        (url(jpeg(1, 1)[:9]), None),
        ("", None),
    ],
)
def test_the_size_of_an_image(text: str, size: Size | None) -> None:
    assert images.size_of(text) == size


def test_the_size_of_a_large_image() -> None:
    # lines as in mail: what is cut off is no whole number of octets
    lines = encodebytes(png(640, 480) + bytes(3_000_000)).decode()
    assert images.size_of(f"data:image/png;base64,{lines}") == (640, 480)
    assert images.size_of(url(jpeg(1200, 1600, before=2_000_000), "jpeg")) is None


@given(st.binary(max_size=200))
def test_whatever_it_is_it_has_a_size_or_none(content: bytes) -> None:
    found = images.size_of(url(content))
    assert found is None or min(found) > 0


# -- texts and requests


def test_texts() -> None:
    assert tokens.count("hello world", None) == 2
    assert tokens.count("<|endoftext|>", None) > 1
    assert tokens.count("half a pair: \ud83d", None) > 0
    assert tokens.count("", None) == 0
    assert tokens.count("你好", model("gpt-4-turbo")) != tokens.count("你好", model("gpt-4o"))


def test_a_request() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "hello world"},
            {
                "role": "user",
                "name": "zoe",
                "content": [
                    {"type": "text", "text": "hello"},
                    {"type": "image_url", "image_url": {"url": url(png(1024, 1024)), "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                ],
            },
        ]
    }
    found = tokens.estimate(body, model("gpt-4o-mini"))
    # of the texts 2 and 1, of the roles 1 each, 3 a message, 1 for a name and 2 of it, 3 for the answer
    assert found == tokens.Estimate(text=17, image=25_501, unknown_images=1)
    assert found.input == 25_518
    assert tokens.estimate(body, None).unknown_images == 2


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": None}, {"messages": [1, {"content": 7, "name": 7}, {"content": [None, {"image_url": 1}]}]}],
)
def test_whatever_a_request_holds(body: dict[str, Any]) -> None:
    assert tokens.estimate(body, None).unknown_images == 0


# -- the table


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("o3-mini-2025-01-31", "o3-mini"),
        ("o3-pro", "o3-pro"),
        ("gpt-5-pro-2025-10-06", "gpt-5-pro"),
        ("gpt-5-chat-latest", "gpt-5"),
        ("gpt-4", OTHER),
        ("gpt-4oh", OTHER),
        ("", OTHER),
        ("o3", "o3"),
    ],
)
def test_a_model_by_its_name(name: str, found: str) -> None:
    assert MODELS.label(name) == found


@pytest.mark.parametrize(
    ("name", "tier", "found"),
    [
        ("gpt-5-2025-08-07", "flex", "gpt-5 flex"),
        ("gpt-5", "default", "gpt-5"),
        ("gpt-5", "on_demand", "gpt-5"),
        ("gpt-5", "x" * 1000, "gpt-5"),
        ("gpt-4o-mini", "flex", "gpt-4o-mini flex"),
        ("gpt-4o-mini flex", "", "gpt-4o-mini flex"),
        ("gpt-4o-mini flex", "flex", "gpt-4o-mini flex"),
        ("gpt-4o-mini of mine", "", "gpt-4o-mini"),
        ("llama", "flex", OTHER),
    ],
)
def test_a_tier_of_service_by_its_name(name: str, tier: str, found: str) -> None:
    assert MODELS.label(name, tier) == found


def test_a_models_file_may_have_tiers_and_need_not(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    written = 'as_of = 2025-11-01\n[models.m]\nencoding = "o200k_base"\ninput = 2\ncached = 1\noutput = 4\n'
    file.write_text(written)
    assert load_models(file).priced("m", "flex") is None
    file.write_text(written + "tiles = [1, 2]\ntiers.flex = { input = 1, cached = 0.5, output = 2 }\n")
    flex = load_models(file).priced("m-2025", "flex")
    assert flex == Model("m flex", "o200k_base", 1, 0.5, 2, (1, 2))
    file.write_text(written + "tiers.slow = { input = 1, cached = 0.5, output = 2 }\n")
    assert load_models(file).label("m", "slow") == "m slow"


def test_a_models_file_may_have_prices_of_audio_at_each_tier(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        'as_of = 2025-11-01\n[models.m]\nencoding = "o200k_base"\ninput = 2\ncached = 1\noutput = 4\n'
        "audio = { input = 30, output = 60 }\n"
        "tiers.flex = { input = 1, cached = 0.5, output = 2, audio = { input = 15, output = 30 } }\n"
        "tiers.slow = { input = 1, cached = 0.5, output = 2 }\n"
    )
    models = load_models(file)
    found = [models.priced("m", tier) for tier in ("", "flex", "slow")]
    assert [one.audio for one in found if one is not None] == [(30, 60), (15, 30), None]


@pytest.mark.parametrize(
    ("audio", "dollars"),
    [
        (None, 60 * 2 + 40 * 1 + 50 * 4),
        # what is kept of it may be text, never audio
        ((30, 60), 20 * 1 + 80 * 30 + 10 * 4 + 40 * 60),
    ],
)
def test_what_audio_costs(audio: tuple[float, float] | None, dollars: float) -> None:
    one = Model("m", "o200k_base", 2, 1, 4, audio=audio)
    assert one.cost(100, 50, 40, 80, 40) == pytest.approx(dollars / 1e6)


def test_money() -> None:
    mini = model("gpt-4o-mini")
    assert mini.cost(1_000_000, 0) == pytest.approx(0.15)
    assert mini.cost(1_000_000, 1_000_000, 1_000_000) == pytest.approx(0.075 + 0.60)
    assert mini.cost(10, 0, 20) == pytest.approx(20 * 0.075 / 1e6)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("input = 0.15", "input = -1"), "models.gpt-4o-mini.input"),
        (("input = 0.15", 'input = "0.15"'), "models.gpt-4o-mini.input"),
        (("input = 0.15", "input = inf"), "models.gpt-4o-mini.input"),
        (("input = 0.15\n", ""), "models.gpt-4o-mini.input"),
        (("tiles = [2833, 5667]", "tiles = [1]"), "models.gpt-4o-mini.tiles"),
        (("tiles = [2833, 5667]", "tiles = [1, 2]\npatches = 1.0"), "allowed: one of them"),
        (("tiles = [2833", "tails = [2833"), "tails"),
        (("priority = { input = 0.25,", "priority = {"), "models.gpt-4o-mini.tiers.priority.input"),
        (("audio = { input = 32.00,", "audio = {"), "models.gpt-audio.audio.input"),
        (("as_of = 2025-11-01", ""), "as_of"),
        (('"o200k_base"', '"p50k"'), "encoding"),
        (
            (
                "[models",
                "[models[",
            ),
            "it is not TOML",
        ),
    ],
)
def test_every_fault_of_a_models_file_is_told(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(PACKAGED.read_text().replace(*change, 1))
    with pytest.raises(ModelsError) as raised:
        load_models(file)
    assert fault in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_models_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelsError, match="it cannot be read"):
        load_models(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ModelsError, match="not UTF-8"):
        load_models(tmp_path / "bad.toml")
