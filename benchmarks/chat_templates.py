"""Chat templates that ship, rendered by the runtime, transformers and onnxruntime-genai: do they say the same?

python benchmarks/chat_templates.py

Templates are those in the source of llama.cpp (models/templates), fetched by pip and verified. Each is rendered on
every case of edgepress.chat.conformance; tokens are those of a byte-level tokenizer that has its special tokens.
"""

import re
import sys

from common import WORK
from peers.llama_cpp_source import source

from edgepress.chat.conformance import CASES, Case, vector
from edgepress.chat.genai import TEXT_ONLY, is_installed, vector_of_genai
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import ChatTemplate
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.tokens.chat_vectors import reference_vector, stopped_clock
from edgepress.text.tokenizer import Tokenizer

BOS = "<|endoftext|>"  # the demo model's, which onnxruntime-genai reads
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^<>\s]{1,40}\uff5c>|</?[a-z_]{3,30}>|\[/?[A-Z_]{3,30}\]|<[a-z_]+>")


def tokenizers(tokens: list[str]) -> tuple[Tokenizer, object]:
    """The same small tokenizer for the runtime and for transformers, with these special tokens."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(vocab=alphabet, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(tokens)
    text = library.to_str()
    fast = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(text), bos_token=BOS, eos_token=BOS)
    return Tokenizer(Library.from_str(text)), fast


def _genai() -> object | None:
    """onnxruntime-genai's tokenizer, where it is installed: of the demo model, as its text alone is compared."""
    if not is_installed():
        return None
    import onnxruntime_genai

    bundle = WORK / "chat_templates"
    if not bundle.exists():
        export("demo", out=bundle, recipe="int4", target="x86-cpu")
    return onnxruntime_genai.Tokenizer(str(bundle))  # type: ignore[no-any-return] # it has no types


def _now(encoder: ChatEncoder, case: Case) -> str | None:
    """The text of a case at this time, which is onnxruntime-genai's; None where the template refuses it."""
    try:
        return encoder.template.render(case.messages, tools=case.tools, answer=case.answer)
    except InputError:
        return None


def main() -> None:
    """Print a line for each template and each difference."""
    folder = source() / "models" / "templates"
    right = refused = wrong = 0
    genai, asked = _genai(), 0
    counts = {"alike": 0, "all alike": 0}
    files = sorted(folder.glob("*.jinja"))
    for path in files:
        template = path.read_text(encoding="utf-8")
        specials = sorted({BOS, *_SPECIAL.findall(template)})
        tokenizer, fast = tokenizers(specials)
        encoder = ChatEncoder(ChatTemplate(template, tokens={"bos_token": BOS, "eos_token": BOS}), tokenizer)
        lines, others = [], 0
        for plain in CASES:
            case = plain.with_control(specials[-1])
            wanted, made = reference_vector(fast, case, template), vector(encoder, case)
            if genai is not None and plain in TEXT_ONLY:
                asked += 1
                alike = vector_of_genai(genai, case, template).text == _now(encoder, case)
                counts["alike"] += alike
                others += not alike
            if made != wanted:
                wrong += 1
                lines.append(f"    {case.name}: {made.text!r:.200} is not {wanted.text!r:.200}")
            elif wanted.text is None:
                refused += 1
            else:
                right += 1
        counts["all alike"] += not others
        beside = "" if genai is None else f"; onnxruntime-genai's text {len(TEXT_ONLY) - others} of {len(TEXT_ONLY)}"
        print(f"{path.stem}: {len(CASES) - len(lines)} of {len(CASES)} alike{beside}")
        print("\n".join(lines), end="\n" if lines else "")
    print(f"{len(files)} templates: {right} cases alike, {refused} refused by both, {wrong} different")
    if genai is not None:
        print(
            f"onnxruntime-genai: {counts['alike']} of {asked} texts alike, {counts['all alike']} templates in all cases"
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    with stopped_clock():
        main()
