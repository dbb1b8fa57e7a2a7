"""What is known of models: prices, and how their tokens are counted. It is data (`config/models.toml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from pydantic import BaseModel, ConfigDict, ValidationError

import config
from config.toml_file import TomlError, read_toml
from config.words import counted

PACKAGED = Path(config.__file__).parent / "models.toml"
OTHER = "other"
TIERS = frozenset({"flex", "priority", "scale", "ultrafast"})
"""Of service, as answers name them in `service_tier`, that the vendor bills otherwise; by any other name it is the
ordinary one: https://platform.openai.com/docs/api-reference/chat/object, https://platform.openai.com/docs/pricing"""
MILLION = 1_000_000
Encoding = Literal["o200k_base", "cl100k_base"]


class ModelsError(ValueError):
    """A models file that cannot be used. Its text lists every fault."""

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"GRADING_MODELS_FILE {path}: {counted(len(faults), 'fault')}:", *faults]))


class _AudioFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    input: Annotated[float, Ge(0)]
    output: Annotated[float, Ge(0)]


class _PricesFile(_AudioFile):
    cached: Annotated[float, Ge(0)]
    audio: _AudioFile | None = None

    @property
    def prices(self) -> dict[str, Any]:
        """As a Model has them."""
        audio = (self.audio.input, self.audio.output) if self.audio is not None else None
        return {"input": self.input, "cached": self.cached, "output": self.output, "audio": audio}


class _ModelFile(_PricesFile):
    encoding: Encoding
    tiers: dict[str, _PricesFile] = {}
    tiles: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)] | None = None
    patches: Annotated[float, Ge(0)] | None = None


class _ModelsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    as_of: date
    models: dict[str, _ModelFile]


@dataclass(frozen=True, slots=True)
class Model:
    """A model. Prices in US dollars for a million tokens. audio -- of audio in input and output, where it has prices of
    its own. tiles -- tokens for an image and a tile; patches -- for a patch; neither where it takes no images."""

    name: str
    encoding: Encoding
    input: float
    cached: float
    output: float
    tiles: tuple[int, int] | None = None
    patches: float | None = None
    audio: tuple[float, float] | None = None

    def cost(
        self,
        input_tokens: float,
        output_tokens: float,
        cached_tokens: float = 0,
        audio_input: float = 0,
        audio_output: float = 0,
    ) -> float:
        """US dollars. cached_tokens -- of the input tokens, those that the vendor had kept. audio_input, audio_output
        -- of input and output tokens, those of audio, which are never cheaper for having been kept."""
        millionths = 0.0
        if self.audio is not None:
            millionths = audio_input * self.audio[0] + audio_output * self.audio[1]
            input_tokens, output_tokens = max(0, input_tokens - audio_input), max(0, output_tokens - audio_output)
            cached_tokens = min(cached_tokens, input_tokens)
        fresh = max(0.0, input_tokens - cached_tokens)
        millionths += fresh * self.input + cached_tokens * self.cached + output_tokens * self.output
        return millionths / MILLION


@dataclass(frozen=True, slots=True)
class Models:
    """The table. as_of -- when its prices were read. tiers -- of service that are not the ordinary one.

    What a model costs at one of these is known under "model tier", where it is.
    """

    known: Mapping[str, Model]
    as_of: date
    tiers: Set[str] = TIERS

    def find(self, name: str) -> Model | None:
        """The model of this name, or of the longest name that it begins with."""
        parts = name.split("-")
        for end in range(len(parts), 0, -1):
            model = self.known.get("-".join(parts[:end]))
            if model is not None:
                return model
        return None

    def label(self, name: str, tier: str = "") -> str:
        """The name as a label of a metric, with its tier if that is not the ordinary one: of a closed set.

        A label's label is the same.
        """
        name, _, own = name.partition(" ")
        model, tier = self.find(name), own or tier
        if model is None:
            return OTHER
        return f"{model.name} {tier}" if tier in self.tiers else model.name

    def priced(self, name: str, tier: str = "") -> Model | None:
        """The model as it is billed at this tier; None where that is not known."""
        return self.known.get(self.label(name, tier))


def load_models(path: Path | None = None) -> Models:
    """The table in a file, or the one that comes with Siding. Raises ModelsError."""
    file = path or PACKAGED
    try:
        given = _ModelsFile.model_validate(read_toml(file))
    except TomlError as fault:
        raise ModelsError(file, [f"it {fault}"]) from fault
    except ValidationError as fault:
        errors = fault.errors(include_url=False, include_input=False)
        raise ModelsError(file, [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors]) from None
    faults = [
        f"models.{name}: it has tiles and patches; allowed: one of them"
        for name, one in given.models.items()
        if one.tiles is not None and one.patches is not None
    ]
    if faults:
        raise ModelsError(file, faults)
    known = {name: _model(name, one) for name, one in given.models.items()}
    tiers = set(TIERS)
    for name, one in given.models.items():
        for tier, prices in one.tiers.items():
            tiers.add(tier)
            known[f"{name} {tier}"] = replace(known[name], name=f"{name} {tier}", **prices.prices)
    return Models(known, given.as_of, tiers)


def _model(name: str, given: _ModelFile) -> Model:
    tiles = (given.tiles[0], given.tiles[1]) if given.tiles is not None else None
    return Model(name, given.encoding, tiles=tiles, patches=given.patches, **given.prices)
