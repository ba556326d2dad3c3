"""Where a model is: the built-in one, a directory, or a repository of the Hugging Face hub, of which only what is used
is downloaded.

The config comes first: what it rules out costs no more than it. Then the repository's list of files says which weights
there are; those of other frameworks, other dtypes, training states and adapters stay where they are.
"""

from __future__ import annotations

import errno
import glob
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.exporter.source.formats import decoded, file_format
from edgepress.exporter.source.kinds import (
    FOLDER_MARKS,
    refuse_file,
    refuse_folder,
    refuse_names,
    refuse_other_kinds,
)
from edgepress.exporter.source.layout import CONFIG, INDEX, PROCESSOR_FILES, SINGLE, TOKENIZER_FILES
from edgepress.exporter.source.towers import text_config
from edgepress.schema import read_config_object, read_object

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MAIN = "main"  # the hub's default branch
_CORRECT = "correct it or copy it again"
_OF_A_MODULE = re.compile(r"[0-9]_[A-Za-z]+/(config\.json|model\.safetensors)", re.ASCII)  # of sentence-transformers

CheckConfig = Callable[[Mapping[str, object], str], object]
"""Refuses a config that cannot be used (InputError); the second argument is where it is, for the message."""


@dataclass(frozen=True)
class Origin:
    """A repository of the hub, the revision that was asked for, and the commit that it was."""

    repository: str
    revision: str
    commit: str

    def to_json(self) -> dict[str, object]:
        """The manifest's entry."""
        return asdict(self)


def find_model(model: str, revision: str | None, check: CheckConfig) -> tuple[Path, Origin | None]:
    """Directory of ``demo``, of an existing path, or of a hub id ``org/name``, downloaded when it is not cached.

    With it, which commit of which repository it is, None when it is no hub id. ``check`` sees the config of a
    repository, and where it is, before a weight of it is downloaded.

    Raises:
        InputError: none of the three, or the hub cannot be reached, does not know it or does not let us have it; or
            ``check`` refuses its config.

    """
    path = Path(model)
    if model != "demo" and not (model and path.exists()):
        if not _HUB_ID.fullmatch(model):
            if model.endswith(".onnx"):
                raise InputError(f"no such file: {model!r}; name an ONNX file that is there")
            name, _, asked = model.partition("@")
            at = f"; a revision is given as --revision {asked}" if _HUB_ID.fullmatch(name) else ""
            raise InputError(f"no such directory: {model!r}; name a directory, a hub id (org/name), or 'demo'{at}")
        return _download(model, revision or _MAIN, check)
    if revision is not None:
        raise InputError(f"--revision {revision} is of a model on the hub, and {model} is here; leave one of them out")
    if model == "demo":
        return DEMO_DIRECTORY, None
    if not path.is_dir() and file_format(path) is None:
        raise refuse_file(path)
    return path, None


def _download(model: str, revision: str, check: CheckConfig) -> tuple[Path, Origin]:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _hub_errors(model, revision), _quiet_client():
        try:
            folder = Path(hf_hub_download(model, CONFIG, revision=revision)).parent
        except RemoteEntryNotFoundError:
            names = _listed(model, revision)
            marks = [name for name in FOLDER_MARKS if name in (names or ())]
            if marks:
                raise refuse_folder(Path(snapshot_download(model, revision=revision, allow_patterns=marks))) from None
            raise refuse_names(model, names or (), CONFIG) from None
        origin = Origin(model, revision, folder.name)
        config = read_config_object(folder / CONFIG, _CORRECT)
        refuse_other_kinds(folder, config)
        where = f"{model}: {CONFIG}"
        check(decoded(text_config(config), {}, where).config, where)
        names = _listed(model, origin.commit)
        if names is None:  # no network: what the cache has
            return folder, origin
        refuse_other_kinds(Path(model), config, names)
        _download_files(model, origin.commit, names, TOKENIZER_FILES)
    return folder, origin


