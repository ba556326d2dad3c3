"""Tokens to text one at a time: nothing lost, nothing half, nothing late."""

import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from edgepress.errors import InputError
from edgepress.text.tokenizer import Detokenizer, StopStrings, Tokenizer, read_tokenizer

DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
NAMES = ("bytes", "gpt2", "phi-3-mini", "stories260k")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@cache
def tokenizer(name: str) -> Tokenizer:
    """Real vocabularies where the data is there; `bytes` needs none: byte-level, one token a byte and a few merges."""
    if name == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: index for index, letter in enumerate([*alphabet, "th", "the", "Ġa", "ðŁ"])}
        merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("ð", "Ł")]
        library = Library(models.BPE(vocabulary, merges))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        library.add_special_tokens(["<|end|>"])
        return Tokenizer(library)
    path = DATA / ("models" if name == "stories260k" else "tokenizers") / name
    if not path.exists():
        pytest.skip(f"{path} is not there; set EDGEPRESS_DATA to the data folder")
    if name != "gpt2":
        return read_tokenizer(path)
    library = Library(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return Tokenizer(library)


def pieces(tokens: list[int], tok: Tokenizer, prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tok, prompt or [])
    return [*(detokenizer.push(token) for token in tokens), detokenizer.finish()]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60) | st.text(alphabet="aé 語🙂‍\n▁�", max_size=40))
def test_pieces_joined_are_the_text(name: str, text: str) -> None:
    tok = tokenizer(name)
    tokens = tok.encode_plain(text)
    found = pieces(tokens, tok)
    assert "".join(found) == tok.decode(tokens)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_joined_are_the_text_of_any_tokens(name: str, data: st.DataObject) -> None:
    tok = tokenizer(name)
    # A byte-fallback run that is not UTF-8 is the documented exception, so such bytes come as whole characters here.
    byte_tokens = {byte: token for token, byte in tok.bytes.items()}
    text_token = st.integers(0, tok.vocabulary - 1).filter(lambda token: token not in tok.bytes).map(lambda one: [one])
    whole = st.characters(min_codepoint=0x80, exclude_categories=["Cs"]).map(lambda letter: letter.encode())
    in_bytes = whole.map(lambda encoded: [byte_tokens[byte] for byte in encoded])
    groups = data.draw(st.lists(text_token | in_bytes if tok.bytes else text_token, max_size=60))
    tokens = [token for group in groups for token in group]
    assert "".join(pieces(tokens, tok)) == tok.decode(tokens)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(prompt=st.text(alphabet="ab é語🙂", min_size=1, max_size=30), text=st.text(alphabet="ab é語🙂", max_size=30))
def test_after_a_prompt_the_pieces_continue_it(name: str, prompt: str, text: str) -> None:
    tok = tokenizer(name)
    before, tokens = tok.encode_plain(prompt), tok.encode_plain(text)
    assert tok.decode(before) + "".join(pieces(tokens, tok, before)) == tok.decode(before + tokens)


@pytest.mark.parametrize("name", NAMES)
def test_no_piece_is_half_a_character(name: str) -> None:
    tok = tokenizer(name)
    found = pieces(tok.encode_plain("smile 🙂 日本語 ∰ done"), tok)
    assert not any(REPLACEMENT in piece for piece in found)


def test_special_tokens_give_no_text_and_lose_none() -> None:
    tok = tokenizer("bytes")
    end = tok.library.token_to_id("<|end|>")
    tokens = [*tok.encode_plain("a the"), end, *tok.encode_plain(" a")]
    assert "".join(pieces(tokens, tok)) == "a the a"


def test_an_unfinished_character_comes_out_at_the_end_as_a_replacement() -> None:
    tok = tokenizer("bytes")
    tokens = tok.encode_plain("x🙂")[:-1]
    assert "".join(pieces(tokens, tok)) == f"x{REPLACEMENT}"


def test_bytes_that_never_make_a_character_are_not_held_forever() -> None:
    tok = tokenizer("bytes")
    garbage = [tok.library.token_to_id("ÿ")] * 200  # byte 0xFF
    detokenizer = Detokenizer(tok)
    shown = "".join(detokenizer.push(token) for token in garbage)
    assert len(shown) > 180
    assert shown + detokenizer.finish() == REPLACEMENT * 200


def test_a_broken_run_of_fallback_bytes_keeps_its_whole_characters() -> None:
    tok = tokenizer("stories260k")
    byte_tokens = {byte: token for token, byte in tok.bytes.items()}
    run = [byte_tokens[byte] for byte in "é".encode() + b"\xff" + "語".encode()[:2]]
    after = tok.encode_plain("x time")
    assert pieces([*run, *after], tok)[:5] == ["", "é", REPLACEMENT, "", ""]
    assert "".join(pieces([*run, *after], tok)) == f"é{REPLACEMENT}{REPLACEMENT} x time"


@pytest.mark.parametrize("kind", ["text", "garbage"])
def test_cost_is_linear(kind: str) -> None:
    tok = tokenizer("bytes")
    pattern = tok.encode_plain("the cat ") if kind == "text" else [tok.library.token_to_id("ÿ")]

    def decoded(count: int) -> int:
        """Tokens that the library is given for a text of ``count``, those given again counted again."""
        given: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Tokenizer, "decode", lambda self, tokens: (given.append(len(tokens)), decode(self, tokens))[1]
            )
            pieces((pattern * count)[:count], tok)
        return sum(given)

    decode = Tokenizer.decode
    small, large = decoded(500), decoded(4000)
    assert small >= 500
    assert large == pytest.approx(8 * small, rel=0.02)  # 64 when quadratic


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="abc", max_size=40),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=3),
    size=st.integers(1, 7),
)
def test_a_stop_string_is_cut_wherever_the_pieces_end(text: str, stops: list[str], size: int) -> None:
    stop_strings = StopStrings(stops)
    shown = ""
    for piece in cut(text, size):
        shown += stop_strings.push(piece)
        if stop_strings.found is not None:
            break
    else:
        shown += stop_strings.finish()
    starts = [text.find(stop) for stop in stops if stop in text]
    if not starts:
        assert shown == text
    elif size == 1:  # piece by piece, the stop that is complete first wins
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        assert stop_strings.found is not None


def test_text_that_cannot_be_a_stop_string_is_not_held() -> None:
    stop_strings = StopStrings(["</end>"])
    assert [stop_strings.push(piece) for piece in ("abc", "<", "/x", "</en", "d> more")] == ["abc", "", "</x", "", ""]
    assert stop_strings.found == "</end>"


@pytest.mark.parametrize("stops", ["text", [""]])
def test_stop_strings_that_cannot_be_meant_are_refused(stops: list[str]) -> None:
    with pytest.raises(InputError, match="stop"):
        StopStrings(stops)


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("add", [True, False])
def test_the_first_token_is_added_where_the_config_says_so(tmp_path: Path, add: bool) -> None:
    tokenizer("bytes").library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(f'{{"add_bos_token": {str(add).lower()}, "bos_token": "<|end|>"}}')
    tok = read_tokenizer(tmp_path)
    end = tok.library.token_to_id("<|end|>")
    assert (tok.encode("a")[0] == end) is add
    assert tok.encode("<|end|>a").count(end) == 1
    assert end not in tok.encode_plain("a")
