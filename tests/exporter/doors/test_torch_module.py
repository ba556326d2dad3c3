"""A user's own torch module: what it computes is what its graph computes, and what cannot be a graph is said."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.traced import Feed, Traced
from edgepress.exporter.doors.tracing import Tracing, trace
from edgepress.exporter.doors.ways.torch_module import is_callable, open_callable
from edgepress.exporter.graph.foreign.normal import read_normal, write_normal
from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.cut import plain
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import Axis, Edge

SOURCE = '''
import torch
from torch import nn


class Block(nn.Module):
    """Attention, LSTM and GRU over two inputs, a tied embedding, a norm after a convolution; two outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.first = nn.Linear(32, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", dropout=0.5)
        self.lstm = nn.LSTM(32, 32, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(64, 32)
        self.conv = nn.Sequential(nn.Conv1d(32, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU())

    def forward(self, x, ids):
        hidden = self.encoder(nn.functional.gelu(self.first(x)) + self.embedding(ids))
        hidden, _ = self.lstm(hidden)
        hidden, last = self.gru(hidden)
        hidden = self.conv(hidden.transpose(1, 2)).transpose(1, 2)
        return {"logits": hidden @ self.embedding.weight.T, "last": last, "none": None}


def block():
    torch.manual_seed(0)
    module = Block()
    module.conv[1].running_mean.normal_()
    module.conv[1].running_var.uniform_(0.5, 2)
    free = {0: "batch", 1: "length"}
    inputs = {"x": torch.randn(1, 5, 32), "ids": torch.randint(0, 40, (1, 5))}
    return {"module": module.eval(), "inputs": inputs, "axes": {"x": free, "ids": free}, "task": "tagging"}


class Attends(nn.Module):
    """As timm's, queries, keys and values of one product, and as transformers', of three; some tokens are padding."""

    def __init__(self):
        super().__init__()
        self.packed, self.parts = nn.Linear(32, 96), nn.ModuleList(nn.Linear(32, 32) for _ in range(5))

    def forward(self, x, padding):
        texts, length, _ = x.shape
        mask = (padding == 0)[:, None, None]
        packed = self.packed(x).reshape(texts, length, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        *parts, first, second = self.parts
        x = x + first(nn.functional.scaled_dot_product_attention(*packed, mask).transpose(1, 2).reshape(x.shape))
        apart = [part(x).view(texts, length, 4, 8).transpose(1, 2) for part in parts]
        return x + second(nn.functional.scaled_dot_product_attention(*apart, mask).transpose(1, 2).reshape(x.shape))


def attends():
    free = {0: "batch", 1: "length"}
    inputs = {"x": torch.randn(2, 5, 32), "padding": torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])}
    return {"module": Attends().eval(), "inputs": inputs, "axes": {"x": free, "padding": free}}


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(7, 2, 1)

    def forward(self, image):
        return self.up(torch.cat([image, nn.functional.interpolate(self.down(image), scale_factor=2)], 1))


def pyramid():
    axes = {"image": {0: "batch", 2: ("height", 2), 3: ("width", 2)}}
    return Pyramid().half(), (torch.rand(1, 3, 8, 8).half(),), axes


def odd_pyramid():
    return Pyramid(), (torch.rand(1, 3, 8, 8),), {"image": {2: "height"}}


class Fills(nn.Module):
    """A table that is made in forward, a number at a time: scalars that are moved stay scalars."""

    def forward(self, x):
        table = torch.zeros(3, 2)
        table[0, 0:] = 5
        table[1, 1] = 7
        return x + table


def fills():
    return Fills(), torch.ones(3, 2)


class Pads(nn.Module):
    """Zeros around negative numbers are the largest; a MaxPool of its own padding does not know them."""

    def forward(self, image):
        return nn.functional.max_pool2d(nn.functional.pad(image, (1, 1, 1, 1)), 3, stride=2)


def pads():
    return {"module": Pads(), "inputs": {"image": -torch.rand(2, 3, 9, 9) - 0.5}, "axes": {"image": {0: "batch"}}}


class Checks(nn.Module):
    def forward(self, x):
        torch._check_tensor_all(x > -1000)
        return 2 * x


def checks():
    return {"module": Checks(), "inputs": {"x": torch.rand(2, 3)}, "axes": {"x": {0: "rows"}}}


class Decides(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def decides():
    return Decides(), torch.ones(2)


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3) + torch.arange(3)


def fixed():
    return Fixed(), torch.ones(2, 3), {"x": {0: "rows"}}


class Solves(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


def solves():
    return Solves(), torch.eye(3)


class Gives(nn.Module):
    """Its input, and one tensor twice."""

    def forward(self, x):
        y = 2 * x
        return {"same": x, "twice": y, "again": y}


def gives():
    return {"module": Gives(), "inputs": {"x": torch.rand(2, 3)}, "axes": {"x": {0: "rows"}}}


class Draws(nn.Module):
    def __init__(self, draws):
        super().__init__()
        self.draws = draws

    def forward(self, x):
        if self.draws == "noise":
            return x + torch.randn_like(x)
        return nn.functional.dropout(x, 0.5, training=self.draws == "dropout")


def noise():
    return Draws("noise"), torch.ones(2, 3)


def dropout():
    return Draws("dropout"), torch.ones(2, 3)


def no_dropout():
    return Draws("nothing"), torch.ones(2, 3)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def counts():
    return Counts(), torch.ones(2, 3)


class Undefined(nn.Module):
    def forward(self, x):
        return torch.log(x)


def undefined():
    return Undefined(), -torch.ones(2, 3)


def raises():
    raise RuntimeError("no weights here")


def number():
    return 3


def imports_when_called():
    import beside_the_example

    return beside_the_example.made()


def with_entries():
    return {
        "module": nn.Flatten(),
        "inputs": {"input": torch.rand(1, 3, 2, 1)},
        "task": {"name": "image-classification", "images": {"input": "input", "mode": "RGB"}},
    }


def wrong_entries():
    return {**with_entries(), "task": {"name": "image-classification", "images": {"input": "pixels"}}}


def named():
    return {**with_entries(), "task": "image-classificaton"}


def keys():
    return {"module": Decides(), "input": torch.ones(2)}


def not_tensors():
    return Decides(), {"x": 3}


def other_axes():
    return Decides(), torch.ones(2), {"y": {0: "rows"}}


def negative_axis():
    return Decides(), torch.ones(2), {"x": {-1: "rows"}}


def too_many():
    return Decides(), (torch.ones(2), torch.ones(2))


CONSTANT = 3
'''


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "doors_example.py").write_text(SOURCE, encoding="utf-8")
    (folder / "beside_the_example.py").write_text(
        "import torch\ndef made():\n    return torch.nn.Linear(2, 2), (torch.rand(1, 2),)\n", encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return open_callable("doors_example:block", Options(), tmp_path_factory.mktemp("block"))


def test_it_computes_what_the_module_computes_at_any_size(block: Traced) -> None:
    import doors_example  # type: ignore[import-not-found]  # written by the fixture
    import torch

    module, session, sizes = doors_example.block()["module"], open_on_cpu(block.file), set()
    for feed in islice(block.examples(1), 6):
        with torch.no_grad():
            expected = module(**{name: torch.from_numpy(np.array(array)) for name, array in feed.items()})
        found = session.run(["logits", "last"], dict(feed))
        for one, name in zip(found, ("logits", "last"), strict=True):
            np.testing.assert_allclose(one, expected[name].numpy(), rtol=0, atol=1e-4 * expected[name].abs().max())
        sizes.add(feed["x"].shape)
    assert len(sizes) > 3


def test_its_edges_have_the_names_of_the_user(block: Traced) -> None:
    assert (block.task.name, block.model_type) == ("tagging", "Block")
    assert block.task.inputs == (
        Edge("x", "float32", ("batch", "length", 32)),
        Edge("ids", "int64", ("batch", "length")),
    )
    assert block.task.outputs[0] == Edge("logits", "float32", ("batch", "length", 40))
    assert [edge.name for edge in block.task.outputs] == ["logits", "last"]
    assert [*block.source] == ["doors_example.py"]


def test_weights_keep_their_names_and_norms_go_into_convolutions(block: Traced) -> None:
    graph = onnx.load(block.file, load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    names = {tensor.name for tensor in graph.initializer}
    assert {"first.weight", "encoder.linear1.weight", "lstm.weight_ih_l0", "gru.weight_hh_l0", "conv.0.weight"} <= names
    assert operators.count("LSTM") == 2
    assert operators.count("GRU") == 1
    assert "BatchNormalization" not in operators
    assert "Loop" not in operators
    assert {"Gelu", "LayerNormalization", "Attention"} <= {*operators}


def test_attention_takes_heads_apart_itself(tmp_path: Path) -> None:
    """In a bundle; and pruning finds the heads, though the mask asks the first queries how many there are."""
    import torch

    torch.manual_seed(0)
    traced = open_callable("doors_example:attends", Options(), tmp_path)
    import doors_example

    torch.manual_seed(0)
    module = doors_example.attends()["module"]
    file = write_normal(*read_normal(traced.file), tmp_path / "normal.onnx")
    operators = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    assert (operators.count("Attention"), operators.count("Split")) == (2, 1)
    assert not {"Transpose", "Slice"} & {*operators}
    random = np.random.default_rng(0)
    for texts, length in ((1, 1), (3, 7)):
        x = random.standard_normal((texts, length, 32)).astype(np.float32)
        padding = (np.arange(length) >= random.integers(1, length + 1, (texts, 1))).astype(np.int64)
        with torch.no_grad():
            expected = module(torch.from_numpy(x), torch.from_numpy(padding)).numpy()
        (found,) = open_on_cpu(file).run(None, {"x": x, "padding": padding})
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    coupling = find_coupling(plain(onnx.load(file)))
    assert [(group.kind, len(group)) for group in coupling.groups] == [("heads", 4), ("heads", 4)]


def test_a_table_that_is_made_a_number_at_a_time(tmp_path: Path) -> None:
    traced = open_callable("doors_example:fills", Options(), tmp_path)
    (found,) = open_on_cpu(traced.file).run(None, {"x": np.zeros((3, 2), np.float32)})
    np.testing.assert_array_equal(found, [[5, 5], [0, 7], [0, 0]])


def test_outputs_may_be_inputs_and_each_other(tmp_path: Path) -> None:
    traced = open_callable("doors_example:gives", Options(), tmp_path)
    names = [edge.name for edge in traced.task.outputs]
    assert ([edge.name for edge in traced.task.inputs], names) == (["x"], ["same", "twice", "again"])
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    for found, times in zip(open_on_cpu(traced.file).run(names, {"x": x}), (1, 2, 2), strict=True):
        np.testing.assert_array_equal(found, times * x)


def test_a_dropout_that_drops_nothing_draws_nothing(tmp_path: Path) -> None:
    traced = open_callable("doors_example:no_dropout", Options(), tmp_path)
    (found,) = open_on_cpu(traced.file).run(None, {"x": np.full((2, 3), 3, np.float32)})
    np.testing.assert_array_equal(found, np.full((2, 3), 3))


def test_a_float_minus_whole_numbers(tmp_path: Path) -> None:
    """XLNet's padding; torch's own exporter finds no operator for it."""
    import torch

    class Padding(torch.nn.Module):
        def forward(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 1.5 - mask, 3 - mask

    tracing = Tracing(
        module=Padding().eval(),
        inputs={"mask": torch.tensor([[1, 0, 1], [1, 1, 4]])},
        where="padding",
        axes={"mask": {0: Axis("batch")}},
    )
    session = open_on_cpu(trace(tracing, "tensors", tmp_path).file)
    mask = np.array([[0, 2, 7]])
    floats, whole = session.run(None, {"mask": mask})
    np.testing.assert_array_equal(floats, np.float32([[1.5, -0.5, -5.5]]))
    np.testing.assert_array_equal(whole, [[3, 1, -4]])


def test_a_check_of_values_is_no_part_of_a_graph(tmp_path: Path) -> None:
    traced = open_callable("doors_example:checks", Options(), tmp_path)
    assert [node.op_type for node in onnx.load(traced.file).graph.node] == ["Mul"]
    assert traced.task.inputs == (Edge("x", "float32", ("rows", 3)),)


def test_a_function_imports_what_is_beside_it_when_it_is_called(tmp_path: Path) -> None:
    assert open_callable("doors_example:imports_when_called", Options(), tmp_path).model_type == "Linear"


def test_a_function_says_what_its_module_is_for(tmp_path: Path) -> None:
    """As a dictionary of the entries that ``--task FILE.json`` has; of a name alone it is said that it is one."""
    found = open_callable("doors_example:with_entries", Options(), tmp_path)
    assert found.task.name == "image-classification"
    assert found.task.images is not None
    assert found.task.images.input == "input"
    named = open_callable("doors_example:named", Options(), tmp_path)
    assert "image-classificaton (did you mean image-classification?) is a name alone" in named.notes[0]


def test_sizes_that_are_multiples(tmp_path: Path) -> None:
    traced = open_callable("doors_example:pyramid", Options(), tmp_path)
    assert {axis.name: axis.multiple for axis in traced.task.axes or ()} == {"2*height": 2, "2*width": 2}
    assert traced.task.inputs[0].shape == ("batch", 3, "2*height", "2*width")
    assert all(feed["image"].shape[2] % 2 == 0 for feed in islice(traced.examples(2), 5))


def test_sizes_that_turn_out_to_be_multiples(tmp_path: Path) -> None:
    traced = open_callable("doors_example:odd_pyramid", Options(), tmp_path)
    assert traced.task.inputs[0].shape == (1, 3, "height", 8)
    assert traced.task.axes == (Axis("height", multiple=2, least=2),)
    assert all(feed["image"].shape[2] % 2 == 0 for feed in islice(traced.examples(2), 5))


def test_zeros_around_what_a_maximum_is_taken_of_stay(tmp_path: Path) -> None:
    import torch

    traced = open_callable("doors_example:pads", Options(), tmp_path)
    image = -np.random.default_rng(0).random((2, 3, 9, 9), np.float32) - 1
    (found,) = open_on_cpu(traced.file).run(None, {"image": image})
    around = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), (2, 3))[:, :, ::2, ::2]  # (2, 3, 5, 5, 3, 3)
    np.testing.assert_allclose(found, windows.max((4, 5)), rtol=0, atol=1e-30)
    assert torch.equal(torch.from_numpy(found[:, :, 0] < 1e-30), torch.ones(2, 3, 5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("decides", r"decides by the values of a tensor at .*doors_example.py:\d+: `if x.sum\(\) > 0:`.*torch.where"),
        ("fixed", r"cannot leave its axes free: .*x.size\(\)\[0\].*constant \(2\).*Leave that axis out of `axes`"),
        ("solves", r"cannot be written as ONNX: .*linalg_eigh"),
        ("noise", r"draws random numbers at .*doors_example.py:\d+: `return x \+ torch.randn_like\(x\)`.*an input"),
        ("dropout", r"draws random numbers at .*doors_example.py:\d+: .*\(Dropout\)"),
        ("counts", r"a call changes calls of the module, and a graph keeps nothing"),
        ("undefined", r"output is NaN or infinite in all 24 values .* for 4 examples; give example inputs"),
        ("raises", r"failed at .*doors_example.py:\d+: .*no weights here"),
        ("number", r"returned int; return \(module, example inputs\)"),
        ("wrong_entries", r"doors_example:wrong_entries: images become the input pixels; the graph has input"),
        ("keys", r"returned the keys module, input; return"),
        ("not_tensors", r"the input x is int, no tensor"),
        ("other_axes", r"axes name the input y, and there are x"),
        ("negative_axis", r"axis -1 of x is 'rows'.*shape \(2,\)"),
        ("too_many", r"returned 2 inputs, and forward takes 1"),
        ("missing", r"doors_example has no missing"),
        ("CONSTANT", r"is no function, but int"),
    ],
)
def test_what_cannot_be_a_graph_is_said(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        open_callable(f"doors_example:{name}", Options(), tmp_path)


def test_modules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"doors_nowhere cannot be imported.*name it as it is imported from"):
        open_callable("doors_nowhere:block", Options(), tmp_path)


def test_what_is_a_callable_and_what_a_path() -> None:
    assert is_callable("package.module:function")
    assert not any(is_callable(name) for name in ("model.onnx", "org/name", "C:\\model", "timm:resnet18 ", "./a:b"))


def test_a_graph_that_cannot_be_opened_is_refused(block: Traced, tmp_path: Path) -> None:
    """JetMoE's experts: sizes that follow from values are numbers in its graph, and of another type."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y"))
    node = onnx.helper.make_node("Shape", ["x"], ["y"])  # which gives whole numbers
    graph = onnx.helper.make_graph([node], "bad", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(CheckFailed, match=r"onnxruntime does not open the graph .* please report this model"):
        check_agreement(replace(block, file=tmp_path / "bad.onnx"))


def test_a_graph_that_computes_something_else_is_refused(block: Traced) -> None:
    original = block.compute
    assert original is not None

    def off(feed: Feed) -> Feed:
        return {name: np.asarray(array) * (1.01 if name == "last" else 1) for name, array in original(feed).items()}

    changed = Traced(
        file=block.file, model_type="Block", task=block.task, examples=block.examples, compute=off, notes=block.notes
    )
    with pytest.raises(CheckFailed, match=r"last is off by 9\.\d+e-03"):
        check_agreement(changed)
