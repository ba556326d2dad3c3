"""What sentence-transformers does behind a model, as :class:`~edgepress.tasks.answers.Embedding`.

Its ``modules.json`` lists the modules: a Transformer, a Pooling and, in many, a Normalize.
"""

from pathlib import Path

from edgepress.errors import InputError
from edgepress.schema import parse_json, read_bytes, read_object
from edgepress.tasks.answers import Embedding, Pooling
from edgepress.tasks.task import Task

_MODULES = "modules.json"
_AGAIN = "copy it again from where the model came from"
_POOLINGS: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "lasttoken": "last"}
_POOLED = ("sentence_embedding", "pooler_output", "text_embeds", "image_embeds")  # outputs that are (batch, size)
_EXPORT_WITH = "export it as a torch module that has them, its task feature-extraction"


def read_embedding(folder: Path, task: Task) -> tuple[Embedding, tuple[str, ...]]:
    """How a vector is made of the outputs, and what was assumed.

    Raises:
        InputError: its modules have weights of their own that are not in the graph, or pool in a way that is not known.

    """
    names = [edge.name for edge in task.outputs]
    if "sentence_embedding" in names:  # its modules are in the graph
        return Embedding(output="sentence_embedding"), ()
    hidden = next((name for name in ("last_hidden_state", "token_embeddings") if name in names), names[0])
    pooled = task.output(hidden).shape
    if len(pooled) == 2:
        return Embedding(output=hidden), ()
    if not (folder / _MODULES).is_file():
        if task.name != "sentence-similarity":
            return Embedding(output=hidden), ()
        note = (
            f"the checkpoint has no {_MODULES}: vectors are the mean of its tokens', as sentence-transformers assumes"
        )
        return Embedding(output=hidden, pooling="mean"), (note,)
    return _of_modules(folder, hidden), ()


def _of_modules(folder: Path, output: str) -> Embedding:
    path = folder / _MODULES
    modules = parse_json(read_bytes(path, _AGAIN), path, _AGAIN)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputError(f"{path} is no list of modules; {_AGAIN}")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{path} lists {', '.join(kinds)}; known are Transformer, Pooling and Normalize; {_EXPORT_WITH}"
        )
    config = read_object(folder / str(modules[1].get("path")) / "config.json", _AGAIN)
    return Embedding(output=output, pooling=_pooling(config, folder), normalize="Normalize" in kinds)


def _pooling(config: dict[str, object], folder: Path) -> Pooling:
    """The one way of pooling that a config turns on."""
    begin = "pooling_mode_"
    on = [key.removeprefix(begin) for key, value in config.items() if key.startswith(begin) and value is True]
    found = _POOLINGS.get(on[0]) if len(on) == 1 else None
    if "pooling_mode" in config:  # as newer versions of sentence-transformers write it
        on = [str(config["pooling_mode"])]
        found = next((pooling for pooling in _POOLINGS.values() if pooling == on[0]), None)
    if found is None:
        raise InputError(
            f"{folder}: vectors are pooled by {' and '.join(on) or 'nothing'}; known is one of {', '.join(_POOLINGS)}; "
            f"{_EXPORT_WITH}"
        )
    if config.get("include_prompt") is False:
        raise InputError(f"{folder}: pooling leaves the prompt's tokens out (include_prompt), which bundles cannot")
    return found
