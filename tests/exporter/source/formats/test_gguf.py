"""GGUF: every type is read as the gguf package reads it, and one file is the model that it was made of."""

import re
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TEXT, VARIANTS, save, save_variant

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.formats.gguf import GGUFWeight
from edgepress.exporter.source.formats.gguf.blocks import BLOCKS
from edgepress.exporter.source.formats.gguf.families import families, load
from edgepress.exporter.source.formats.gguf.tokenizer import _merges
from edgepress.exporter.source.packed import packed_as
from edgepress.exporter.source.stored import StoredTensor
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer

gguf = pytest.importorskip("gguf")
from gguf_checkpoints import Kind, random_blocks, save_gguf  # noqa: E402 - needs the package


@pytest.mark.parametrize("number", BLOCKS)
@settings(max_examples=15)
@given(rows=st.integers(1, 9), heads=st.integers(0, 3), seed=st.integers(0, 2**16), data=st.data())
def test_every_type_is_read_as_the_package_reads_it(
    tmp_path_factory: pytest.TempPathFactory, number: int, rows: int, heads: int, seed: int, data: st.DataObject
) -> None:
    rows, blocks = (rows * 2 * heads if heads else rows), BLOCKS[number]
    raw = random_blocks(Kind(number), rows, 2 * blocks.size, seed=seed)
    expected = gguf.quants.dequantize(raw, Kind(number))
    if heads:
        half = rows // heads // 2
        order = [head * 2 * half + 2 * pair + part for head in range(heads) for part in (0, 1) for pair in range(half)]
        expected = expected[order]
    file = tmp_path_factory.mktemp("blocks") / "data"
    file.write_bytes(b"head" + raw.tobytes())
    stored = StoredTensor("x", "U8", raw.shape, file, 4, raw.nbytes)
    weight = GGUFWeight(**packed_as("x", (rows, 2 * blocks.size), (stored,), ""), blocks=blocks, heads=heads)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    np.testing.assert_array_equal(weight.rows(start, stop), expected[start:stop], strict=True)
    assert Kind(number).name == blocks.name
    assert gguf.GGML_QUANT_SIZES[Kind(number)] == (blocks.size, blocks.nbytes)
    assert isinstance(weight.grid(), str) == (blocks.name in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"))


def test_the_page_says_which_types_and_architectures_are_read() -> None:
    page = (Path(__file__).parents[4] / "docs" / "models.md").read_text(encoding="utf-8")
    said = page[page.index("A GGUF file needs nothing beside it") :].split("\n\n")[0]
    kept, rounded = (
        set(re.findall(r"\b(?:I?Q\d_\w+)", part)) for part in said[said.index("`keep` holds") :].split(";")
    )
    quantized = {blocks.name: blocks.uneven for blocks in BLOCKS.values()}
    assert kept == {name for name, uneven in quantized.items() if not uneven}
    assert rounded == {name for name, uneven in quantized.items() if uneven}
    names = {name.replace("gemma2", "gemma").replace("_dense", "-dense") for name in families()}
    assert names - {name for name in names if f"`{name}`" in said} == set()


@pytest.mark.parametrize("heads", [2, [2, 0], None])
def test_layers_of_lfm2_are_named_where_they_are_missing(heads: object) -> None:
    with pytest.raises(InputError, match=r"head_count_kv = .*a number for each of 3 layers; export the original"):
        load("lfm2").more({"attention.head_count_kv": heads}, {"num_hidden_layers": 3})


def test_layers_of_exaone_are_named_where_they_are_missing() -> None:
    values = {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, False]}
    with pytest.raises(InputError, match=r"sliding_window_pattern = \[True, False\]: .*each of 3 layers"):
        load("exaone4").more(values, {"num_hidden_layers": 3})


FAMILIES = (
    "llama",
    "llama-biases-head_dim",
    "llama-linear-version4",
    "llama-tied-llama3",
    "qwen2",
    "qwen3",
    "phi3",
    "granite",
    "smollm3",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "ernie4_5",
    "ernie4_5-biases",
    "hunyuan_v1_dense",
    "seed_oss",
    "lfm2",
    "exaone4",
    "exaone4-windows",
)


