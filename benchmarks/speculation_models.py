"""Models to speculate with, trained here on 1,000 stories: one deep enough for a draft, one with a layer of MTP.

    python benchmarks/speculation_models.py [deep] [hybrid]

- ``deep``: a Llama of 12 layers and 5 million weights, of which a recipe's ``[draft]`` makes one of two layers. Three
  layers are trained first, then four copies of them on top of each other (Gong et al. 2019, "Efficient Training of BERT
  by Progressively Stacking"), which takes a core a third of the time.
- ``hybrid``: the shape of Qwen3.5 (gated delta rule, every fourth layer attends) with 2.6 million weights, and a layer
  that predicts a token further, trained with the model as DeepSeek-V3's was (section 2.2): the loss of the token after
  the next counts ``FURTHER`` as much as that of the next.

Both have a byte-level vocabulary of 1,024 tokens made of the same stories, and are far from what more text and time
would make of them: what speculation gains depends on it. About 7 and 4 minutes of one core; what is there is kept.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import WORK
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm

from edgepress.exporter.demo.train import (
    VOCABULARY,
    Settings,
    default_data,
    learning_rate,
    make_optimizer,
    save_tokenizer,
    token_losses,
    train_tokenizer,
)

DATA = default_data()
PLACE = WORK / "speculation_models"
LENGTH = 256  # tokens of a window
SHALLOW = 3  # layers that are trained first
FURTHER = 0.3
SEED = 12
SHAPE = {
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
Loss = Callable[[Tensor], Tensor]


def stories() -> list[str]:
    """The stories that are trained on."""
    found: list[str] = json.loads((DATA / "text/tinystories/tinystories_1000.json").read_text(encoding="utf-8"))
    return found


def held_out() -> list[str]:
    """200 others."""
    lines = (DATA / "text/tinystories/stories_heldout_blank.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def windows(tokens: Tensor, steps: int, count: int) -> Iterator[Tensor]:
    """Batches (windows, length) of ``count`` windows, drawn anywhere."""
    generator = torch.Generator().manual_seed(SEED + steps)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - LENGTH, (count,), generator=generator).tolist()
        yield torch.stack([tokens[start : start + LENGTH] for start in starts])


def encoded(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Tokens (n,) of all texts, each with the one that begins a text before it."""
    return torch.tensor([token for text in texts for token in tokenizer.encode(text, verbose=False)])


def learn(modules: nn.Module, loss: Loss, tokens: Tensor, steps: int, *, count: int, rate: float = 2e-3) -> None:
    """Train what ``loss`` of a batch of ``count`` windows is computed by."""
    settings = Settings(steps=steps, warmup_steps=min(50, steps // 5), peak_learning_rate=rate)
    optimizer = make_optimizer(modules, settings)  # type: ignore[arg-type]  # of any module
    start = time.process_time()
    for step, batch in enumerate(windows(tokens, steps, count)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        found = loss(batch)
        optimizer.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 24:
            print(f"{step + 1}/{steps}: {float(found.detach()):.3f}, {time.process_time() - start:.0f} s", flush=True)


def llama(layers: int) -> PreTrainedModel:
    """A Llama that is not trained."""
    heads = {"num_attention_heads": 6, "hidden_size": 192, "intermediate_size": 512}
    found: PreTrainedModel = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, **heads, num_hidden_layers=layers))
    return found


def train_deep(tokens: Tensor) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model, and what is saved beside it."""

    def loss_of(model: Any) -> Loss:
        return lambda batch: token_losses(model, batch).mean()

    shallow, model = llama(SHALLOW), llama(12)
    learn(shallow, loss_of(shallow), tokens, 220, count=8)
    known = shallow.state_dict()
    stacked = {name: known[re.sub(r"(?<=layers\.)\d+", copied, name)] for name in model.state_dict()}
    model.load_state_dict(stacked)
    learn(model, loss_of(model), tokens, 110, count=8, rate=1e-3)
    return model, {}


def copied(number: re.Match[str]) -> str:
    """The layer that layer ``number`` is a copy of."""
    return str(int(number[0]) % SHALLOW)


class Further(nn.Module):
    """A layer that reads token i + 1 and what the final norm gave of token i, and gives that of a token further."""

    def __init__(self, config: Qwen3_5TextConfig) -> None:
        super().__init__()
        one = Qwen3_5TextConfig(**(config.to_dict() | {"num_hidden_layers": 1, "layer_types": ["full_attention"]}))
        inside = AutoModelForCausalLM.from_config(one).model
        del inside.embed_tokens  # the model's own
        self.inside = inside
        width = config.hidden_size
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = (Qwen3_5RMSNorm(width, config.rms_norm_eps) for _ in "eh")
        self.fc = nn.Linear(2 * width, width, bias=False)
        nn.init.normal_(self.fc.weight, std=width**-0.5)

    def forward(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Both (texts, tokens, hidden) → the same."""
        both = torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1)
        found: Tensor = self.inside(inputs_embeds=self.fc(both), use_cache=False).last_hidden_state
        return found

    def stored(self) -> dict[str, Tensor]:
        """Weights by the names that Qwen3.5's checkpoints have them under."""
        names = ((f"mtp.{name.removeprefix('inside.')}", value) for name, value in self.state_dict().items())
        return {name: value.contiguous() for name, value in names}


def train_hybrid(tokens: Tensor) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """As :func:`train_deep`."""
    heads = {"num_attention_heads": 8, "hidden_size": 256, "intermediate_size": 512}
    heads |= {"linear_num_key_heads": 4, "linear_num_value_heads": 4}
    heads |= {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
    config = Qwen3_5TextConfig(**SHAPE, **heads, num_hidden_layers=4, mtp_num_hidden_layers=1)
    model = AutoModelForCausalLM.from_config(config)
    further = Further(config)

    def loss(batch: Tensor) -> Tensor:
        hidden = model.model(batch, use_cache=False).last_hidden_state
        ahead = further(model.get_input_embeddings()(batch[:, 1:]), hidden[:, :-1])
        both = zip((hidden[:, :-1], ahead[:, :-1]), (batch[:, 1:], batch[:, 2:]), strict=True)
        near, far = (functional.cross_entropy(model.lm_head(x).flatten(0, 1), y.flatten()) for x, y in both)
        return near + FURTHER * far

    learn(nn.ModuleList([model, further]), loss, tokens, 320, count=4)
    return model, further.stored()


TRAINERS = {"deep": train_deep, "hybrid": train_hybrid}


def checkpoint(kind: str) -> Path:
    """The trained model ``kind`` in Hugging Face form, trained now where it is not there yet."""
    found = PLACE / kind
    if (found / "about.json").exists():
        return found
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = train_tokenizer("\n".join(stories()))
    start = time.process_time()
    model, beside = TRAINERS[kind](encoded(tokenizer, stories()))
    model.save_pretrained(found)
    save_tokenizer(tokenizer, found)
    if beside:
        save_file(load_file(found / "model.safetensors") | beside, found / "model.safetensors", {"format": "pt"})
    weights = sum(value.numel() for value in [*model.parameters(), *beside.values()])
    about = {"weights": weights, "cpu_s": round(time.process_time() - start)}
    (found / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or list(TRAINERS):
        print(checkpoint(name), flush=True)
