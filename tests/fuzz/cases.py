"""One hostile input of a kind from its seed, and the commands that read it."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .graphs import mutate_graph
from .mutations import encode, hostile, mutate_bytes, mutate_json, places
from .tokenizers import mutate_tokenizer

_BUNDLES = ("bundle-llama", "bundle-phi3", "bundle-phi3", "bundle-graphs")
KINDS = ("bundle", "checkpoint", "adapter", "recipe", "text")
PROMPT = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa to be"  # which regular expressions that backtrack never get through
_SPARSE = 6 << 30  # bytes of a file that takes none on the disk

Commands = list[list[object]]


@dataclass(frozen=True)
class Case:
    """A hostile input: what is wrong with it, and the command lines that read it, one after the other."""

    kind: str
    seed: int
    said: str
    commands: tuple[tuple[str, ...], ...]


def make_case(kind: str, seed: int, bases: Path, folder: Path) -> Case:
    """Write input ``seed`` of ``kind`` into ``folder``, an empty directory."""
    random = Random(f"{kind} {seed}")
    said, commands = _MAKERS[kind](random, bases, folder)
    return Case(kind, seed, said, tuple(tuple(map(str, command)) for command in commands))


def sound_commands(bases: Path, folder: Path) -> list[tuple[str, ...]]:
    """Every command that inputs are given to, on inputs that are as they should be."""
    recipe = folder / "recipe.toml"
    recipe.write_text(_toml(_RECIPE))
    shutil.copy(bases / "text.txt", folder)
    found = [command for name in sorted(set(_BUNDLES)) for command in _bundle_commands(bases / name, bases)]
    for checkpoint in sorted(bases.glob("checkpoint-*")):
        found += _checkpoint_commands(_named(checkpoint, checkpoint), folder / checkpoint.name, "int4")
    found += _adapter_commands(bases / "adapter", bases, folder / "adapted")
    found += _recipe_commands(recipe, bases, folder / "recipe") + _text_commands(
        bases / "text.txt", bases, folder / "text"
    )
    return [tuple(map(str, command)) for command in found]


# ---- files -----------------------------------------------------------------------------------------------------------


def _mutate_file(path: Path, random: Random) -> str:
    """Make one file hostile, as suits it."""
    if random.random() < 0.06:
        return f"{path.name}: {_replace_file(path, random)}"
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        data, said = _mutate_safetensors(data, random)
    elif path.suffix == ".onnx":
        data, said = mutate_graph(data, random)
    elif path.suffix in (".json", ".jsonl") and random.random() < 0.9:
        content = json.loads(data)
        text, said = (mutate_tokenizer if path.name == "tokenizer.json" else mutate_json)(content, random)
        data = text.encode("utf-8", "surrogatepass")
    else:
        data, said = mutate_bytes(data, random)
    path.write_bytes(data)
    return f"{path.name}: {said}"


def _replace_file(path: Path, random: Random) -> str:
    """Put something else in a file's place."""
    what = random.choice(("gone", "directory", "pipe", "link to a device", "link to itself", "link away", "sparse"))
    if what == "sparse":
        os.truncate(path, _SPARSE)
        return what
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link to a device":
        path.symlink_to("/dev/zero")
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "link away":
        path.symlink_to("/etc/passwd")
    return what


