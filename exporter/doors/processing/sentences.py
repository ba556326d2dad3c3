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
_POOLED = ("sentence_embedding", "image_embeds", "pooler_output")  # outputs that are (batch, size)
_EXPORT_WITH = "export it as a torch module that has them, its task feature-extraction"


def read_embedding(folder: Path, task: Task) -> tuple[Embedding, tuple[str, ...]]:
    """How a vector is made of the outputs, and what was assumed.

    Raises:
        InputError: its modules have weights of their own that are not in the graph, or pool in a way that is not known.

    """
    names = [edge.name for edge in task.outputs]
    pooled = next((name for name in _POOLED if name in names), None)
    if pooled == "sentence_embedding" or (pooled is not None and task.name == "image-feature-extraction"):
        return Embedding(output=pooled), ()
    hidden = next((name for name in ("last_hidden_state", "token_embeddings") if name in names), names[0])
    if len(task.output(hidden).shape) == 2:
        return Embedding(output=hidden), ()
    if (folder / _MODULES).is_file():
        return _of_modules(folder, hidden), ()
    return _assumed(hidden, task)


def _assumed(hidden: str, task: Task) -> tuple[Embedding, tuple[str, ...]]:
    """What is made of vectors of each token where no file says it, and what was assumed."""
    if task.name == "image-feature-extraction":
        note = f"the model gives no vector of the whole image: it is that of the first token of {hidden}"
        return Embedding(output=hidden, pooling="cls"), (note,)
    if task.name == "sentence-similarity":
        note = f"the checkpoint has no {_MODULES}: vectors are the mean of tokens', as sentence-transformers assumes"
        return Embedding(output=hidden, pooling="mean"), (note,)
    return Embedding(output=hidden), ()


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
