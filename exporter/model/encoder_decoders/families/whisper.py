"""Whisper (Radford et al. 2022): two convolutions over a mel spectrogram of 30 s, norms before the mixers."""

import numpy as np

from edgepress.errors import InputError
from edgepress.exporter.model.architectures._common import layer_norm, linear, matrix, read_activation
from edgepress.exporter.model.encoder_decoders.description import (
    Convolution,
    CrossAttention,
    EncoderDecoder,
    SelfAttention,
    Stack,
    Step,
)
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import (
    ZEROS,
    Heads,
    Names,
    cross_attention,
    first_of,
    self_attention,
)
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.reading import GENERATION
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_NAMES = Names(biases=(True, False, True, True))  # keys have none
_EPSILON = 1e-5
_TAPS = 3
_WITHOUT_EFFECT = (  # of the plain transcription: training, a classifier, and word times
    *("mask_feature_length", "mask_feature_min_masks", "mask_feature_prob"),
    *("mask_time_length", "mask_time_min_masks", "mask_time_prob", "apply_spec_augment"),
    *("classifier_proj_size", "use_weighted_layer_sum", "median_filter_width", "tie_word_embeddings"),
)


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """Defaults are transformers' WhisperConfig's."""
    hidden, vocab = config.integer("d_model", 384), config.integer("vocab_size", 51865)
    source, target = config.integer("max_source_positions", 1500), config.integer("max_target_positions", 448)
    bands = config.integer("num_mel_bins", 80)
    activation = read_activation(config, "activation_function", "gelu")
    config.without_effect(*_WITHOUT_EFFECT)
    if config.flag("scale_embedding", False):
        raise config.refuse("scale_embedding", "no Whisper has it, and it is not implemented")

    def stack(side: str) -> Stack:
        sizes, width = Heads.of(config, f"{side}_attention_heads", hidden, 6), config.integer(f"{side}_ffn_dim", 1536)
        prefix = "encoder." if side == "encoder" else ""

        def layer(index: int) -> tuple[Step, ...]:
            tensors, name = f"model.{side}.layers.{index}", f"{prefix}layers.{index}"

            def step(role: str, tensor: str, mixer: SelfAttention | CrossAttention | MLP) -> Step:
                return Step(
                    mixer=mixer, before=layer_norm(f"{name}.{role}_norm", f"{tensors}.{tensor}", hidden, _EPSILON)
                )

            own = self_attention(f"{name}.attention", f"{tensors}.self_attn", _NAMES, sizes)
            steps = [step("attention", "self_attn_layer_norm", own)]
            if side == "decoder":
                other = cross_attention(f"{name}.cross_attention", f"{tensors}.encoder_attn", _NAMES, sizes)
                steps.append(step("cross_attention", "encoder_attn_layer_norm", other))
            mlp = MLP(
                up=linear(f"{name}.mlp.up", f"{tensors}.fc1", width, hidden, bias=True),
                down=linear(f"{name}.mlp.down", f"{tensors}.fc2", hidden, width, bias=True),
                activation=activation,
            )
            return (*steps, step("mlp", "final_layer_norm", mlp))

        length = source if side == "encoder" else target
        return Stack(
            layers=tuple(layer(index) for index in range(config.integer(f"{side}_layers", 4))),
            positions=matrix(f"{side}.positions", "positions", f"model.{side}.embed_positions.weight", length, hidden),
            last_norm=layer_norm(f"{side}.last_norm", f"model.{side}.layer_norm", hidden, _EPSILON),
        )

    def convolution(number: int, channels: int, stride: int) -> Convolution:
        tensor, name = f"model.encoder.conv{number}", f"encoder.convolution.{number}"
        return Convolution(
            kernel=Weight(name, "kernel", (hidden, channels, _TAPS), (Part(f"{tensor}.weight", 0, hidden),)),
            bias=Weight(f"{name}.bias", "bias", (hidden,), (Part(f"{tensor}.bias", 0, hidden),)),
            stride=stride,
            padding=1,
            activation="gelu",
        )

    embedding = matrix(
        "embedding",
        "embedding",
        first_of(checkpoint, "model.decoder.embed_tokens.weight", "proj_out.weight"),
        vocab,
        hidden,
    )
    return EncoderDecoder(
        model_type="whisper",
        hidden_size=hidden,
        vocab_size=vocab,
        context_length=target,
        source="mel",
        source_length=source,
        fixed_source=True,
        bands=bands,
        convolutions=(convolution(1, bands, 1), convolution(2, hidden, 2)),
        encoder=stack("encoder"),
        embedding=embedding,
        decoder=stack("decoder"),
        head=Linear(embedding),
        alignment=_alignment(checkpoint, config),
        made={ZEROS: np.zeros(hidden, np.float32)},
    )


def _alignment(checkpoint: Checkpoint, config: Config) -> tuple[tuple[int, int], ...]:
    """The heads that generation_config.json names for the times of words; none where it names none.

    Raises:
        InputError: one is not there.

    """
    named = checkpoint.json(GENERATION).get("alignment_heads") or []
    layers, heads = config.integer("decoder_layers", 4), config.integer("decoder_attention_heads", 6)
    found = []
    for pair in named if isinstance(named, list) else [named]:
        numbers = [number for number in pair if type(number) is int] if isinstance(pair, list) else []
        if len(numbers) != 2 or not (0 <= numbers[0] < layers and 0 <= numbers[1] < heads):
            raise InputError(
                f"{checkpoint.directory / GENERATION}: alignment_heads has {pair!r}; each is a layer below {layers} "
                f"and a head below {heads}; correct it"
            )
        found.append((numbers[0], numbers[1]))
    return tuple(found)


FAMILY = Family("whisper", "automatic-speech-recognition", read, (r"proj_out\.weight",))