def _mutate_safetensors(data: bytes, random: Random) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = random.choice(("header", "header", "header", "length", "data", "bytes"))
    if kind == "header":
        text, said = mutate_json(json.loads(header), random)
        header = text.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header)) + header + rest, said
    if kind == "length":
        claimed = random.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1, 99_999_999, len(data)))
        return struct.pack("<Q", claimed) + data[8:], f"header of {claimed} bytes"
    if kind == "data":
        at = random.randrange(len(rest) // 4) * 4
        value = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\x80"))
        return data[:8] + header + rest[:at] + value * random.choice((1, 1000)) + rest[at + 4 :], f"data at {at}"
    return mutate_bytes(data, random)


# ---- bundles ---------------------------------------------------------------------------------------------------------


def _bundle_commands(bundle: Path, bases: Path) -> Commands:
    run = ["run", bundle, "--prompt", PROMPT, "--max-tokens", 3, "--threads", 1]
    bench = ["bench", bundle, "--prompt-lengths", 8, "--decode-tokens", 2, "--repetitions", 1, "--warmup", 0]
    return [
        ["verify", bundle],
        ["inspect", bundle],
        run,
        [*run, "--no-prepare"],
        [*bench, "--no-prepare", "--threads", 1],
        ["eval", bundle, "--text", bases / "text.txt", "--context", 32, "--stride", 16, "--threads", 1],
        ["check", bundle, "--target", "arm64-cpu"],
        ["check", bundle, "--target", "android-nnapi"],
        ["prepare", bundle, "--check"],
        *([[*run, "--graph", "model_fp16.onnx"]] if (bundle / "model_fp16.onnx").exists() else []),
    ]


def _bundle(random: Random, bases: Path, folder: Path) -> tuple[str, Commands]:
    bundle = folder / "bundle"
    shutil.copytree(bases / random.choice(_BUNDLES), bundle)
    first, others = _bundle_commands(bundle, bases)[:3], _bundle_commands(bundle, bases)[3:]
    if random.random() < 0.08:
        return _prepared(random, bases, folder), first
    names = ("manifest.json", "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json",
             "tokenizer_config.json", "calibration.json", "model_fp16.onnx")  # fmt: skip
    (name,) = random.choices(names, (20, 30, 18, 5, 20, 5, 5, 5))
    path = bundle / name
    if not path.exists():
        path = bundle / "genai_config.json"
    sealed = random.random() < 0.8
    said = _mutate_manifest(path, random) if path.name == "manifest.json" else _mutate_file(path, random)
    if sealed and path.name != "manifest.json":
        said += _seal(bundle)
    return said, [*first, random.choice(others)]


def _prepared(random: Random, bases: Path, folder: Path) -> str:
    """A prepared form that someone changed: the commands find it in the cache."""
    shutil.rmtree(folder / "bundle")
    shutil.copytree(bases / "bundle-llama", folder / "bundle")
    shutil.copytree(bases / "cache", folder / "cache", copy_function=shutil.copy2)
    note = random.choice(sorted(folder.glob("cache/prepared/*/*")))
    if random.random() < 0.6:
        note = next(folder.glob("cache/prepared/*/prepared.json"))
    return "prepared " + _mutate_file(note, random)


def _mutate_manifest(path: Path, random: Random) -> str:
    """A manifest that fits its own digest, unless its encoding makes that impossible."""
    if random.random() < 0.3:
        return _mutate_file(path, random)
    content = json.loads(path.read_text())
    text, said = mutate_json({key: value for key, value in content.items() if key != "manifest_sha256"}, random)
    try:
        path.write_text(_signed(json.loads(text)), errors="surrogatepass")
    except (ValueError, RecursionError):
        path.write_text(text)
    return f"manifest.json: {said}"


def _signed(content: object) -> str:
    """The manifest's canonical text with its digest, for any JSON."""
    if not isinstance(content, dict):
        return json.dumps(content)

    def text(digest: str) -> str:
        whole = {**content, "manifest_sha256": digest}
        return json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    return text(hashlib.sha256(text("").encode("utf-8", "surrogatepass")).hexdigest())


def _seal(bundle: Path) -> str:
    """Make the manifest fit the files, as someone who means harm does."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    for name, entry in content["files"].items():
        file = bundle / name
        if file.is_file() and not file.is_symlink() and file.stat().st_size < _SPARSE:
            entry["size"], entry["sha256"] = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    path.write_text(_signed({key: value for key, value in content.items() if key != "manifest_sha256"}))
    return ", sealed"


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoint(random: Random, bases: Path, folder: Path) -> tuple[str, Commands]:
    base = random.choice(sorted(bases.glob("checkpoint-*")))
    checkpoint, out = folder / "checkpoint", folder / "out"
    shutil.copytree(base, checkpoint)
    weights = sorted(checkpoint.glob("*.safetensors"))
    index = [path for path in (checkpoint / "model.safetensors.index.json",) if path.exists()]
    groups: list[tuple[list[Path], int]] = [
        (sorted(checkpoint.glob("config.json")), 40),
        (weights, 20),
        (index, 15),
        (sorted(checkpoint.glob("tokenizer.json")), 15),
        (sorted(set(checkpoint.glob("*.json")) - {checkpoint / "config.json"}), 10),
        (sorted(checkpoint.glob("*.gguf")), 40),
    ]
    (group,) = random.choices([files for files, _ in groups], [weight if files else 0 for files, weight in groups])
    said = f"{base.name} {_mutate_file(random.choice(group), random)}"
    return said, _checkpoint_commands(_named(base, checkpoint), out, random.choice(("int4", "int8-dynamic")))


def _named(base: Path, checkpoint: Path) -> Path:
    """What a user names of a copy of ``base``: a GGUF file alone is a checkpoint."""
    return checkpoint / "model.gguf" if (base / "model.gguf").exists() else checkpoint


def _checkpoint_commands(checkpoint: Path, out: Path, recipe: str) -> Commands:
    run = ["run", out, "--prompt", PROMPT, "--max-tokens", 3, "--no-prepare", "--threads", 1]
    return [["plan", checkpoint], ["export", checkpoint, "--out", out, "--recipe", recipe, "--threads", 1], run]


def _adapter(random: Random, bases: Path, folder: Path) -> tuple[str, Commands]:
    adapter = folder / "adapter"
    shutil.copytree(bases / "adapter", adapter)
    said = _mutate_file(random.choice(sorted(adapter.iterdir())), random)
    return said, _adapter_commands(adapter, bases, folder / "out")


def _adapter_commands(adapter: Path, bases: Path, out: Path) -> Commands:
    asked = [bases / "checkpoint-llama", "--adapter", adapter]
    return [["plan", *asked], ["export", *asked, "--out", out, "--recipe", "int4", "--threads", 1]]


# ---- recipes and texts -----------------------------------------------------------------------------------------------

_RECIPE: dict[str, object] = {
    "accuracy_level": 4,
    "context_length": 64,
    "before": ["awq"],
    "after": ["bias_correction"],
    "weights": {"bits": 4, "block_size": 32, "method": "gptq", "symmetric": True},
    "embedding": {"bits": 8, "block_size": 32, "method": "rtn"},
    "head": {"bits": 8, "block_size": 32, "method": "rtn"},
    "override": [{"match": "layers.0.*", "bits": 8, "method": "rtn"}],
    "options": {"gptq": {"damping": 0.01}},
    "calibration": {"text": ["text.txt"], "tokens": 64, "length": 16, "seed": 1},
    "promise": {"tiny": 0.1},
    "activations": {"type": "float32"},
}


def _recipe(random: Random, bases: Path, folder: Path) -> tuple[str, Commands]:
    recipe: dict[str, object] = dict(_RECIPE)
    for key in random.sample(sorted(recipe), random.randrange(4)):
        del recipe[key]
    if random.random() < 0.2:
        recipe |= {"budget": {"kl": 0.5, "candidates": ["4:32", "8:32"], "tokens": 32, "group": "layer"}}
    path = folder / "recipe.toml"
    shutil.copy(bases / "text.txt", folder)
    if random.random() < 0.2:
        data, said = mutate_bytes(_toml(recipe).encode(), random)
        path.write_bytes(data)
    elif random.random() < 0.15:
        text = random.choice(("a = " + "[" * 20_000, "[" * 20_000, "a." * 20_000 + "b = 1", "a = {" + "b = {" * 5000,
                              "".join(f"k{n} = 1\n" for n in range(50_000)), "[a]\n" * 2, "a = " + "9" * 5000,
                              '"\\ud800" = 1', "a = 1e999", "a = nan"))  # fmt: skip
        said = text[:30]
        path.write_text(_toml(recipe) + text if random.random() < 0.5 else text)
    else:
        place = random.choice([place for place in places(recipe) if place])
        value = hostile(random)
        said = f"{'.'.join(map(str, place))} = {encode(value)[:60]}"
        whole = json.loads(json.dumps(recipe))
        target = whole
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
        path.write_text(_toml(whole), encoding="utf-8", errors="replace")
    return said, _recipe_commands(path, bases, folder / "out")


def _recipe_commands(recipe: Path, bases: Path, out: Path) -> Commands:
    asked = [bases / "checkpoint-llama", "--recipe", recipe]
    return [["plan", *asked], ["export", *asked, "--out", out, "--threads", 1]]


def _toml(table: dict[str, object]) -> str:
    """TOML with every table inline: its JSON, but for the signs of assignment."""
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in table.items())


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf", "1e999": "inf"}.get(text := encode(value), text)


_LINES = (
    *('{"text": "\\ud800"}', '{"text": "half \\udc00 of one"}', '{"text": 1}', '{"text": NaN}', '{"text": null}'),
    *('{"text": ""}', '{"text": "\\u0000"}', '{"text": "a", "text": "b"}', '{"text": {"text": "a"}}', '"text"', "[]"),
    *("1", "{", "9" * 5000, "[" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000, '{"text": "' + "y" * 300_000 + '"}'),
)


def _text(random: Random, bases: Path, folder: Path) -> tuple[str, Commands]:
    suffix = random.choice((".txt", ".jsonl", ".json"))
    path = folder / f"text{suffix}"
    plain = (bases / "text.txt").read_text()
    if suffix == ".txt":
        data = random.choice((
            plain, "", " \n\t", "\0" * 1000, "x" * 300_000, "\u0301" * 5000, "\U000e0001" * 100, "<s></s>" * 200,
            "a\r\nb\r", "\u2028\u2029", "\x1b[2J", plain + "\ufffe",
        )).encode()  # fmt: skip
        said = repr(data[:30])
    else:
        lines = [encode({"text": plain[:200]}) for _ in range(5)]
        strange = random.choice(_LINES)
        lines[random.randrange(5)] = strange
        said = strange[:30]
        data = ("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]").encode("utf-8", "surrogatepass")
    if random.random() < 0.5:
        data, more = mutate_bytes(data, random)
        said += f"; {more}"
    path.write_bytes(data)
    if random.random() < 0.06:
        said = _replace_file(path, random)
        if said == "pipe":  # which a user may name, `--text <(program)`, and is then waited for
            path.unlink()
    return f"{path.name}: {said}", _text_commands(path, bases, folder / "out")


def _text_commands(text: Path, bases: Path, out: Path) -> Commands:
    export = ["export", bases / "checkpoint-llama", "--recipe", bases / "calibrated.toml", "--calibration", text]
    return [
        ["eval", bases / "bundle-llama", "--text", text, "--context", 32, "--stride", 16, "--threads", 1],
        [*export, "--out", out, "--threads", 1],
    ]


_MAKERS: dict[str, Callable[[Random, Path, Path], tuple[str, Commands]]] = {
    "bundle": _bundle,
    "checkpoint": _checkpoint,
    "adapter": _adapter,
    "recipe": _recipe,
    "text": _text,
}