OWN = {  # what llama.cpp's code has, or the file's form
    "lfm2": {"conv_bias": False},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32},
    "gemma3_text": {
        "num_hidden_layers": 7,
        "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 32,
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_one_file_is_the_model_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    config = {**variant.config, **OWN.get(name, {})}
    source = save_variant(replace(variant, config=config), tmp_path / "source", seed=1)
    path = save_gguf(source, tmp_path / "model.gguf")
    original, found = Checkpoint.open(source), Checkpoint.open(path)
    assert read_decoder(found) == read_decoder(original)
    assert {*found.tensors} >= {part.tensor for weight in read_decoder(original).weights() for part in weight.parts}
    for tensor, stored in found.tensors.items():
        rows = stored.shape[0]
        np.testing.assert_allclose(found.rows(tensor, 0, rows), original.rows(tensor, 0, rows), rtol=1e-6, atol=2e-7)
    first, second = source_tokenizer(original), source_tokenizer(found)
    for text in (TEXT[:90], "a  b\n\n 12345 don't", "<s>x</s> é日", ""):
        assert first.library.encode(text).ids == second.library.encode(text).ids


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q5_0", "Q4_1", "F16", "BF16"])
def test_logits_are_those_of_transformers_own_reader(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("accelerate")  # which transformers asks for
    source = save("llama", tmp_path / "source")
    path = save_gguf(source, tmp_path / "model.gguf", Kind[kind])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    tokens = np.arange(3, 23)
    with torch.inference_mode():
        expected = theirs.eval()(torch.from_numpy(tokens)[None]).logits[0].numpy()
    found = Reference(path).logits(tokens)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q5_0", "IQ4_NL", "Q6_K", "Q3_K"])
def test_what_is_on_a_grid_is_kept_bit_for_bit(tmp_path: Path, kind: str) -> None:
    variant = VARIANTS["llama"]
    wide = replace(variant, config={**variant.config, "intermediate_size": 256})  # rows of a K type
    source = save_variant(wide, tmp_path / "source", seed=1)
    path = save_gguf(source, tmp_path / "model.gguf", lambda name: Kind[kind] if "down" in name else Kind.F32)
    (tmp_path / "keep.toml").write_text('[weights]\nmethod = "keep"\nbits = 8\n[embedding]\nbits = 32\n')
    prepared = decide(path, target="x86-cpu", recipe=tmp_path / "keep.toml")
    manifest = export(path, out=tmp_path / "bundle", target="x86-cpu", recipe=tmp_path / "keep.toml")
    stored = StoredWeights(tmp_path / "bundle" / DATA_FILE, prepared.plan)
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        shape = prepared.checkpoint.tensors[name].shape
        np.testing.assert_array_equal(stored(name), prepared.checkpoint.rows(name, 0, shape[0]))
        entry = next(one for one in manifest.tensors if one["name"] == f"layers.{layer}.mlp.down")
        assert entry["sqnr_db"] is None
        assert f"unchanged (GGUF {kind}" in str(entry["reason"])
    assert manifest.source == {"model.gguf": manifest.source["model.gguf"]}


@settings(max_examples=60)
@given(
    text=st.text(st.sampled_from("ab▁c"), max_size=24),
    pieces=st.sets(st.text(st.sampled_from("ab▁c"), min_size=2, max_size=4), max_size=20),
    seed=st.integers(0, 2**16),
)
def test_merges_of_scores_are_sentencepieces(text: str, pieces: set[str], seed: int) -> None:
    """Against the algorithm itself: of neighbours that are a piece together, the best is merged, the left one first."""
    from tokenizers import Tokenizer, models

    tokens = [*"ab▁c", *sorted(pieces)]
    scores = [0.0] * 4 + [-float(one) for one in np.random.default_rng(seed).permutation(len(pieces))]
    model = models.BPE({token: at for at, token in enumerate(tokens)}, _merges(tokens, [1] * len(tokens), scores))
    found, score = list(text), dict(zip(tokens, scores, strict=True))
    while True:
        best = max(
            ((score[a + b], -at) for at, (a, b) in enumerate(pairwise(found)) if a + b in score),
            default=None,
        )
        if best is None:
            break
        at = -best[1]
        found[at : at + 2] = ["".join(found[at : at + 2])]
    assert [token.value for token in model.tokenize(text)] == found
    assert isinstance(Tokenizer(model), Tokenizer)


def test_a_tokenizer_of_sentencepiece_is_read(tmp_path: Path) -> None:
    """Against transformers' own reader, and by hand: what has no piece is bytes, and a space comes before a text."""
    from transformers import AutoTokenizer

    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["\u2581", "t", "h", "e", "th", "the", "\u2581the", "r", "\u2581t", "re", "there"]
    tokens = ["<unk>", "<s>", "</s>", *bytes_of, *pieces]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    scores = [0.0] * 259 + [-float(at) for at in range(len(pieces))]
    source = save("llama", tmp_path / "source")
    path = save_gguf(
        source,
        tmp_path / "model.gguf",
        pieces=(tokens, [*kinds, *[gguf.TokenType.NORMAL] * len(pieces)], scores),
    )
    found = source_tokenizer(Checkpoint.open(path)).library
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ("the there", "th\u00e9", "there  there", ""):
        assert found.encode(text).ids == theirs(text)["input_ids"], text
    shown = [tokens[number] for number in found.encode("the \u00e9").ids]
    assert shown == ["<s>", "\u2581the", "\u2581", "<0xC3>", "<0xA9>"]
    shown = [tokens[number] for number in found.encode(" the").ids]
    assert shown == ["<s>", "\u2581", "\u2581the"], "as llama.cpp does, and SentencePiece: a space more"
    assert found.decode(found.encode("the \u00e9").ids) == "the \u00e9"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gguf")
    return save_gguf(save("llama", home / "source"), home / "model.gguf", Kind.Q8_0)


def changed(file: Path, folder: Path, old: bytes, new: bytes) -> Path:
    content = file.read_bytes()
    assert content.count(old) >= 1
    (folder / "changed.gguf").write_bytes(content.replace(old, new, 1))
    return folder / "changed.gguf"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"GGUF\x03", b"GGUF\x01", "its version is 1; 2 and 3 are read"),
        (b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", "general.architecture = 'mamba' is not read"),
        (b"llama.block_count", b"llama.block_c0unt", "llama.block_c0unt = 3 is not known here"),
        (b"ffn_down", b"ffn_dawn", "blk.0.ffn_dawn.weight is a tensor that llama has no use for"),
        (b"gpt2", b"gpt3", "tokenizer.ggml.model = 'gpt3' is not read"),
        (b"gpt-2", b"gpt-4", "tokenizer.ggml.pre = 'gpt-4': how texts are cut is not known"),
    ],
)
def test_what_is_not_read_is_named(file: Path, tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        Checkpoint.open(changed(file, tmp_path, old, new))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 136), np.uint8), raw_dtype=Kind.IQ4_XS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"token_embd\.weight is stored as IQ4_XS; F32, .*IQ4_NL are read"):
        Checkpoint.open(tmp_path / "x.gguf")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_is_refused(file: Path, tmp_path: Path, share: float) -> None:
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: max(4, int(share * len(content)))])
    with pytest.raises(InputError, match=r"cut\.gguf: .*truncated"):
        Checkpoint.open(tmp_path / "cut.gguf")


@settings(max_examples=60)
@given(at=st.floats(0, 0.3), byte=st.integers(0, 255), word=st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused(file: Path, at: float, byte: int, word: bool) -> None:
    content = bytearray(file.read_bytes())
    place = int(at * len(content))
    content[place : place + (8 if word else 1)] = struct.pack("<Q", byte << 40) if word else bytes([byte])
    hostile = file.parent / "hostile.gguf"
    hostile.write_bytes(content)
    try:
        Checkpoint.open(hostile)
    except InputError:
        return
