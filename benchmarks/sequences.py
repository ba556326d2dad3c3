"""Encoder-decoders: what recipes do to a trained one, and sizes, parity and speed at the shapes of published ones.

    python benchmarks/sequences.py reversing     a T5 of 0.17 M weights, trained in half a minute to reverse words
    python benchmarks/sequences.py shapes        random weights in real shapes, beside transformers
    python benchmarks/sequences.py attention     operators for each attention of Whisper tiny

Protocol of ``shapes``: one thread; a source of 30 s (Whisper), 5 s (Moonshine) or 64 tokens; 64 tokens of one target,
greedy; medians of ``--repetitions`` turns after one that is not counted; transformers with a cache, the same source,
in the same process, in turn. Raw samples in results/sequences_*.jsonl.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import TARGET, save
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.sequences.bench import bench_sequences
from edgepress.runtime.sequences.model import TextModel

RECIPES = ("fp32", "fp16", "int8", "int8-dynamic", "int4", "int4-128")
LEARNED = ("rtn", "gptq", "autoround")
IN_TWO_BITS = """[weights]
method = "{method}"
bits = 2
block_size = 32
[embedding]
method = "rtn"
bits = 8
"""
"""Few enough bits that methods differ; the table of letters, which no product reads, keeps eight."""
SEEN = 400  # words that methods look at
PAD, END, FIRST = 0, 1, 2  # tokens: letters are those from FIRST on
TOKENS = 64


# ---- a trained model ------------------------------------------------------------------------------------------------


def words(count: int, letters: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Random words of one length, (count, length)."""
    return torch.randint(FIRST, FIRST + letters, (count, length), generator=generator)


