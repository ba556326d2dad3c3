"""Experts with relu² and no gate, as Nemotron 3 Nano has them, in kernels whose experts are gated."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VARIANTS

from edgepress.errors import InputError
from edgepress.exporter import decide
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.model.mixers.mixture_of_experts import SQUARED_RELU, MixtureOfExperts, Routing, glu

EXPERTS = VARIANTS["nemotron_h-experts"].config


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20))
def test_a_gate_like_its_input_is_a_squared_relu(values: list[float]) -> None:
    x = torch.tensor(values).double()
    none = MixtureOfExperts(router=None, experts=(), routing=Routing(count=1), alpha=SQUARED_RELU)  # type: ignore[arg-type] - nothing is routed
    found = glu(none, torch.stack([x, x], dim=-1).flatten())
    np.testing.assert_allclose(found.numpy(), np.maximum(x.numpy(), 0) ** 2, rtol=0, atol=0.55 / SQUARED_RELU**2)


def test_what_is_stored_twice_is_in_the_plan(tmp_path: Path) -> None:
    notes = decide(tiny_models.save("nemotron_h-experts", tmp_path / "model"), target="x86-cpu", recipe="int4").notes
    stored = 2 * 6 * 32 * 64 / 1e6  # of two layers with six experts
    assert any(note.startswith(f"{stored:.1f} million weights of experts are stored twice") for note in notes)
    other = decide(tiny_models.save("olmoe", tmp_path / "other"), target="x86-cpu", recipe="int4").notes
    assert not any("twice" in note for note in other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"moe_latent_size": 32}, "moe_latent_size = 32: experts between projections of their own"),
        ({"mlp_hidden_act": "silu"}, "mlp_hidden_act = 'silu': must be relu2, as of experts without a gate"),
        ({"num_experts_per_tok": 7}, "must be at most n_routed_experts = 6"),
        ({"n_group": 4}, "n_group = 4: must divide the 6 experts"),
    ],
)
def test_what_is_not_implemented_is_refused(change: dict[str, object], says: str) -> None:
    config = {"model_type": "nemotron_h", **VARIANTS["nemotron_h-experts"].sizes, **EXPERTS, **change}
    with pytest.raises(InputError, match=says):
        describe(config, ())
