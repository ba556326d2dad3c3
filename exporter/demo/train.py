"""Train the built-in demo model: a byte-level BPE tokenizer and a small Llama, on tinyshakespeare.

    python -m edgepress.exporter.demo.train --out exporter/demo/model

The story, in call order (`main`): split the text, train the tokenizer on the training part, train
the model and keep its best weights by held-out loss, round them to bfloat16, measure held-out bits
per byte on the rounded weights, and write model, tokenizer and card. Every figure in the card is
measured here; none is typed by hand.

Bits per byte: the held-out text is one document, scored from its own beginning-of-sequence token,
which is context and not scored. Windows hold 256 tokens; the first is scored whole, each later one
brings 128 new tokens. The summed negative log-likelihood is divided by ln 2 and by the document's
UTF-8 bytes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edgepress.disk.files import atomic_directory
from edgepress.exporter.demo.card import refuse_other_models, write_card

MODULE = "edgepress.exporter.demo.train"
REPOSITORY = Path(__file__).resolve().parents[2]
TEXT_IN_DATA = Path("text") / "tinyshakespeare" / "input.txt"

BEGIN = "<|endoftext|>"  # opens a document and ends it, as in GPT-2
VOCABULARY = 1024
CONTEXT = 512
EVALUATION_WINDOW = 256
EVALUATION_STRIDE = 128
HELD_OUT_SHARE = 0.1
LARGEST_FILE = 4_000_000  # bytes of model.safetensors: it is package data

SAMPLE_PROMPT = "ROMEO:"
SAMPLE_TOKENS = 240
SAMPLE_TEMPERATURE = 0.7
SAMPLE_TOP_K = 40


@dataclass(frozen=True)
class Settings:
    """What a training run is asked to do; together with the data and the versions, all of it."""

    steps: int = 2250
    windows: int = 4  # of CONTEXT tokens, a step
    begin_share: float = 0.25  # of the windows, those that open with BEGIN
    long_share: float = 0.2  # of the steps, those with windows of CONTEXT tokens; the rest: half as long
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    dropout: float = 0.1
    evaluate_every: int = 250
    seed: int = 1623  # the First Folio
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "evaluate_every", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("begin_share", "long_share", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")


@dataclass(frozen=True)
class Outcome:
    """What a training run measured."""

    best_step: int
    best_loss: float  # nats per token on the held-out part, float32 weights
    seconds: float  # wall time of training, held-out checks included


def default_data() -> Path:
    """The data root: EDGEPRESS_DATA, else `../shared/data` beside the repository."""
    return Path(os.environ.get("EDGEPRESS_DATA", REPOSITORY.parent / "shared" / "data"))


def split_text(text: str) -> tuple[str, str]:
    """The training part and the held-out part: the last tenth of the text, as one whole."""
    boundary = int(len(text) * (1 - HELD_OUT_SHARE))
    return text[:boundary], text[boundary:]


def train_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose `encode` puts BEGIN first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BEGIN} $A",
                pair=f"{BEGIN} $A {BEGIN} $B:1",
                special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=BEGIN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(begin_id: int) -> LlamaForCausalLM:
    """The model, freshly initialised: every matrix side a multiple of 64, most of 128."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=begin_id,
        eos_token_id=begin_id,
    )
    return LlamaForCausalLM(config)


