"""What the runtime needs to know of a bundle before it opens the model.

Read from ``genai_config.json``, which is onnxruntime-genai's, so that a bundle made by its builder is read as well as
one of ours; what that file has no word for comes from our ``manifest.json``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec

from edgepress.bundle.drafters import DrafterEntry
from edgepress.bundle.graphs import GraphEntry, choose, describe_choice
from edgepress.bundle.kept_text import KeptText
from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest, refuse_pack
from edgepress.bundle.rotations import KeyRotation
from edgepress.bundle.states import State
from edgepress.disk.files import refuse_aside
from edgepress.errors import InputError
from edgepress.schema import Count, convert, read_object

_REMEDY = "export the bundle again"
_CONFIG_NAME = "genai_config.json"
_NAMED, _SHOWN = 6, 200  # names in a message, and characters of each
_log = logging.getLogger("edgepress.runtime")

Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]  # heads, or channels of one: the largest model has 256 of each
_Names = Annotated[
    str, msgspec.Meta(pattern=r"^[^%]{0,200}%d[^%]{0,200}$")
]  # with the layer's number in the place of %d


class _Decoder(msgspec.Struct, frozen=True):
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Model(msgspec.Struct, frozen=True):
    context_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]  # of which a mask of 64 bits each is made
    vocab_size: Count
    decoder: _Decoder
    bos_token_id: Token | None = None
    eos_token_id: Token | list[Token] | None = None


class _Search(msgspec.Struct, frozen=True):
    max_length: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _GenaiConfig(msgspec.Struct, frozen=True):
    """The entries of ``genai_config.json`` that are read; it has more."""

    model: _Model
    search: _Search = _Search()


# What is read of it besides when a bundle has no list of states: that a layer has keys and values, and their names.


class _Inputs(msgspec.Struct, frozen=True):
    past_key_names: _Names
    past_value_names: _Names


class _Outputs(msgspec.Struct, frozen=True):
    present_key_names: _Names
    present_value_names: _Names


class _Cache(msgspec.Struct, frozen=True):
    head_size: _Width
    num_key_value_heads: _Width
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    inputs: _Inputs
    outputs: _Outputs

    def states(self) -> tuple[State, ...]:
        """Key and value of each layer in turn."""
        names = (
            ("key", self.inputs.past_key_names, self.outputs.present_key_names),
            ("value", self.inputs.past_value_names, self.outputs.present_value_names),
        )
        return tuple(
            State(
                name=f"layers.{layer}.{part}",
                input=past.replace("%d", str(layer)),
                output=present.replace("%d", str(layer)),
                shape=("batch", self.num_key_value_heads, "past", self.head_size),
                type="float32",
                kind="key-value",
            )
            for layer in range(self.num_hidden_layers)
            for part, past, present in names
        )


class _CacheModel(msgspec.Struct, frozen=True):
    decoder: _Cache


class _CacheConfig(msgspec.Struct, frozen=True):
    model: _CacheModel


@dataclass(frozen=True)
class BundleConfig:
    """Shapes and special tokens of the decoder in a bundle.

    ``model`` is the graph that runs here, ``graph`` its name in a bundle that has several, else None. A text may have
    ``context_length`` tokens, and unless more is asked for ``default_context``. ``states`` is what it carries from one
    call to the next, and ``states_from`` the file that says so.
    ``casts`` says that a graph in float16 runs on processors without it, too.
    ``rotations`` say how what is kept of a token is moved to another position, None where it cannot be; ``kept`` says
    how much of a text stays unless more is asked for, None where all of it does.
    ``long_from`` is the length of text beyond which a longrope model uses its long frequencies, None for others.
    ``drafters`` are graphs that propose tokens.
    """

    bundle: Path
    model: Path
    context_length: int
    default_context: int
    vocab_size: int
    bos: int | None
    eos: frozenset[int]
    states: tuple[State, ...]
    states_from: str = MANIFEST_NAME
    long_from: int | None = None
    rotations: tuple[KeyRotation, ...] | None = None
    kept: KeptText | None = None
    graph: str | None = None
    casts: bool = False
    drafters: tuple[DrafterEntry, ...] = ()

    def of_drafter(self, name: str) -> "BundleConfig | None":
        """The same of the graph that the drafter of this name has in the bundle; None where it has none."""
        entry = next((entry for entry in self.drafters if entry.drafter == name), None)
        if entry is None:
            return None
        return replace(
            self,
            model=self.bundle / entry.file,
            states=entry.states,
            states_from=MANIFEST_NAME,
            long_from=entry.long_from,
            graph=entry.file,
            casts=False,
            rotations=None,
            kept=None,
            drafters=(),
        )


def read_config(bundle: Path, graph: str | None = None) -> BundleConfig:
    """Read ``genai_config.json`` and the manifest of the bundle.

    Args:
        bundle: the directory that an export wrote.
        graph: the file of the graph to run; by default the first of the bundle's that suits this processor.

    Raises:
        InputError: one of the two is not what it should be, they disagree, or the bundle has no such graph.

    """
    if not bundle.is_dir():
        refuse_aside(bundle)
        raise InputError(f"{bundle} is not a directory; give the directory that `edgepress export --out` wrote")
    path = bundle / _CONFIG_NAME
    if not path.is_file():
        task = read_manifest(bundle).task if (bundle / MANIFEST_NAME).is_file() else None
        if task is not None:
            raise InputError(
                f"{bundle} is for {task.name} and no language model, which this is for; `edgepress run`, `bench`, "
                "`gate` and `check` take it"
            )
        refuse_pack(bundle)
        raise InputError(
            f"{path} is missing, so {bundle} is not a language-model bundle; make one with `edgepress export`"
        )
    content = read_object(path, _REMEDY)
    genai = convert(content, _GenaiConfig, path, _REMEDY)
    model = genai.model
    manifest = read_manifest(bundle) if (bundle / MANIFEST_NAME).is_file() else None
    listed, eos = () if manifest is None else manifest.states, model.eos_token_id
    graphs, named = () if manifest is None else manifest.graphs, model.decoder.filename
    names = [entry.file for entry in graphs] or [named]
    if named not in names:
        raise InputError(f"{path} names the graph {named!r}, and {MANIFEST_NAME} lists {', '.join(names)}; {_REMEDY}")
    if graph is not None and graph not in names:
        raise InputError(f"{bundle} has no graph {graph!r}; it has {', '.join(names)}")
    chosen = _chosen(graphs, graph)
    config = BundleConfig(
        bundle=bundle,
        model=bundle / (named if chosen is None else chosen.file),
        context_length=model.context_length,
        default_context=min(genai.search.max_length or model.context_length, model.context_length),
        vocab_size=model.vocab_size,
        bos=model.bos_token_id,
        eos=frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos]),
        states=_states(listed if chosen is None else chosen.states, content, path),
        states_from=MANIFEST_NAME if listed else _CONFIG_NAME,
        long_from=None if manifest is None else manifest.long_from,
        rotations=None if manifest is None else manifest.rotations,
        kept=None if manifest is None else manifest.kept,
        graph=None if chosen is None else chosen.file,
        casts=chosen is not None and chosen.casts,
        drafters=() if manifest is None else manifest.drafters,
    )
    if config.model.parent != bundle:
        raise InputError(f"{path} names the graph {named!r}, which is not in {bundle}; export it again")
    if not config.model.is_file():
        names_it = path.name if chosen is None else MANIFEST_NAME
        raise InputError(f"{config.model} is missing, though {names_it} names it; export the bundle again")
    return config


def _chosen(graphs: Sequence[GraphEntry], asked: str | None) -> GraphEntry | None:
    """The graph that is asked for, or the first that suits this processor; None where the bundle has no list."""
    if not graphs:
        return None
    suits = choose(graphs)
    if asked is None:
        for entry in graphs:
            if entry.unknown:
                _warn(f"{entry.file} does not run", describe_choice(entry, suits))
        return suits
    chosen = next(entry for entry in graphs if entry.file == asked)
    if chosen.missing:
        _warn(f"{asked} runs because it was asked for", describe_choice(chosen, suits))
    return chosen


@cache
def _warn(what: str, why: str) -> None:
    """Warn once in a process, however often a bundle is opened."""
    _log.warning("%s: %s", what, why.removeprefix("no: "))


def _states(listed: tuple[State, ...], content: object, path: Path) -> tuple[State, ...]:
    """The states of a bundle, which its manifest lists; of one without a list, those that ``genai_config.json`` names.

    That file has words for keys and values only, and one size for all layers. Where a model has no other states, what
    the manifest lists must be in it; layers may share the keys and values of others.
    """
    if not all(state.grows for state in listed):
        return listed
    cache = convert(content, _CacheConfig, path, _REMEDY).model.decoder
    try:
        named = cache.states()
    except ValueError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from error
    alike = len({state.shape for state in listed}) <= 1  # else one file has the size of each, and the other one size
    some, all_layers = (
        {(state.input, state.output, alike and state.shape) for state in one} for one in (listed, named)
    )
    wrong = {name for name, *_ in some - all_layers}
    if wrong:
        raise InputError(f"{path.parent}: {MANIFEST_NAME} and {_CONFIG_NAME} disagree on {first_of(wrong)}; {_REMEDY}")
    return listed or named


def first_of(names: set[str]) -> str:
    """The first few of many names, as messages have them."""
    shown = sorted(names)[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{', '.join(name[:_SHOWN] for name in shown)}{more}"
