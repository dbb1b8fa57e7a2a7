"""Pure: how many tokens an image is, by the vendor's published rules.

https://platform.openai.com/docs/guides/images-vision#calculating-costs
"""

from __future__ import annotations

import base64
import binascii
import io
import math

import imagesize

from pool_monitor.grading.models import Model

FIT = 2048
SHORTEST = 768
TILE = 512
PATCH = 32
MOST_PATCHES = 1536
HEAD_CHARACTERS = 87_384
"""Of base64, in which the size stands unless much comes before it: 64 KiB of the image."""
MOST_CHARACTERS = 16 * HEAD_CHARACTERS
"""It is looked for in no more: no other thread runs while base64 is decoded."""

Size = tuple[int, int]


def size_of(url: str) -> Size | None:
    """Width and height of an image in a `data:` URL; None where it cannot be told, as of one elsewhere."""
    begin = url.find(",") + 1
    head = url[: max(0, begin - 1)]
    if not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        return None
    for most in (HEAD_CHARACTERS, MOST_CHARACTERS):
        try:
            # there may be line breaks; four characters are three octets
            part = "".join(url[begin : begin + most].split())
            width, height = imagesize.get(io.BytesIO(base64.b64decode(part[: len(part) // 4 * 4])))
        except (binascii.Error, ValueError, OSError, IndexError, OverflowError):
            continue
        if width > 0 and height > 0:
            return int(width), int(height)
    return None


def tokens_of(size: Size | None, detail: str, model: Model) -> int | None:
    """Tokens of one image. size -- in pixels. detail -- low, high or auto, which is high; to a model with patches
    it makes no difference.

    None where they cannot be told: the size is not known, or the model takes no images.
    """
    if model.tiles is not None:
        base, tile = model.tiles
        if detail == "low":
            return base
        return base + tile * tiles(size) if size is not None else None
    if model.patches is not None and size is not None:
        return math.ceil(patches(size) * model.patches)
    return None


def tiles(size: Size) -> int:
    """Tiles at high detail: fitted into a square of `FIT`, then its shortest side made `SHORTEST`; never larger."""
    shortest, longest = sorted(within(size, FIT))
    if shortest > SHORTEST:
        shortest, longest = SHORTEST, longest * SHORTEST // shortest
    return math.ceil(shortest / TILE) * math.ceil(longest / TILE)


def patches(size: Size) -> int:
    """Patches, after the image is fitted into a square of `FIT` and made as small as `MOST_PATCHES` need."""
    width, height = within(size, FIT)
    count = math.ceil(width / PATCH) * math.ceil(height / PATCH)
    if count <= MOST_PATCHES:
        return count
    ratio = math.sqrt(PATCH * PATCH * MOST_PATCHES / (width * height))
    wide, high = width * ratio / PATCH, height * ratio / PATCH
    ratio *= min(math.floor(wide) / wide, math.floor(high) / high)
    return math.ceil(math.floor(width * ratio) / PATCH) * math.ceil(math.floor(height * ratio) / PATCH)


def within(size: Size, side: int) -> Size:
    """The size that an image has when its longest side is at most `side`."""
    ratio = min(1.0, side / max(size))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
