"""Tiny encoder-decoders with random weights, one for each family, as checkpoints that transformers wrote."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import tiny_models
import torch
import transformers

from edgepress.bundle.manifest import read_manifest
from edgepress.runtime.sequences.session import EncoderDecoder

VOCABULARY = tiny_models.VOCABULARY
PAD, START, END = 0, 1, 2
_TOKENS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "decoder_start_token_id": START}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "forced_eos_token_id": END,
    **_TOKENS,
}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, **_TOKENS}
_WHISPER = {key: value for key, value in _BART.items() if key not in {"max_position_embeddings", "forced_eos_token_id"}}
_WHISPER["vocab_size"] = VOCABULARY + 5 + 51  # languages, purposes, and times


_MOONSHINE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,  # heads of 20, no multiple of 8
    "intermediate_size": 48,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 2,
    "decoder_num_attention_heads": 2,
    "max_position_embeddings": 48,
    **_TOKENS,
}
SECONDS = 1  # of a window of the tiny Whisper
LANGUAGES = {"<|en|>": VOCABULARY, "<|de|>": VOCABULARY + 1}
PURPOSES = {"transcribe": VOCABULARY + 2, "translate": VOCABULARY + 3}
NO_TIMES = VOCABULARY + 4


def _whisper() -> transformers.PreTrainedModel:
    config = transformers.WhisperConfig(
        **_WHISPER,
        max_source_positions=50 * SECONDS,
        max_target_positions=48,
        num_mel_bins=20,
        begin_suppress_tokens=[END, 5],
    )
    return transformers.WhisperForConditionalGeneration(config)


_SPOKEN = {
    "lang_to_id": LANGUAGES,
    "task_to_id": PURPOSES,
    "is_multilingual": True,
    "no_timestamps_token_id": NO_TIMES,
    "max_initial_timestamp_index": 20,
    "suppress_tokens": [7, 8, *LANGUAGES.values(), *PURPOSES.values()],
    "begin_suppress_tokens": [END, 5],
    "alignment_heads": [[0, 1], [1, 0], [1, 1]],
    "max_length": 48,
    **_TOKENS,
}


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**_BART)),
    "mbart": lambda: transformers.MBartForConditionalGeneration(
        transformers.MBartConfig(**_BART, scale_embedding=True)
    ),
    "marian": lambda: transformers.MarianMTModel(
        transformers.MarianConfig(**_BART, scale_embedding=True, activation_function="swish")
    ),
    "marian-two-tables": lambda: transformers.MarianMTModel(
        transformers.MarianConfig(
            **_BART, decoder_vocab_size=VOCABULARY, share_encoder_decoder_embeddings=False, tie_word_embeddings=True
        )
    ),
    "pegasus": lambda: transformers.PegasusForConditionalGeneration(
        transformers.PegasusConfig(**_BART, scale_embedding=True, activation_function="relu")
    ),
    "blenderbot": lambda: transformers.BlenderbotForConditionalGeneration(transformers.BlenderbotConfig(**_BART)),
    "plbart": lambda: transformers.PLBartForConditionalGeneration(transformers.PLBartConfig(**_BART)),
    "mvp": lambda: transformers.MvpForConditionalGeneration(transformers.MvpConfig(**_BART)),
    "m2m_100": lambda: transformers.M2M100ForConditionalGeneration(transformers.M2M100Config(**_BART)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    "t5-gated-untied": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "mt5": lambda: transformers.MT5ForConditionalGeneration(transformers.MT5Config(**_T5)),
    "umt5": lambda: transformers.UMT5ForConditionalGeneration(transformers.UMT5Config(**_T5)),
    "whisper": _whisper,
    "moonshine": lambda: transformers.MoonshineForConditionalGeneration(transformers.MoonshineConfig(**_MOONSHINE)),
}


_LATER = ("blenderbot", "mvp", "plbart")  # whose numbers are behind those of the others, for weights that tests know


@contextmanager
def on_one_thread() -> Iterator[None]:
    """torch on one thread: for models so small, two that wait for each other take five times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def save(name: str, directory: Path) -> Path:
    """Write the model ``name`` with its tokenizer; each name has its own weights, the same every time."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(sorted(MODELS, key=lambda one: (one in _LATER, one)).index(name))
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif parameter.ndim >= 2:
                parameter.mul_(3.0)  # so that logits differ, and few targets repeat one token
        for buffer_name, buffer in model.named_buffers():
            if buffer_name == "final_logits_bias":
                buffer.normal_()
        if name == "t5-gated-untied":
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(directory)
    if name == "whisper":
        (directory / "generation_config.json").write_text(json.dumps(_SPOKEN))
        transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=SECONDS).save_pretrained(directory)
    if name == "moonshine":
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
        extractor.save_pretrained(directory)
    tiny_models.save_tokenizer(directory)
    return directory


@cache
def reference(directory: Path) -> transformers.PreTrainedModel:
    """transformers' own model of a checkpoint, with a head where it was saved without one."""
    config = transformers.AutoConfig.from_pretrained(directory)
    named = getattr(transformers, config.architectures[0])
    if not named.can_generate():
        speech = type(config) in transformers.AutoModelForSpeechSeq2Seq._model_mapping
        named = transformers.AutoModelForSpeechSeq2Seq if speech else transformers.AutoModelForSeq2SeqLM
    return named.from_pretrained(directory).eval()


def opened(bundle: Path) -> EncoderDecoder:
    """A session of a bundle."""
    manifest = read_manifest(bundle)
    assert manifest.task is not None
    assert manifest.task.sequences is not None
    return EncoderDecoder(bundle, manifest.task.sequences, manifest.states, threads=1)


def source_of(session: EncoderDecoder, seed: int = 0) -> dict[str, np.ndarray]:
    """A random source."""
    draw = np.random.default_rng(seed)
    if session.sequences.source == "tokens":
        return {"input_ids": draw.integers(3, VOCABULARY - 1, (1, 11))}
    if session.sequences.source == "mel":
        return {"input_features": draw.standard_normal((1, 20, session.sequences.source_length)).astype(np.float32)}
    return {"input_values": (0.1 * draw.standard_normal((1, 8000))).astype(np.float32)}


def difference(checkpoint: Path, bundle: Path) -> float:
    """How far a bundle is from transformers: of what is encoded or of a logit, as a share of the largest of either.

    Logits are those of a random target: a piece of it in one call, then a token at a time.
    """
    session = opened(bundle)
    feed, target = source_of(session), np.random.default_rng(1).integers(3, 300, 9)
    with torch.inference_mode():
        given = {key: torch.from_numpy(array) for key, array in feed.items()}
        expected = reference(checkpoint)(**given, decoder_input_ids=torch.from_numpy(target)[None])
    hidden, logits = expected.encoder_last_hidden_state[0].numpy(), expected.logits[0].numpy()
    encoded = float(np.abs(session.encode(feed) - hidden).max() / np.abs(hidden).max())
    found = [session.append(target[:4]).copy(), *(session.append([int(token)]).copy() for token in target[4:])]
    return max(encoded, float(np.abs(np.array(found) - logits[3:]).max() / np.abs(logits).max()))
