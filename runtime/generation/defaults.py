"""How a model's makers say that its tokens are to be drawn: ``generation_config.json``."""

from pathlib import Path
from typing import Annotated

import msgspec

from edgepress.runtime.generation.sampling import Sampling
from edgepress.schema import read_as

_FILE = "generation_config.json"
_AGAIN = "export the bundle again"
_TOP_K = 50  # transformers 5, GenerationConfig
_Number = Annotated[float, msgspec.Meta(ge=0)]


class _Config(msgspec.Struct, frozen=True):
    """The entries that say how tokens are drawn; the file has more."""

    do_sample: bool | None = None
    temperature: _Number | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    no_repeat_ngram_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


def sampling_defaults(bundle: Path) -> Sampling:
    """The settings that come with the model; greedy where it has none, or says ``do_sample: false``.

    Where it samples, what it leaves out is as transformers has it: temperature 1, the 50 most likely tokens.

    Raises:
        InputError: the file is not what it should be.

    """
    path = bundle / _FILE
    config = read_as(path, _Config, _AGAIN) if path.is_file() else _Config()
    penalty, no_repeat = config.repetition_penalty or 1.0, config.no_repeat_ngram_size or 0
    if not config.do_sample:
        return Sampling(repetition_penalty=penalty, no_repeat_ngram=no_repeat)
    return Sampling(
        temperature=1.0 if config.temperature is None else config.temperature,
        top_k=_TOP_K if config.top_k is None else config.top_k,
        top_p=1.0 if config.top_p is None else config.top_p,
        min_p=config.min_p or 0.0,
        typical_p=config.typical_p or 1.0,
        repetition_penalty=penalty,
        no_repeat_ngram=no_repeat,
    )