def drop_branches(model: LlamaForCausalLM, probability: float) -> None:
    """Dropout, while training, on what each attention and MLP adds to the residual stream.

    LlamaForCausalLM drops attention weights only. Hooks are not part of a checkpoint: what is
    saved is a plain Llama.
    """

    def drop(module: nn.Module, _arguments: object, output: Any) -> Any:
        if isinstance(output, tuple):  # attention: (hidden states, attention weights)
            return (functional.dropout(output[0], probability, module.training), *output[1:])
        return functional.dropout(output, probability, module.training)

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def encode_training(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """The text as token ids, without BEGIN, and the positions at which a speech starts."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    speeches = [
        position
        for position, (start, _end) in enumerate(encoding["offset_mapping"])
        if start == 0 or text[start - 2 : start] == "\n\n"
    ]
    return torch.tensor(encoding["input_ids"]), torch.tensor(speeches)


def draw_windows(tokens: Tensor, speeches: Tensor, begin_id: int, settings: Settings) -> Iterator[Tensor]:
    """One batch of windows (windows, length) a step; some windows open with BEGIN and a speech.

    Attention makes long windows dear, so only the last steps use windows of CONTEXT tokens; those
    before use twice as many of half the length.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    begin = torch.tensor([begin_id])
    speeches = speeches[speeches <= len(tokens) - CONTEXT]
    for step in range(settings.steps):
        long = step >= settings.steps * (1 - settings.long_share)
        length, count = (CONTEXT, settings.windows) if long else (CONTEXT // 2, settings.windows * 2)
        batch = []
        for _ in range(count):
            if torch.rand((), generator=generator) < settings.begin_share:
                start = int(speeches[torch.randint(len(speeches), (), generator=generator)])
                batch.append(torch.cat([begin, tokens[start : start + length - 1]]))
            else:
                start = int(torch.randint(len(tokens) - length + 1, (), generator=generator))
                batch.append(tokens[start : start + length])
        yield torch.stack(batch)


def token_losses(model: LlamaForCausalLM, window: Tensor) -> Tensor:
    """Negative log-likelihood, in nats, of each token of `window` (batch, n) but its first."""
    logits = model(input_ids=window, use_cache=False).logits  # (batch, n, vocabulary)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), window[:, 1:].flatten(), reduction="none")


@torch.inference_mode()
def document_loss(model: LlamaForCausalLM, document: Tensor, window: int, stride: int) -> float:
    """Summed negative log-likelihood, in nats, of a document (n,) whose first token is BEGIN.

    The first window is scored whole, BEGIN excepted; each later one starts `stride` further on and
    scores only the tokens no window before it held.
    """
    if not 0 < stride < window:
        raise ValueError(f"stride is {stride}; it must be from 1 to {window - 1}, one less than the window")
    model.train(False)
    total = 0.0
    scored_to = 1  # BEGIN is context
    for start in range(0, len(document), stride):
        end = min(start + window, len(document))
        losses = token_losses(model, document[None, start:end])  # (end - start - 1,)
        total += float(losses[scored_to - start - 1 :].sum(dtype=torch.float64))
        scored_to = end
        if end == len(document):
            break
    return total


def bits_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> float:
    """Bits per UTF-8 byte of `text`, by the definition at the top of this file."""
    document = torch.tensor(tokenizer.encode(text, verbose=False))
    nats = document_loss(model, document, EVALUATION_WINDOW, EVALUATION_STRIDE)
    return nats / math.log(2) / len(text.encode())


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine from the peak to a hundredth of it."""
    if step < settings.warmup_steps:
        return settings.peak_learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.peak_learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    gains = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_learning_rate, betas=(0.9, 0.98))


def train_model(model: LlamaForCausalLM, batches: Iterator[Tensor], held_out: Tensor, settings: Settings) -> Outcome:
    """Train `model` in place and leave it with its best weights by held-out loss."""
    drop_branches(model, settings.dropout)
    optimizer = make_optimizer(model, settings)
    best_loss, best_step = math.inf, 0
    best_weights: dict[str, Tensor] = {}
    started = time.perf_counter()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        model.train()
        loss = token_losses(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.steps:
            nats = document_loss(model, held_out, CONTEXT, CONTEXT - 1)
            held_out_loss = nats / (len(held_out) - 1)
            seconds = time.perf_counter() - started
            print(
                f"step {done:5d}/{settings.steps}  train {loss.item():.3f}  "
                f"held-out {held_out_loss:.4f} nats/token  {seconds:.0f} s",
                flush=True,
            )
            if held_out_loss < best_loss:
                best_loss, best_step = held_out_loss, done
                best_weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return Outcome(best_step, best_loss, time.perf_counter() - started)


@torch.inference_mode()
def sample_text(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, seed: int) -> str:
    """Text drawn from the model after `prompt`, the prompt included; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    model.train(False)
    tokens = new = torch.tensor([tokenizer.encode(prompt)])
    cache = DynamicCache()
    for _ in range(SAMPLE_TOKENS):
        # By place: versions of transformers give the cache other names. None: no mask, positions as they come.
        logits = model(new, None, None, cache, use_cache=True).logits[0, -1].float()
        best = torch.topk(logits / SAMPLE_TEMPERATURE, SAMPLE_TOP_K)
        new = best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)][None]
        tokens = torch.cat([tokens, new], dim=1)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the tokenizer, and say in its configuration what it adds to a text.

    transformers reads that from tokenizer.json and does not repeat it in tokenizer_config.json;
    onnxruntime-genai (0.18) reads it from the configuration and would end each text with an
    end-of-sequence token where nothing is said.
    """
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    configuration |= {"add_bos_token": True, "add_eos_token": False}
    path.write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model, rounded to bfloat16, and its tokenizer in Hugging Face form."""
    out.mkdir(parents=True, exist_ok=True)
    begin_id = tokenizer.bos_token_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # as above
        bos_token_id=begin_id,
        eos_token_id=begin_id,
        do_sample=True,
        temperature=SAMPLE_TEMPERATURE,
        top_k=SAMPLE_TOP_K,
    )
    model.bfloat16().save_pretrained(out)
    save_tokenizer(tokenizer, out)
    size = (out / "model.safetensors").stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{out / 'model.safetensors'} is {size} bytes, over {LARGEST_FILE}; make the model smaller")


