"""torch's own attention modules: attention of heads together in the graph, and what torch computes without it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.modules.attention import FAST_PATH
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.ways.torch_module import open_callable
from edgepress.exporter.graph.foreign.normal import read_normal, write_normal
from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.cut import plain
from edgepress.sessions import open_on_cpu

SOURCE = '''
import torch
from torch import nn


class Attends(nn.Module):
    """Attention of every form that the operator has: which is first, texts or tokens, masks, weights, widths."""

    def __init__(self):
        super().__init__()
        self.plain, self.late = nn.MultiheadAttention(32, 4, batch_first=True), nn.MultiheadAttention(32, 2, bias=False)
        self.weighs = nn.MultiheadAttention(32, 4, batch_first=True)
        self.wide = nn.MultiheadAttention(32, 4, kdim=24, vdim=20, batch_first=True)
        self.two = nn.MultiheadAttention(32, 4, batch_first=True)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        late = nn.TransformerEncoderLayer(32, 4, 48, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.masked = nn.TransformerEncoder(late, 1, enable_nested_tensor=False)

    def forward(self, x, padding, others):
        left_out, length = padding != 0, x.shape[1]
        first, causal = x.transpose(0, 1), torch.ones(length, length, dtype=torch.bool).triu(1)
        each = (x[:, :, None, 0] * x[:, None, :, 1]).repeat_interleave(4, 0)  # of each head of each text
        weighed, weights = self.weighs(x, x, x, key_padding_mask=left_out, attn_mask=causal)
        return {
            "plain": self.plain(x, x, x, key_padding_mask=left_out)[0],
            "late": self.late(first, first, first, attn_mask=causal, is_causal=True, need_weights=False)[0],
            "weighed": weighed,
            "weights": weights,
            "wide": self.wide(x, others, others[..., :20], need_weights=False)[0],
            "two": self.two(x[:, :1], x, x, attn_mask=each[:, :1], key_padding_mask=left_out)[0],
            "encoder": self.encoder(x, src_key_padding_mask=left_out),
            "masked": self.masked(first, mask=causal, src_key_padding_mask=left_out),
        }


class Unusual(nn.Module):
    """Keys that are added, and one text alone, which torch's own function computes."""

    def __init__(self):
        super().__init__()
        self.more = nn.MultiheadAttention(16, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True)
        self.one = nn.MultiheadAttention(16, 2)

    def forward(self, x):
        return {"more": self.more(x, x, x)[0], "one": self.one(x[0], x[0], x[0])[0]}


def attends():
    torch.manual_seed(0)
    free = {0: "batch", 1: "length"}
    inputs = {"x": torch.randn(2, 5, 32), "padding": torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])}
    axes = {"x": free, "padding": free, "others": {0: "batch"}}
    return {"module": Attends().eval(), "inputs": inputs | {"others": torch.randn(2, 3, 24)}, "axes": axes}


def unusual():
    torch.manual_seed(0)
    return {"module": Unusual().eval(), "inputs": {"x": torch.randn(2, 5, 16)}}
'''


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "attention_example.py").write_text(SOURCE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return open_callable("attention_example:attends", Options(), tmp_path_factory.mktemp("attends"))


def test_it_is_attention_of_heads_together_and_computes_what_torch_does(traced: Traced, tmp_path: Path) -> None:
    import attention_example  # type: ignore[import-not-found]  # written by the fixture
    import torch

    file = write_normal(*read_normal(traced.file), tmp_path / "normal.onnx")
    nodes = onnx.load(file, load_external_data=False).graph.node
    found = [node for node in nodes if node.op_type == "Attention"]
    assert len(found) == 7
    assert all("q_num_heads" in {attribute.name for attribute in node.attribute} for node in found)
    causal = [node for node in found if any(one.name == "is_causal" and one.i for one in node.attribute)]
    assert len(causal) == 1  # without a mask
    assert [len(node.input) for node in causal] == [3]
    assert sum(node.op_type == "Softmax" for node in nodes) == 1  # of the weights that are given

    module, session = attention_example.attends()["module"], open_on_cpu(file)
    names, random = [value.name for value in session.get_outputs()], np.random.default_rng(0)
    for texts, length in ((1, 1), (3, 7)):
        x = random.standard_normal((texts, length, 32)).astype(np.float32)
        others = random.standard_normal((texts, 3, 24)).astype(np.float32)
        padding = (np.arange(length) >= random.integers(1, length + 1, (texts, 1))).astype(np.int64)
        feed = {"x": x, "padding": padding, "others": others}
        with torch.inference_mode():  # where torch takes its fast path
            expected = module(**{name: torch.from_numpy(value) for name, value in feed.items()})
        for name, value in zip(names, session.run(None, feed), strict=True):
            some = padding == 0 if name == "encoder" else ...  # the fast path leaves zeros where texts are padded
            np.testing.assert_allclose(value[some], expected[name].numpy()[some], rtol=0, atol=5e-6, err_msg=name)


def test_what_torch_leaves_zero_is_told(traced: Traced, tmp_path: Path) -> None:
    assert FAST_PATH in traced.notes
    assert FAST_PATH not in open_callable("attention_example:unusual", Options(), tmp_path).notes  # and is right


def test_pruning_finds_its_heads(traced: Traced, tmp_path: Path) -> None:
    file = write_normal(*read_normal(traced.file), tmp_path / "normal.onnx")
    groups = [group for group in find_coupling(plain(onnx.load(file))).groups if group.kind == "heads"]
    assert sorted(len(group) for group in groups) == [2, *[4] * 5]  # but of the one whose weights are given
