"""Ids of tokens beside tokenizer.json."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers_of_all_kinds import PROSE, content_of, library_of, plain

from edgepress.errors import InputError
from edgepress.exporter.tokens.token_ids import named_tokens, renumber, renumber_files
from edgepress.exporter.tokens.tokenizer import prune_tokenizer, read_vocabulary

NEW = {1: 0, 2: 1, 50: 2, 60: 3}


def test_every_key_that_names_a_token_is_renumbered() -> None:
    before = {
        "bos_token_id": 1,
        "eos_token_id": [2, 50],
        "pad_token_id": None,
        "decoder_start_token_id": -1,
        "suppress_tokens": [50, 51, 60],
        "bad_words_ids": [[50, 60], [50, 51]],
        "vocab_size": 64,
        "max_length": 50,
    }
    assert renumber(before, NEW) == before | {
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "suppress_tokens": [2, 3],
        "bad_words_ids": [[2, 3]],
    }
    assert named_tokens(before, "config.json") == {1, 2, 50}
    assert renumber({"bad_words_ids": [[51]]}, NEW) == {"bad_words_ids": None}  # transformers refuses an empty list


@pytest.mark.parametrize("value", ["</s>", True, [1, "a"], 1.5])
def test_what_is_no_id_is_named(value: object) -> None:
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id is"):
        named_tokens({"eos_token_id": value}, "generation_config.json")


def test_files_of_a_byte_level_tokenizer_agree_with_each_other() -> None:
    content = content_of("byte level")
    model = content["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""])
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    old = {
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": merges.encode(),
        "added_tokens.json": json.dumps(added).encode(),
        "tokenizer_config.json": json.dumps(
            {
                "added_tokens_decoder": {
                    str(entry["id"]): {"content": entry["content"]} for entry in content["added_tokens"]
                },
                "bos_token": "<s>",
            }
        ).encode(),
        "generation_config.json": b'{"eos_token_id": [1]}',
        "special_tokens_map.json": b'{"eos_token": "</s>"}',
    }
    vocabulary = read_vocabulary(content)
    pruned = prune_tokenizer(vocabulary, set(library_of("byte level").encode(PROSE[:200]).ids))
    new = renumber_files(old, pruned)
    assert new.keys() == {*old, "tokenizer.json"} - {"special_tokens_map.json"}  # that one names texts alone
    library = plain(new["tokenizer.json"].decode())
    table = json.loads(new["tokenizer_config.json"])["added_tokens_decoder"]
    assert {entry["content"]: int(token) for token, entry in table.items()} == json.loads(new["added_tokens.json"])
    for text, token in json.loads(new["added_tokens.json"]).items():
        assert library.token_to_id(text) == token
    assert json.loads(new["generation_config.json"]) == {"eos_token_id": [library.token_to_id("</s>")]}
    # the pair of older files is a tokenizer too, and the same one
    vocab = json.loads(new["vocab.json"])
    pairs = [tuple(line.split(" ")) for line in new["merges.txt"].decode().split("\n")[1:-1]]
    assert new["merges.txt"].startswith(b"#version: 0.2\n")
    other = Tokenizer(models.BPE(vocab, pairs))
    other.pre_tokenizer, other.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    for line in PROSE.replace("the", "a").split("\n"):
        assert other.encode(line).ids == library.encode(line, add_special_tokens=False).ids


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_file_that_is_no_json_object_is_named(content: bytes) -> None:
    pruned = prune_tokenizer(read_vocabulary(content_of("byte level")), [])
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not"):
        renumber_files({"tokenizer_config.json": content}, pruned)