def train_reversing(
    folder: Path, *, letters: int = 22, longest: int = 8, width: int = 64, layers: int = 2, steps: int = 600
) -> Path:
    """Train a T5 to write the letters of a word backwards, and save it with its tokenizer; one thread.

    The learning rate rises and falls once (Smith and Topin 2018), words of each batch have one length of 2 to
    ``longest``.
    """
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=FIRST + letters,
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=4,
        dropout_rate=0.0,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=END,
        n_positions=2 * longest,
    )
    model = transformers.T5ForConditionalGeneration(config).train()
    rate = 8e-3 if width < 64 else 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    ends = torch.full((48, 1), END)
    for _ in range(steps):
        length = int(torch.randint(2, longest + 1, (1,), generator=generator))
        word = words(48, letters, length, generator)
        source, target = torch.cat([word, ends], 1), torch.cat([word.flip(1), ends], 1)
        loss = model(input_ids=source, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    transformers.logging.disable_progress_bar()
    model.eval().save_pretrained(folder)
    alphabet = {"<pad>": PAD, "</s>": END, **{chr(ord("a") + index): FIRST + index for index in range(letters)}}
    tokenizer = Tokenizer(models.WordLevel(alphabet, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def held_out(letters: int, longest: int, count: int) -> list[str]:
    """Random words, as many of each length; training has seen the shortest, and of 5 · 10¹⁰ of eight hardly one."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for length in range(2, longest + 1):
        for word in words(count, letters, length, generator):
            found.append("".join(chr(ord("a") + int(token) - FIRST) for token in word))
    return found


def share_reversed(model: TextModel, asked: list[str], beams: int) -> float:
    """How many words are written backwards without a mistake."""
    said = [model.generate(word, beams=beams).text().replace(" ", "") for word in asked]
    return sum(text == word[::-1] for text, word in zip(said, asked, strict=True)) / len(asked)


def reversing() -> Iterator[dict[str, object]]:
    """The trained model in every recipe, greedy and with beams."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home, start = Path(name), time.process_time()
        checkpoint = train_reversing(home / "checkpoint")
        print(f"trained in {time.process_time() - start:.0f} s of one core", flush=True)
        asked = held_out(22, 8, 40)
        for recipe, asked_of_export in {**{name: {} for name in RECIPES}, **learned(home)}.items():
            settings = {"recipe": recipe, **asked_of_export}
            manifest = export(checkpoint, out=home / recipe, target=TARGET, threads=1, **settings)
            model = load(home / recipe, threads=1)
            for beams in (1, 4):
                share = share_reversed(model, asked, beams)
                megabytes = int(str(manifest.totals["bytes_after"])) / 1e6
                print(f"{recipe:13} beams {beams}: {share:.1%} of {len(asked)} words, {megabytes:.2f} MB", flush=True)
                yield {"recipe": recipe, "beams": beams, "words": len(asked), "share": share, "megabytes": megabytes}


def learned(home: Path) -> dict[str, dict[str, Any]]:
    """What is asked of an export with each method in two bits, and the words that it looks at.

    They are drawn by themselves: of the shortest some are asked later, of the longer ones hardly one.
    """
    generator, seen = torch.Generator().manual_seed(2), home / "seen.jsonl"
    lengths = [2 + number % 7 for number in range(SEEN)]
    tokens = [words(1, 22, length, generator)[0].tolist() for length in lengths]
    lines = ["".join(chr(ord("a") + token - FIRST) for token in word) for word in tokens]
    seen.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    found: dict[str, dict[str, Any]] = {}
    for method in LEARNED:
        recipe = home / f"{method}.toml"
        recipe.write_text(IN_TWO_BITS.format(method=method))
        found[f"2 bits, {method}"] = {"recipe": recipe, "calibration": [] if method == "rtn" else [seen]}
    return found


# ---- real shapes ----------------------------------------------------------------------------------------------------


def _opus_mt() -> Any:
    return transformers.MarianConfig(
        vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
        activation_function="swish", scale_embedding=True, pad_token_id=58100, decoder_start_token_id=58100,
        eos_token_id=0,
    )  # fmt: skip


SHAPES: dict[str, tuple[str, Any]] = {
    "whisper-tiny": ("WhisperForConditionalGeneration", transformers.WhisperConfig),
    "moonshine-tiny": (
        "MoonshineForConditionalGeneration",
        lambda: transformers.MoonshineConfig(max_position_embeddings=194),
    ),
    "opus-mt": ("MarianMTModel", _opus_mt),
    "t5-small": ("T5ForConditionalGeneration", lambda: transformers.T5Config(decoder_start_token_id=0)),
}


def save_shape(name: str, folder: Path) -> Path:
    """A checkpoint with random weights in the shape of a published one; its tokenizer knows one word."""
    torch.manual_seed(0)
    kind, config = SHAPES[name]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    getattr(transformers, kind)(config()).save_pretrained(folder)
    Tokenizer(models.WordLevel({"word": 0}, unk_token="word")).save(str(folder / "tokenizer.json"))
    return folder


def torch_seconds(checkpoint: Path, feed: dict[str, np.ndarray], repetitions: int) -> tuple[list[float], list[float]]:
    """Seconds of transformers' encoder, and of one token of its decoder with a cache."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    model = getattr(transformers, config.architectures[0]).from_pretrained(checkpoint, dtype=torch.float32).eval()
    given = {name: torch.from_numpy(array) for name, array in feed.items()}
    encoded, tokens = [], []
    with torch.inference_mode():
        for turn in range(repetitions + 1):
            start = time.perf_counter()
            hidden = model.get_encoder()(**given)
            encoded.append(time.perf_counter() - start)
            found = model(encoder_outputs=hidden, decoder_input_ids=torch.tensor([[1]]), use_cache=True)
            steps = []
            for token in range(2, TOKENS + 1):
                start = time.perf_counter()
                cache = found.past_key_values
                found = model(
                    encoder_outputs=hidden, decoder_input_ids=torch.tensor([[token]]), past_key_values=cache,
                    use_cache=True,
                )  # fmt: skip
                steps.append(time.perf_counter() - start)
            if turn:
                tokens += steps
    return encoded[1:], tokens


def shapes(names: list[str], repetitions: int) -> Iterator[dict[str, object]]:
    """Each shape in float32, int8 and int4, and in transformers."""
    torch.set_num_threads(1)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            checkpoint = save_shape(name, home / "checkpoint")
            feed: dict[str, np.ndarray] = {}
            for recipe in ("fp32", "int8", "int4"):
                start = time.perf_counter()
                manifest = export(checkpoint, out=home / recipe, target=TARGET, recipe=recipe, threads=1, check=True)
                seconds = time.perf_counter() - start
                found = bench_sequences(home / recipe, tokens=TOKENS, repetitions=repetitions, threads=1)
                steps = [second for turn in found.token_seconds for second in turn]
                row = {
                    "shape": name,
                    "with": f"edgepress {recipe}",
                    "megabytes": int(str(manifest.totals["bytes_after"])) / 1e6,
                    "export_and_check_seconds": seconds,
                    "parity": manifest.parity,
                    "encode_seconds": list(found.encode_seconds),
                    "token_seconds": steps,
                }
                yield _said(row)
                feed = _feed(home / recipe, found.source)
            encoded, steps = torch_seconds(checkpoint, feed, repetitions)
            yield _said({"shape": name, "with": "transformers", "encode_seconds": encoded, "token_seconds": steps})


def _feed(bundle: Path, length: int) -> dict[str, np.ndarray]:
    """A source as long as the one that was measured."""
    task = read_manifest(bundle).task
    assert task is not None
    edge, draw = task.inputs[0], np.random.default_rng(1)
    shape = [axis if isinstance(axis, int) else length for axis in edge.shape]
    if edge.type == "int64":
        return {edge.name: draw.integers(3, 1000, shape)}
    return {edge.name: draw.standard_normal(shape).astype(np.float32)}


def _said(row: dict[str, Any]) -> dict[str, object]:
    encode, token = (statistics.median(row[key]) for key in ("encode_seconds", "token_seconds"))
    parity = row.get("parity") or {}
    print(
        f"{row['shape']:15} {row['with']:16} {row.get('megabytes', 0):8.1f} MB  encode {1e3 * encode:8.1f} ms  "
        f"{1 / token:7.1f} tokens/s  {parity.get('graph_difference', '')}",
        flush=True,
    )
    return row


# ---- operators ------------------------------------------------------------------------------------------------------

_HEADS, _WIDTH = 6, 64  # of Whisper tiny
_SOURCE, _TEXT = 1500, 224  # positions of the encoder, and tokens of half a target


def _session(
    op: str, domain: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], **attributes: Any
) -> Any:
    """One node as a model; inputs are names with shapes, an empty name is an input left out."""
    import onnx
    from onnx import TensorProto, helper

    from edgepress.sessions import open_on_cpu, session_options

    node = helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes)
    whole = {"seqlens_k": TensorProto.INT32, "total": TensorProto.INT32}
    values = [
        [helper.make_tensor_value_info(name, whole.get(name, TensorProto.FLOAT), shape) for name, shape in one.items()]
        for one in ({name: shape for name, shape in inputs.items() if name.strip()}, outputs)
    ]
    for index, name in enumerate(node.input):
        node.input[index] = name.strip()
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", *values), opset_imports=opsets, ir_version=11)
    onnx.checker.check_model(model) if not domain else None
    return open_on_cpu(model.SerializeToString(), session_options(1))


def _attention_cases(beams: int) -> dict[str, tuple[Any, dict[str, np.ndarray], list[str]]]:
    """Each way to compute an attention: a session, what it is fed, and outputs that lie where inputs do."""
    draw, width = np.random.default_rng(0), _HEADS * _WIDTH

    def floats(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    def kept(rows: int) -> list[Any]:
        return [beams, _HEADS, rows, _WIDTH]

    one, past = [beams, 1, width], kept(_TEXT)
    own = {"q": floats(*one), "k": floats(*one), "v": floats(*one)}
    lengths = {"seqlens_k": np.full(beams, _TEXT - 1, np.int32), "total": np.array(_TEXT, np.int32)}
    before = kept(_TEXT - 1)
    caches = {"past_k": floats(*before), "past_v": floats(*before)}
    shapes_of = {name: list(array.shape) for name, array in (own | caches | lengths).items()}
    after = {"y": one, "new_k": past, "new_v": past}
    query = {"q": floats(1, beams, width)}
    source = {"k": floats(1, _HEADS, _SOURCE, _WIDTH), "v": floats(1, _HEADS, _SOURCE, _WIDTH)}
    to_source = {name: list(array.shape) for name, array in (query | source).items()}
    whole = {name: floats(1, _SOURCE, width) for name in "qkv"}
    of_whole = {name: [1, _SOURCE, width] for name in "qkv"}
    grouped = {**dict.fromkeys("qkv", one), "past_k": past, "past_v": past, "seqlens_k": [beams], "total": []}
    left_out = {" ": [], "  ": [], "   ": []}
    many = {"q": shapes_of["q"], "k": shapes_of["k"], "v": shapes_of["v"]}
    pasts = {"past_k": before, "past_v": before}
    both = {"q_num_heads": _HEADS, "kv_num_heads": _HEADS}
    contrib, by_head = "com.microsoft", [1, _HEADS, beams, _WIDTH]
    return {
        "text: GroupQueryAttention, keys in place": (
            _session("GroupQueryAttention", contrib, grouped, after, num_heads=_HEADS, kv_num_heads=_HEADS),
            {**own, "past_k": floats(*past), "past_v": floats(*past), **lengths},
            ["new_k", "new_v"],
        ),
        "text: MultiHeadAttention, keys copied": (
            _session("MultiHeadAttention", contrib, {**many, **left_out, **pasts}, after, num_heads=_HEADS),
            own | caches,
            [],
        ),
        "text: Attention 24, keys copied": (
            _session("Attention", "", {**many, " ": [], **pasts}, after, **both),
            own | caches,
            [],
        ),
        "source: MultiHeadAttention": (
            _session("MultiHeadAttention", contrib, to_source, {"y": [1, beams, width]}, num_heads=_HEADS),
            query | source,
            [],
        ),
        "source: Attention 24": (
            _session("Attention", "", to_source | {"q": by_head}, {"y": by_head}),
            {**source, "q": floats(*by_head)},
            [],
        ),
        "encoder: MultiHeadAttention": (
            _session("MultiHeadAttention", contrib, of_whole, {"y": [1, _SOURCE, width]}, num_heads=_HEADS),
            whole,
            [],
        ),
        "encoder: Attention 24": (
            _session("Attention", "", of_whole, {"y": [1, _SOURCE, width]}, **both),
            whole,
            [],
        ),
    }


def attention(repetitions: int) -> Iterator[dict[str, object]]:
    """Processor seconds of each way, which other work disturbs less than the clock's."""
    import onnxruntime

    for beams in (1, 4):
        for name, (session, feed, in_place) in _attention_cases(beams).items():
            if beams > 1 and name.startswith("encoder"):
                continue
            binding = session.io_binding()
            values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(array) for key, array in feed.items()}
            for key, value in values.items():
                binding.bind_ortvalue_input(key, value)
            for output in session.get_outputs():
                if output.name in in_place:
                    binding.bind_ortvalue_output(output.name, values[output.name.replace("new", "past")])
                else:
                    binding.bind_output(output.name, "cpu")
            runs, seconds = 3 if name.startswith("encoder") else 300, []
            for _ in range(repetitions + 1):
                start = time.process_time()
                for _ in range(runs):
                    session.run_with_iobinding(binding)
                seconds.append((time.process_time() - start) / runs)
            print(f"{name:42} beams {beams}: {1e6 * statistics.median(seconds[1:]):9.0f} µs", flush=True)
            yield {"way": name, "beams": beams, "processor_seconds": seconds[1:]}


def main() -> None:
    """Measure what is asked for, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reversing", "shapes", "attention"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    found = {
        "reversing": reversing,
        "shapes": lambda: shapes(arguments.only, arguments.repetitions),
        "attention": lambda: attention(arguments.repetitions),
    }[arguments.what]
    print(save(f"sequences_{arguments.what}", list(found())))


if __name__ == "__main__":
    main()