def load(directory: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model, its bfloat16 weights computed with in float32, and its tokenizer, as they lie on disk."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(directory)


def processor_name() -> str:
    """The processor as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def card_facts(model: LlamaForCausalLM, text: str, settings: Settings, outcome: Outcome) -> dict[str, str]:
    """The rows of the card's table: what was asked, what it ran on and what came out."""
    training, held_out = (part.encode() for part in split_text(text))
    shape = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = settings.steps * settings.windows * CONTEXT
    return {
        "parameters": f"{parameters:,} (input and output embeddings tied)",
        "shape": f"{shape.num_hidden_layers} layers, hidden {shape.hidden_size}, MLP {shape.intermediate_size}, "
        f"{shape.num_attention_heads} query and {shape.num_key_value_heads} key/value heads of {shape.head_dim}",
        "vocabulary": f"{shape.vocab_size} tokens, byte-level BPE trained on the training part",
        "context": f"{CONTEXT} tokens",
        "data": f"tinyshakespeare, {len(text.encode()):,} bytes, SHA-256 `{hashlib.sha256(text.encode()).hexdigest()}`",
        "training part": f"bytes 0 to {len(training):,}",
        "held-out part": f"the last {len(held_out):,} bytes (`tail -c {len(held_out)} input.txt`)",
        "steps": f"{settings.steps:,} of {settings.windows * CONTEXT:,} tokens ({tokens:,} tokens), in windows of "
        f"{CONTEXT // 2} tokens, for the last {settings.long_share:.0%} of the steps {CONTEXT}",
        "optimizer": f"AdamW, {settings.warmup_steps} steps up to {settings.peak_learning_rate:g}, then cosine; "
        f"weight decay {settings.weight_decay:g}, dropout {settings.dropout:g}, seed {settings.seed}",
        "weights kept": f"after step {outcome.best_step:,}, best of the held-out checks every "
        f"{settings.evaluate_every} steps: {outcome.best_loss:.4f} nats per token in float32",
        "training time": f"{outcome.seconds / 60:.1f} minutes of wall time",
        "host": f"{processor_name()}, {settings.threads} thread(s), {platform.system()} {platform.machine()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers")]
        ),
    }


def changed_flags(settings: Settings) -> list[str]:
    """The flags that ask for `settings`, where they differ from the defaults."""
    return [
        f"--{field.name.replace('_', '-')} {getattr(settings, field.name)}"
        for field in fields(Settings)
        if getattr(settings, field.name) != field.default
    ]


def parse_arguments(arguments: list[str]) -> tuple[Path, Path, Settings]:
    """The data root, the folder to write and the settings."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Train the built-in demo model.")
    parser.add_argument("--data", type=Path, default=default_data(), help="data root (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write model, tokenizer and card to")
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help="(default: %(default)s)")
    chosen = vars(parser.parse_args(arguments))
    data, out = chosen.pop("data"), chosen.pop("out")
    return data, out, Settings(**chosen)


def main(arguments: list[str]) -> None:
    """Train, save, read back, measure, describe."""
    data, out, settings = parse_arguments(arguments)
    refuse_other_models(out)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)

    text = (data / TEXT_IN_DATA).read_bytes().decode()
    training, held_out = split_text(text)
    tokenizer = train_tokenizer(training)
    tokens, speeches = encode_training(training, tokenizer)
    begin_id = tokenizer.bos_token_id
    print(f"{len(training):,} training bytes, {len(tokens):,} tokens; {len(held_out):,} held-out bytes", flush=True)

    model = build_model(begin_id)
    batches = draw_windows(tokens, speeches, begin_id, settings)
    held_out_tokens = torch.tensor(tokenizer.encode(held_out, verbose=False))
    outcome = train_model(model, batches, held_out_tokens, settings)
    with atomic_directory(out, replace=True, may_remove=refuse_other_models) as work:
        save(model, tokenizer, work)
        model, tokenizer = load(work)
        measured = bits_per_byte(model, tokenizer, held_out)
        write_card(
            work,
            measured,
            card_facts(model, text, settings, outcome),
            protocol=f"Windows hold {EVALUATION_WINDOW} tokens; the first is scored whole, each later one brings "
            f"{EVALUATION_STRIDE} new tokens.",
            prompt=SAMPLE_PROMPT,
            sample=sample_text(model, tokenizer, SAMPLE_PROMPT, settings.seed),
            command=" ".join([f"python -m {MODULE}", "--out exporter/demo/model", *changed_flags(settings)]),
        )
    print(f"{out}: {measured:.4f} held-out bits per byte, {outcome.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
