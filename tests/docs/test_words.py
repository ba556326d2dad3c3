"""A reader finds no abbreviation in the README that he has to look up."""

import re

import pytest
from pages import ROOT, prose

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Known to all, and names of files, methods and products.
KNOWN = {"AMD", "API", "ARM", "CNN", "CPU", "EPYC", "MB", "NPU", "ONNX"}
NAMES = {
    "AI",
    "AWQ",
    "BLOOM",
    "CHANGELOG",
    "ERNIE",
    "FILE",
    "GGUF",
    "GLM",
    "GPT",
    "GPTQ",
    "LICENSE",
    "MLX",
    "NNAPI",
    "NOTICE",
    "OPT",
    "XNNPACK",
}  # of files, methods and products
EXPLAINED = {
    "KL": "Kullback-Leibler divergence",
    "QDQ": "QuantizeLinear and DequantizeLinear",
    "SQNR": "signal-to-quantization-noise ratio",
}


def abbreviations(text: str) -> set[str]:
    """Words of capitals, two or more, without the s of a plural; of addresses and code within sentences none."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", " ", text)
    return set(re.findall(r"\b([A-Z]{2,})s?\b", text))


def test_every_abbreviation_of_the_readme_is_known_to_all_or_explained() -> None:
    found = abbreviations(prose(README))
    assert found - KNOWN - NAMES <= set(EXPLAINED)
    assert set(EXPLAINED) <= found | abbreviations("\n".join(re.findall(r"```.*?```", README, re.DOTALL)))
    for words in EXPLAINED.values():
        assert words in README.replace("\n", " ")


@pytest.mark.parametrize(("text", "found"), [("CPUs and `KL`", {"CPU"}), ("[TTFT](TPOT.md) of it", {"TTFT"})])
def test_abbreviations_are_found(text: str, found: set[str]) -> None:
    assert abbreviations(text) == found


def test_the_readme_says_where_the_command_is_after_make_install() -> None:
    assert "make install" in README
    assert "`.venv/bin/edgepress`" in README
