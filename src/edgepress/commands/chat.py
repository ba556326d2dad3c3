"""``edgepress chat``: talk with a bundle on a terminal."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.commands.common.generating import (
    add_forgetting_arguments,
    add_prefix_argument,
    add_sampling_arguments,
    add_speculation_arguments,
    add_thinking_argument,
    chosen_forgetting,
    chosen_sampling,
    chosen_speculation,
    template_variables,
)
from edgepress.commands.common.opening import (
    add_adapter_argument,
    add_loading_arguments,
    add_place_arguments,
    open_language_model,
)
from edgepress.terminal.stdio import say
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from edgepress.runtime.turns.conversation import Conversation

NAME = "chat"
HELP = "talk with a bundle whose model has a chat template; earlier turns are not computed again"
_COMMANDS = """\
/system TEXT   what the model is told before all else; without TEXT it is shown
/undo          take back the last turn
/again         answer the last turn once more
/save FILE     write the conversation; --resume FILE or /load FILE goes on with it
/load FILE     go on with a conversation that was saved
/reset         begin anew, with the same system prompt
/stats         what the last answer took
/quit          end; so does the end of the input. Ctrl-C ends an answer
A line that ends with \\ goes on in the next one."""

_GOES_ON = "\\"  # ends a line of a message that has more
_DIM = "\033[2m{}\033[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    add_place_arguments(parser)
    add_adapter_argument(parser)
    add_sampling_arguments(parser)
    add_speculation_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before all else")
    add_prefix_argument(parser)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument(
        "--tools",
        type=Path,
        metavar="FILE.py",
        help="functions that the model may call, those of this file that have docstrings; they are run here",
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer at most")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end answers before this text or special token"
    )
    add_thinking_argument(parser)
    add_forgetting_arguments(parser)
    parser.add_argument("--context", type=int, metavar="N", help="tokens of the conversation (default: the bundle's)")


def run(arguments: argparse.Namespace) -> int:
    """Take lines from the terminal, or from what is piped in, until they end."""
    from edgepress.chat.tools import read_functions
    from edgepress.runtime.turns.conversation import Conversation, read_conversation

    if arguments.max_tokens is not None:
        whole_number("max_tokens", arguments.max_tokens)  # before anything is asked
    forgetting = chosen_forgetting(arguments)
    model = open_language_model(arguments)
    conversation = Conversation(
        model,
        read_conversation(arguments.resume) if arguments.resume else [],
        tools=None if arguments.tools is None else read_functions(arguments.tools),
        variables=template_variables(arguments),
        sampling=chosen_sampling(arguments, model, model.sampling_defaults),
        max_tokens=arguments.max_tokens,
        stop=arguments.stop,
        speculate=chosen_speculation(arguments),
        forgetting=forgetting,
    )
    _ = model.chat_encoder  # a model without a template is refused before anything is asked
    if arguments.system is not None:
        _set_system(conversation, arguments.system)
    if arguments.prefix is not None:
        conversation.keep_beginning(arguments.prefix)
    if sys.stdin.isatty():
        say("type a message, or /help")
    for line in _lines():
        if not _handle(conversation, line):
            break
    return 0


def _lines() -> Iterator[str]:
    """What the user types, a line at a time or several that go on, until the input ends."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - lines are edited, and earlier ones found by the arrow keys
    lines: list[str] = []
    while True:
        try:
            line = input(("  " if lines else "> ") if at_terminal else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            lines = []
            say("\n/quit ends")
            continue
        lines.append(line.removeprefix("\ufeff").removesuffix(_GOES_ON))
        if not line.endswith(_GOES_ON):
            if (text := "\n".join(lines)).strip():
                yield text
            lines = []
    if (text := "\n".join(lines)).strip():
        yield text


def _handle(conversation: "Conversation", line: str) -> bool:
    """Do what a line asks for; False when that is to end. An error is said, and the conversation goes on."""
    from edgepress.errors import InputError

    word, _, rest = line.strip().partition(" ")
    command = _VERBS.get(word)
    try:
        if word == "/quit":
            return False
        if command is not None:
            command(conversation, rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            say(f"there is no {word}; /help says what there is")
        else:
            _answer(conversation, line)
    except InputError as error:
        say(str(error))
    return True


def _answer(conversation: "Conversation", text: str) -> None:
    """Print what is said on stdout as it comes; on a terminal thoughts and calls of tools as well, on stderr."""
    shows_all, field = sys.stdin.isatty(), "text"
    try:
        for piece in conversation.ask(text):
            if piece.field != field and shows_all:
                print(flush=True, file=sys.stderr if field == "reasoning" else sys.stdout)
            field = piece.field
            if field == "text":
                print(piece.text, end="", flush=True)
            elif piece.call is not None:
                say(f"(calls {piece.call.name}: {json.dumps(dict(piece.call.arguments), ensure_ascii=False)})")
            elif shows_all:
                print(_DIM.format(piece.text), end="", flush=True, file=sys.stderr)
    except KeyboardInterrupt:
        say(" (interrupted)")
    print(flush=True)
    last = conversation.last
    if shows_all and last is not None:
        say(last.statistics())
    if last is not None and last.stop_reason == "context":
        say(
            f"the answer ends here, as the context of {conversation.model.context} tokens is full; --forget SHARE goes "
            "on, --context N gives more, /reset begins anew"
        )


def _set_system(conversation: "Conversation", text: str) -> None:
    first = conversation.messages[:1]
    has_one = bool(first) and first[0]["role"] == "system"
    if text:
        conversation.messages[: int(has_one)] = [{"role": "system", "content": text}]
        if conversation.kept_in is not None:
            say(
                f"{conversation.kept_in} has the beginning with another system prompt, and is not gone on from with "
                "this one; to keep this, start with --system TEXT and another --prefix FILE"
            )
    else:
        say(str(first[0]["content"]) if has_one else "no system prompt")


def _undo(conversation: "Conversation", _: str) -> None:
    say("taken back" if conversation.undo() else "there is no turn to take back")


def _again(conversation: "Conversation", _: str) -> None:
    asked = next((message for message in reversed(conversation.messages) if message["role"] == "user"), None)
    if asked is None:
        say("nothing was asked yet")
        return
    conversation.undo()
    _answer(conversation, asked.get("content", ""))  # a text, or the parts that a saved one may have


def _save(conversation: "Conversation", name: str) -> None:
    if not name:
        say("/save FILE")
        return
    conversation.save(Path(name))
    say(f"{name}: {len(conversation.messages)} messages")


def _load(conversation: "Conversation", name: str) -> None:
    from edgepress.runtime.turns.conversation import read_conversation

    if not name:
        say("/load FILE")
        return
    conversation.messages, conversation.last = read_conversation(Path(name)), None
    say(f"{name}: {len(conversation.messages)} messages")


def _reset(conversation: "Conversation", _: str) -> None:
    conversation.reset()
    say("begun anew")


def _stats(conversation: "Conversation", _: str) -> None:
    say("nothing was answered yet" if conversation.last is None else conversation.last.statistics())


_VERBS: dict[str, Callable[["Conversation", str], None]] = {
    "/system": _set_system,
    "/undo": _undo,
    "/again": _again,
    "/save": _save,
    "/load": _load,
    "/reset": _reset,
    "/stats": _stats,
    "/help": lambda _conversation, _rest: say(_COMMANDS),
}
