"""An open bundle: ``load(bundle).generate(prompt)``."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from edgepress.cores import usable_cores
from edgepress.disk.exchange import read_steady
from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.one_text import OneText
from edgepress.runtime.placement import open_accelerator
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session, check_tokens
from edgepress.runtime.tuning.beside import GraphsBeside, step_costs_of
from edgepress.runtime.tuning.opening import how_to_open
from edgepress.whole import whole_number

if TYPE_CHECKING:  # what a text, a conversation or a search needs is imported there: opening waits for none of it
    from collections.abc import Mapping, Sequence

    from llguidance import LLTokenizer

    from edgepress.chat.prompt import ChatEncoder
    from edgepress.chat.spans.kinds import AnswerFormat
    from edgepress.chat.template import Message
    from edgepress.chat.tools import Tool
    from edgepress.runtime.generation.answer import Answer
    from edgepress.runtime.generation.constraints import Constraint, Form
    from edgepress.runtime.generation.contrast import Contrast
    from edgepress.runtime.generation.forgetting import Forgetting
    from edgepress.runtime.generation.generation import Generation, OpenText, Search, Tally
    from edgepress.runtime.generation.sampling import Sampling
    from edgepress.runtime.generation.several.beams import Beams
    from edgepress.runtime.generation.several.text_beams import BeamRoom
    from edgepress.runtime.generation.speculation.costs import StepCosts
    from edgepress.runtime.generation.speculation.kinds import Speculation
    from edgepress.runtime.generation.speculation.window import Learned
    from edgepress.runtime.generation.tool_calls import ToolGuide
    from edgepress.text.tokenizer import StopStrings

_TAIL = 32  # tokens of a prompt, among which a template begins thoughts
_log = logging.getLogger("edgepress.model")


def load(
    bundle: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    prefill_chunk: int | None = None,
    prepared: bool = True,
    on: str | None = None,
    soc: str | None = None,
    graph: str | None = None,
    verify: bool = True,
) -> Model:
    """Open a bundle.

    Args:
        bundle: the directory that an export wrote.
        threads: compute threads; by default what ``edgepress prepare`` measured to be best here, else one for each
            core that this process may use.
        context: the most tokens that prompt and answer may have together; by default as many as the
            bundle says, which is fewer than the model allows where the states of that many would take more memory than
            its weights. Memory is taken as tokens come, so a long context costs nothing until it is used.
        prefill_chunk: prompt tokens that are computed at once; larger takes more memory and is hardly faster. By
            default what was measured, else 128.
        prepared: start from the prepared form of the weights, making it if there is none yet (see runtime/prepared.py).
        on: a target of the bundle that has graphs of its own (``qnn-htp``), simulated where this machine is not one, or
            ``cpu``; None takes an accelerator that is here and that the bundle was made for, else the CPU.
        soc: with ``on``, the chip.
        graph: which of the bundle's graphs the CPU runs, by its file (``model.onnx``); by default the first in the
            manifest's order whose requirements this processor meets.
        verify: hash the bundle before it is first used, and when a file has changed since (see verified.py); False
            trusts what is there.

    The accelerator's graphs fix context and prefill chunk: ``context`` can only be shorter there.

    Raises:
        InputError: the directory is not a bundle or not as it was written, or a number is out of range.

    """

    def open_whole() -> Model:
        if verify:
            verify_first(Path(bundle))
        config = read_config(Path(bundle), graph)
        accelerated = open_accelerator(Path(bundle), on, soc, graph)
        if accelerated is not None:
            accelerated.context = _checked_context(context, _as_long_as(config, accelerated.context))
            return Model(config, accelerated, usable_cores() if threads is None else threads)
        how = how_to_open(config, threads, prefill_chunk, prepared=prepared)
        session = CpuSession(
            config,
            threads=how.threads,
            context=_checked_context(context, config),
            prefill_chunk=how.prefill_chunk,
            prepared=prepared,
            entries=how.entries(),
        )
        return Model(config, session, how.threads)

    return read_steady(Path(bundle), open_whole)


def _as_long_as(config: BundleConfig, context: int) -> BundleConfig:
    return replace(config, context_length=context, default_context=context)


def _checked_context(context: int | None, config: BundleConfig) -> int:
    if context is None:
        return config.default_context
    found = whole_number("context", context)
    if found > config.context_length:
        raise InputError(f"context is {found}; the model in {config.bundle} allows at most {config.context_length}")
    return found


class _Setup(TypedDict):
    """What computes a generation, how it ends, and what form it has."""

    model: OpenText
    stops: StopStrings
    stop_tokens: frozenset[int]
    matcher: Form | None
    tally: Tally | None
    search: Search | None


class Model(OneText):
    """An open bundle. It holds one text at a time; two threads must not use it at once.

    ``threads`` compute, where the CPU does.
    """

    def __init__(self, config: BundleConfig, session: Session, threads: int = 1) -> None:
        super().__init__(config, session)
        self.threads = threads
        self._beside = GraphsBeside(threads)
        self._learned: dict[tuple[object, ...], dict[bool, Learned]] = {}  # by drafter, its bundle, and adapter

    @cached_property
    def chat_encoder(self) -> ChatEncoder:
        """The template that came with the model, and its tokenizer.

        Raises:
            InputError: it came with none.

        """
        from edgepress.chat.prompt import ChatEncoder
        from edgepress.chat.template import read_template

        template = read_template(self.config.bundle)
        if template is None:
            raise InputError(
                f"{self.config.bundle} has no chat template: its model continues text, and was not made for "
                "conversations; use generate, or `edgepress run --prompt`"
            )
        return ChatEncoder(template, self.tokenizer)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How the model writes thoughts and calls of tools, found from its template."""
        from edgepress.chat.spans.finding import find_format

        added = self.tokenizer.library.get_added_tokens_decoder().values()
        return find_format(self.chat_encoder.template, [token.content for token in added])

    @cached_property
    def sampling_defaults(self) -> Sampling:
        """How the model's makers say that tokens are to be drawn; greedy where they say nothing."""
        from edgepress.runtime.generation.defaults import sampling_defaults

        return sampling_defaults(self.config.bundle)

    def with_adapter(self, adapter: str | Path | None) -> Model:
        """The same open bundle with an adapter and a text of its own; None is without one.

        Weights are not loaded again: texts with different adapters go on side by side, each taking memory for its own
        states. Two threads must not use two of them at once.

        Args:
            adapter: a file that ``edgepress adapter`` wrote for a bundle of the same checkpoint.

        Raises:
            InputError: the bundle was not exported with slots for adapters, or the file is not one for them.

        """
        from edgepress.bundle.adapter_file import adapter_for

        opened = None if adapter is None else adapter_for(self.config.bundle, Path(adapter))
        return self.with_session(self.session.with_adapter(opened))

    def with_session(self, session: Session) -> Model:
        """The same open bundle with the text of another session over it."""
        other = Model(self.config, session, self.threads)
        other._tokenizer, other._beside, other._learned = self._tokenizer, self._beside, self._learned
        return other

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 0,
        bias: Mapping[int, float] | None = None,
        seed: int | None = None,
        stop: Sequence[str | int] = (),
        special: bool = False,
        constraint: Constraint | None = None,
        speculate: Speculation | None = None,
        forgetting: Forgetting | Literal[False] | None = None,
        contrast: Contrast | None = None,
        beams: Beams | None = None,
    ) -> Generation:
        """Continue ``prompt`` (text, or token ids as they are); iterate over the result to get the text as it comes.

        It ends at an end-of-sequence token of the model, before the first of the ``stop`` texts or tokens, after
        ``max_tokens`` tokens, or when the context is full. With ``special`` the text shows special tokens;
        ``constraint`` says what form it has to have, which it has unless it is cut by one of these limits;
        ``speculate`` has several tokens computed in a step where that pays; with ``forgetting`` it does not end when
        the context is full, and of a longer prompt the middle is left out; None is as the bundle's recipe says, False
        without. ``contrast`` is with a worse model. With
        ``beams`` the likeliest answer is looked for, and given in one piece: ``found`` of the result has it and the
        next best, with their scores. The first piece that is asked for starts a new text; an earlier generation that
        has not ended by then raises an InputError when it is iterated further. For the numbers see :class:`Sampling`.

        Raises:
            InputError: the prompt is empty or longer than the context, a setting is out of its range, or two of them
                do not go together.

        """
        from edgepress.runtime.generation.contrast import Contrasting
        from edgepress.runtime.generation.generation import Generation
        from edgepress.runtime.generation.sampling import Sampling

        if max_tokens is not None:
            whole_number("max_tokens", max_tokens)
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram=no_repeat_ngram,
            bias=bias or {},
            seed=seed,
        )
        tokens = check_tokens(
            self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, self.config.vocab_size
        )
        bos = self.config.bos
        if bos is not None and not isinstance(prompt, str) and tokens[:2].tolist() == [bos, bos]:
            _log.warning(
                "the prompt begins with token %d, the beginning of a text, twice; models are trained on one", bos
            )
        begun = tokens.tolist()
        if beams is not None and (contrast is not None or forgetting):
            raise InputError("beams do not go together with a contrast or with forgetting; leave one of them out")
        how = self._forgetting(forgetting, beams)
        if how is None:
            self.session.check_room(tokens.size, after=0)
        setup = self._setup(stop, constraint, speculate, beams)
        if contrast is not None:
            setup["model"] = Contrasting(setup["model"], contrast)
        if how is not None:
            how = how.for_text(setup["model"], self.context)
            if tokens.size > self.context:
                begun = how.kept(begun, self.context)
                if forgetting is None:
                    _log.warning(
                        "the prompt has %d tokens, and %s keeps %d by default: what is read are its first %d and last "
                        "%d; a longer context reads all of it",
                        *(tokens.size, self.config.bundle, self.context, how.first, len(begun) - how.first),
                    )
        return Generation(
            prompt=begun,
            sampling=sampling,
            max_tokens=max_tokens,
            special=special,
            forgetting=how,
            **setup,
        )

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        tool_choice: str = "auto",
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, object] | None = None,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str | int] = (),
        special: bool = False,
        constraint: Constraint | None = None,
        speculate: Speculation | None = None,
        beams: Beams | None = None,
        forgetting: Forgetting | Literal[False] | None = None,
    ) -> Answer:
        """Answer a conversation; iterate over the result to get what is said as it comes.

        What the conversation has in common with the text before, such as its earlier turns, is not computed again.
        Thoughts and calls of tools are no text: they are in the answer's ``reasoning`` and ``tool_calls``.

        Args:
            messages: what was said so far, such as ``[{"role": "user", "content": "Hello"}]``.
            tools: functions that the model may call, or their JSON schemas, where its template knows tools. Its calls
                are held to them where llguidance is installed and knows the format that the model writes them in. They
                are called by :class:`~edgepress.runtime.turns.conversation.Conversation` alone.
            tool_choice: ``auto`` lets the model choose whether to call; ``required`` has it call after its thoughts, a
                tool's name that tool; with ``free`` its calls are not held to anything.
            documents: texts that it may read, where its template knows documents.
            variables: what its template takes besides, such as ``{"enable_thinking": False}``.
            max_tokens: of the answer.
            sampling: how tokens are drawn; as the model's makers say when None.
            stop: texts or tokens before which the answer ends.
            special: say everything as it is generated, special tokens, thoughts and calls included.
            constraint: what form the answer has to have, such as ``Constraint.json_schema({"type": "integer"})``: what
                is said behind thoughts, where the template has begun some, or with ``Constraint.lark`` all of it.
            speculate: have several tokens computed in a step where that pays.
            beams: look for the likeliest answer, which then comes in one piece; tokens are not drawn.
            forgetting: have the answer go on when the context is full; None is as the bundle's recipe says, False
                without. What the next turn has in common with it is computed again then.

        Raises:
            InputError: there is no template, it refuses the conversation, or that is longer than the context.

        """
        from edgepress.chat.spans.splitting import Splitter
        from edgepress.chat.tools import Tools
        from edgepress.runtime.generation.after_thoughts import AfterThoughts
        from edgepress.runtime.generation.answer import Answer
        from edgepress.runtime.generation.constraints import Matcher
        from edgepress.runtime.generation.tool_calls import special_in
        from edgepress.text.tokenizer import Detokenizer

        if max_tokens is not None:
            whole_number("max_tokens", max_tokens)
        tools = Tools.of(tools).schemas or None
        if not tools and tool_choice not in ("auto", "free"):
            raise InputError(f"tool_choice is {tool_choice!r}, and there are no tools; give some, or leave it out")
        tokens = self.chat_encoder.encode(messages, tools=tools, documents=documents, variables=variables)
        check_tokens(tokens, self.config.vocab_size)
        self.session.check_room(len(tokens), after=0)
        drawn = self.sampling_defaults if sampling is None else sampling
        if sampling is None and beams is not None:
            drawn = replace(drawn, temperature=0.0)
        if beams is not None and forgetting:
            raise InputError("beams do not go together with forgetting; leave one of them out")
        setup = self._setup(stop, constraint, speculate, beams)
        how = self._forgetting(forgetting, beams)
        splitter, is_thinking = None, self._is_thinking(tokens)
        shown = frozenset(one for mark in self.answer_format.marks for one in special_in(self.tokenizer, mark))
        is_form = constraint is not None and not constraint.is_all
        if tools and constraint is None:
            setup["matcher"] = self._guide(tools, tool_choice, is_thinking=is_thinking)
        held, thoughts = setup["matcher"], self.answer_format.thoughts
        if is_form and is_thinking and isinstance(held, Matcher) and thoughts is not None:
            said = Detokenizer(self.tokenizer, special=shown)
            setup["matcher"] = AfterThoughts(held, thoughts.close, said, self.chat_encoder.encode_inside)
        if not special:
            splitter = Splitter(self.answer_format, tools, is_thinking=is_thinking, is_form=is_form)
        return Answer(
            prompt=tokens,
            sampling=drawn,
            max_tokens=max_tokens,
            special=special or shown,
            reuse=True,
            forgetting=None if how is None else how.for_text(setup["model"], self.context),
            splitter=splitter,
            known_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
            arguments_as_text=self.answer_format.arguments_as_text,
            **setup,
        )

    def _forgetting(self, asked: Forgetting | Literal[False] | None, beams: Beams | None) -> Forgetting | None:
        """How a text goes on when the context is full: as asked, else as the recipe says, where tokens come in turn."""
        from edgepress.runtime.generation.forgetting import Forgetting

        if asked is not None:
            return asked or None
        kept = self.config.kept
        return None if kept is None or beams is not None else Forgetting(kept.first)

    def _guide(self, tools: Sequence[Mapping[str, Any]], choice: str, *, is_thinking: bool) -> ToolGuide | None:
        """What holds calls to the schemas of their tools; None where that is not asked for, or cannot be."""
        from edgepress.chat.spans.kinds import parameters_of
        from edgepress.runtime.generation.constraints import is_installed
        from edgepress.runtime.generation.tool_calls import ToolGuide

        calls, names = self.answer_format.calls, parameters_of(tools)
        can = calls is not None and calls.grammar is not None and is_installed()
        if choice == "free" or (choice == "auto" and not can):
            return None
        if choice not in ("auto", "required", *names):
            raise InputError(f"tool_choice is {choice!r}; it is auto, required, free or one of {', '.join(names)}")
        named = [tool for tool in tools if choice in parameters_of([tool])] or tools
        return ToolGuide(
            self._token_table,
            self.tokenizer,
            self.chat_encoder.encode_inside,
            self.answer_format,
            named,
            must=choice != "auto",
            is_thinking=is_thinking,
        )

    def prefix(
        self,
        path: str | Path,
        messages: Sequence[Message] = (),
        *,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> int:
        """Let conversations that begin with ``messages`` go on from a file: a system prompt, a document, examples.

        Where there is none it is computed and written; else it is checked, and mapped. Conversations with the same
        beginning then compute what follows it. A file that changes or is removed later is not used any more.

        Args:
            path: the file, of this bundle, graph and adapter, and of these messages.
            messages: what conversations begin with, such as a system prompt; see :meth:`chat` for the others.
            tools: as for :meth:`chat`.
            documents: as for :meth:`chat`.
            variables: as for :meth:`chat`.

        Returns:
            How many tokens are known by it.

        Raises:
            InputError: the file is of another bundle, graph, adapter or text, not as it was written, or cannot be read
                or written; conversations share no token; or as for :meth:`chat`.

        """
        from edgepress.bundle.manifest import bundle_hash
        from edgepress.chat.prompt import shared_beginning
        from edgepress.chat.tools import Tools
        from edgepress.disk.files import sha256_file
        from edgepress.runtime.generation.prefix import Key, read_prefix, write_prefix

        file, schemas = Path(path), Tools.of(tools).schemas or None
        encode = partial(self.chat_encoder.encode, tools=schemas, documents=documents, variables=variables)
        tokens = shared_beginning(encode, messages)
        self.session.check_room(len(tokens))
        adapter = getattr(self.session, "adapter", None)
        key = Key(
            bundle_hash(self.config.bundle),
            self.session.ran_on.name,
            None if adapter is None else sha256_file(adapter.path),
        )
        if not os.path.lexists(file):
            self.begin(tokens, reuse=True)
            write_prefix(file, key, tokens, self.session)
        self._known.hold(read_prefix(file, key, tokens, self.session))
        return len(tokens)

    def _is_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside of thoughts, which its template has begun."""
        thoughts = self.answer_format.thoughts
        if thoughts is None:
            return False
        end = self.tokenizer.library.decode(list(prompt[-_TAIL:]), skip_special_tokens=False)
        return bool(end.rstrip().endswith(thoughts.open.rstrip()))

    def _setup(
        self,
        stop: Sequence[str | int],
        constraint: Constraint | None,
        speculate: Speculation | None,
        beams: Beams | None,
    ) -> _Setup:
        """How a generation goes and ends: a text of ``stop`` that is a special token is that token."""
        from edgepress.runtime.generation.constraints import Matcher
        from edgepress.runtime.generation.several.text_beams import BeamSearch
        from edgepress.text.tokenizer import StopStrings

        if isinstance(stop, str):
            raise InputError(f"stop is the text {stop!r}; give a list of texts or tokens")
        last = self.config.vocab_size - 1
        tokens = {whole_number("a stop token", one, least=0, most=last) for one in stop if not isinstance(one, str)}
        named = {one: self.tokenizer.special_named(one) for one in stop if isinstance(one, str)}
        texts = StopStrings([text for text, token in named.items() if token is None])
        tokens |= {token for token in named.values() if token is not None}
        matcher = None if constraint is None else Matcher(self._token_table, constraint)
        if beams is not None and speculate is not None:
            raise InputError("beams follow several answers a step, one token each; leave the speculation out")
        text, tally = (self, None) if speculate is None else self._speculating(speculate)
        return {
            "model": text,
            "stops": texts,
            "stop_tokens": frozenset(tokens),
            "matcher": matcher,
            "tally": tally,
            "search": None if beams is None else BeamSearch(beams, self._beam_room),
        }

    def _speculating(self, how: Speculation) -> tuple[OpenText, Tally]:
        """This text with several tokens a step, or as it is where no step over several gives the same logits."""
        from edgepress.runtime.generation.generation import Tally
        from edgepress.runtime.generation.speculation.kinds import Opening
        from edgepress.runtime.generation.speculation.speculating import open_speculating
        from edgepress.runtime.generation.speculation.window import Learned

        opening = Opening(
            self.config, self.session, self.step_costs, partial(self._beside.open, main=self.session), how.bundle
        )
        adapter = getattr(self.session, "adapter", None)
        key = how.drafter, how.bundle, None if adapter is None else adapter.path
        learned = self._learned.setdefault(key, {drawn: Learned() for drawn in (False, True)})
        found = open_speculating(self, how, opening, learned)
        if found is not None:
            return found, found.tally
        return self, Tally(note="not speculated: kernels here give several tokens other bits than one")

    @cached_property
    def step_costs(self) -> StepCosts:
        """What steps over several tokens cost here, measured when first asked for.

        Raises:
            InputError: as for :func:`~edgepress.runtime.tuning.beside.step_costs_of`.

        """
        return step_costs_of(self.session, self.threads)

    @cached_property
    def _beam_room(self) -> BeamRoom:
        from edgepress.runtime.generation.several.text_beams import BeamRoom

        return BeamRoom(self.session)

    @cached_property
    def _token_table(self) -> LLTokenizer:
        from edgepress.runtime.generation.constraints import token_table

        return token_table(self.config.bundle / "tokenizer.json", self.config.vocab_size, self.eos)
