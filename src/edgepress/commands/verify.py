"""``edgepress verify``: recompute a bundle's hashes."""

import argparse
import re
from pathlib import Path

from edgepress.terminal.stdio import say

NAME = "verify"
HELP = "recompute every hash of a bundle and name what differs"

_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument(
        "--expect",
        metavar="HASH",
        help="the bundle's hash, noted elsewhere: what `export` and `verify` print. A bundle that was changed together "
        "with its manifest has another; exit 1 if it is",
    )
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="also check that an adapter file is whole and fits the bundle"
    )
    parser.add_argument(
        "--conformance",
        action="store_true",
        help="also render the bundle's chat template on the conversations that it carries, here, and compare text and "
        "tokens with what transformers made of them at export; exit 1 where they differ",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 when the bundle is sound and the one that is expected; else name what is not, and exit 1."""
    from edgepress.bundle.manifest import bundle_hash, find_problems, read_manifest, refuse_pack
    from edgepress.bundle.packs import is_pack
    from edgepress.disk.exchange import read_steady
    from edgepress.terminal.progress import progress

    bundle: Path = arguments.bundle
    if is_pack(bundle):
        if arguments.expect is not None or arguments.adapter is not None or arguments.conformance:
            refuse_pack(bundle)
        return _verify_pack(bundle)
    expected = None if arguments.expect is None else _hash(arguments.expect)
    if not bundle.is_dir():
        read_manifest(bundle)  # raises the InputError that says what is wrong
    problems = read_steady(bundle, lambda: find_problems(bundle, progress))
    if not problems and expected not in {None, found := bundle_hash(bundle)}:
        problems = [f"its hash is {found}, not {expected}: it is another bundle, though its files fit its manifest"]
    if not problems and arguments.adapter is not None:
        problems = _adapter_problems(bundle, arguments.adapter)
    if not problems and arguments.conformance:
        problems = _conformance_problems(bundle)
    for problem in problems:
        say(f"{bundle}: {problem}")
    if not problems:
        manifest = read_manifest(bundle)
        size = sum(entry.size for entry in manifest.files.values())
        print(f"{bundle}: {len(manifest.files) + 1} files, {size / 1e6:,.1f} MB, all as written")
        print(f"  hash {bundle_hash(bundle)}")
        if arguments.adapter is not None:
            print(f"{arguments.adapter}: as written, and fits the bundle")
        if arguments.conformance:
            print("  its chat template gives the text and tokens that it gave transformers")
            _say_genai(bundle)
    return 1 if problems else 0


def _verify_pack(folder: Path) -> int:
    """The same of several bundles in one folder."""
    from edgepress.bundle.packs import pack_problems, read_index
    from edgepress.commands.pack import describe_pack
    from edgepress.terminal.progress import progress

    problems = pack_problems(folder, progress)
    for problem in problems:
        say(f"{folder}: {problem}")
    if not problems:
        print(f"{describe_pack(folder, read_index(folder))}\nall as written")
    return 1 if problems else 0


def _adapter_problems(bundle: Path, adapter: Path) -> list[str]:
    from edgepress.bundle.adapter_file import adapter_for
    from edgepress.errors import InputError

    try:
        adapter_for(bundle, adapter)
    except InputError as error:
        return [str(error)]
    return []


def _conformance_problems(bundle: Path) -> list[str]:
    """Where the chat template differs here from what it came to at export."""
    from edgepress.chat.conformance import differences, read_vectors
    from edgepress.chat.prompt import ChatEncoder
    from edgepress.chat.template import read_template
    from edgepress.errors import InputError
    from edgepress.text.tokenizer import read_tokenizer

    template, vectors = read_template(bundle), read_vectors(bundle)
    if template is None or vectors is None:
        raise InputError(f"{bundle} carries no conversations to compare: its model has no chat template")
    found = differences(ChatEncoder(template, read_tokenizer(bundle)), vectors)
    return [f"the chat template differs from {vectors.made_by}: {line}" for line in found]


def _say_genai(bundle: Path) -> None:
    """Say how onnxruntime-genai's own engine does, where it is installed; an app need not use it."""
    from edgepress.chat.conformance import read_vectors
    from edgepress.chat.genai import TEXT_ONLY, genai_differences, is_installed

    vectors = read_vectors(bundle)
    if vectors is None or not is_installed():
        return
    found = genai_differences(bundle, vectors)
    print(f"  onnxruntime-genai's own engine: {len(TEXT_ONLY) - len(found)} of {len(TEXT_ONLY)} conversations alike")
    for name in found:
        print(f"    other text or tokens: {name}")


def _hash(text: str) -> str:
    from edgepress.errors import InputError

    found = _HASH.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(f"--expect is {text!r}; give the 64 hexadecimal digits that `edgepress verify` prints")
    return found[1]