def read_config(model: str, revision: str | None) -> dict[str, object] | None:
    """The config of a directory or of a repository of the hub, of which nothing else is downloaded then.

    None where there is none, or the hub does not say: whoever takes the model up then says why.
    """
    path = Path(model)
    if not path.is_dir() and (model == "demo" or path.exists() or not _HUB_ID.fullmatch(model)):
        return None
    from huggingface_hub import hf_hub_download

    try:
        if path.is_dir():
            return read_config_object(path / CONFIG, _CORRECT)
        with _hub_errors(model, revision or _MAIN), _quiet_client():
            return read_config_object(Path(hf_hub_download(model, CONFIG, revision=revision or _MAIN)), _CORRECT)
    except Exception:  # no such repository or no such file: errors of the client, which has others in each version
        return None


def find_whole(model: str, revision: str | None) -> tuple[Path, Origin | None]:
    """Directory of a model of any task: an existing one, or a repository with all that its task needs, downloaded.

    That is config, weights in safetensors, tokenizer, processors, and the modules that come after a model.

    Raises:
        InputError: as :func:`find_model`, but for what the model is.

    """
    path = Path(model)
    if path.exists():
        if revision is not None:
            raise InputError(
                f"--revision {revision} is of a model on the hub, and {model} is here; leave one of them out"
            )
        return path, None
    from huggingface_hub import hf_hub_download

    asked = revision or _MAIN
    with _hub_errors(model, asked), _quiet_client():
        folder = Path(hf_hub_download(model, CONFIG, revision=asked)).parent
        origin = Origin(model, asked, folder.name)
        names = _listed(model, origin.commit)
        if names is not None:  # else there is no network: what the cache has
            modules = [name for name in names if _OF_A_MODULE.fullmatch(name)]
            _download_files(model, origin.commit, names, (*TOKENIZER_FILES, *PROCESSOR_FILES, *modules))
    return folder, origin


def _download_files(model: str, commit: str, names: Collection[str], files: Collection[str]) -> None:
    """Download the weights of a repository with these ``names``, and those of ``files`` that it has."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [name for name in files if name in names]
    if SINGLE in names:
        wanted.append(SINGLE)
    elif INDEX in names:
        index = Path(hf_hub_download(model, INDEX, revision=commit))
        wanted += [INDEX, *_shards(index, names)]
    else:
        raise refuse_names(model, names, SINGLE)
    try:
        snapshot_download(model, revision=commit, allow_patterns=[glob.escape(name) for name in wanted])
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{model} was not downloaded whole ({_cause(error)}); connect to a network and run it again: what is "
            "there is kept"
        ) from error


def _listed(model: str, revision: str) -> set[str] | None:
    """Paths of the repository's files; None without a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return set(HfApi().list_repo_files(model, revision=revision))
    except OfflineModeIsEnabled:
        return None
    except Exception as error:  # the client's errors are of a package that the hub's client has changed before
        if not type(error).__module__.startswith("httpx"):  # the client's, or httpx2's: the hub's client has had both
            raise
        return None


def _shards(index: Path, names: Collection[str]) -> list[str]:
    """Shards that the index names and the repository has; what else is wrong with it is said when it is read."""
    weights = read_object(index, "download it again").get("weight_map")
    values = set(weights.values()) if isinstance(weights, Mapping) else set()
    return sorted(name for name in values if isinstance(name, str) and name in names)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client from logging each try of a connection; what a user asked of it (HF_HUB_VERBOSITY) stays."""
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR if level == logging.WARNING else level)
    try:
        yield
    finally:
        client.setLevel(level)


@contextmanager
def _hub_errors(model: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises into one clear error."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise InputError(f"{model} is gated: accept its terms on huggingface.co and log in (hf auth login)") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{model} has no revision {revision}; name a branch, a tag or a commit of it") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"no directory {model} here and no such public model on the hub; check the name, or log in (hf auth login)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        # huggingface_hub wraps what went wrong on the way in LocalEntryNotFoundError; connection errors are OSErrors.
        raise InputError(
            f"no directory {model} here, and it could not be downloaded from the hub ({_cause(error)}); connect to a "
            "network, or pass a directory that holds the checkpoint"
        ) from error


def _cause(error: BaseException) -> str:
    """What went wrong first, in one line: of what the client raises, the last is only that there is no file."""
    while deeper := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = deeper
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__
