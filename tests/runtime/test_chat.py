"""Conversations: templates, turns that go on from what is known, settings, stops, special tokens."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import onnxruntime_genai
import pytest
import transformers
from bundles import sign
from hybrid_bundle import VOCABULARY, write_hybrid

from edgepress.bundle.manifest import read_manifest
from edgepress.chat.conformance import CASES, NOW, differences, read_vectors, vector
from edgepress.chat.genai import genai_differences, vector_of_genai
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import ChatTemplate, read_template
from edgepress.cli import main
from edgepress.commands.export import _next
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.exporter.learn.calibration.generate import generate_calibration
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.chat_vectors import write_vectors
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.generation.defaults import sampling_defaults
from edgepress.runtime.turns.conversation import Conversation, read_conversation
from edgepress.text.tokenizer import read_tokenizer

TEMPLATE = """{{ bos_token }}{% for message in messages %}
{{- 'ROMEO' if message.role == 'assistant' else message.role | upper }}:
{{ message.content }}

{% endfor %}{% if add_generation_prompt %}ROMEO:
{% endif %}"""
GREEDY = Sampling()
ASKED = [{"role": "juliet", "content": "Good night, good night! Parting is such sweet sorrow."}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(DEMO_DIRECTORY, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    export(folder / "model", out=folder / "bundle", target="x86-cpu", recipe="fp32")
    return folder / "bundle"


@pytest.fixture
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


def test_an_answer_is_what_the_rendered_text_goes_on_with(model: Model) -> None:
    text = f"<|endoftext|>JULIET:\n{ASKED[0]['content']}\n\nROMEO:\n"
    plain = model.generate(model.tokenizer.encode_plain(text), max_tokens=12)
    wanted = plain.text()
    answer = model.chat(ASKED, sampling=GREEDY, max_tokens=12)
    assert answer.text() == wanted
    assert answer.prompt == plain.prompt
    assert answer.prompt.count(0) == 1  # one beginning of a text


def test_a_follow_up_computes_its_own_tokens_alone(model: Model) -> None:
    first = model.chat(ASKED, sampling=GREEDY, max_tokens=8)
    said = [*ASKED, {"role": "assistant", "content": first.text()}, {"role": "juliet", "content": "Sweet, so would I."}]
    second = model.chat(said, sampling=GREEDY, max_tokens=8)
    text = second.text()
    assert second.reused >= len(first.prompt)
    fresh = load(model.config.bundle, threads=1, prepared=False).chat(said, sampling=GREEDY, max_tokens=8)
    assert fresh.text() == text
    assert fresh.reused == 0
    assert fresh.prompt == second.prompt


def test_an_edit_rolls_back_to_what_is_alike(model: Model) -> None:
    model.chat(ASKED, sampling=GREEDY, max_tokens=8).text()
    other = [{"role": "juliet", "content": "Good night, good night! I would not part."}]
    edited = model.chat(other, sampling=GREEDY, max_tokens=8)
    text = edited.text()
    assert 0 < edited.reused < len(edited.prompt)
    assert (
        load(model.config.bundle, threads=1, prepared=False).chat(other, sampling=GREEDY, max_tokens=8).text() == text
    )


def test_the_same_question_again_computes_one_token(model: Model) -> None:
    first = model.chat(ASKED, sampling=GREEDY, max_tokens=8).text()
    again = model.chat(ASKED, sampling=GREEDY, max_tokens=8)
    assert again.text() == first
    assert again.reused == len(again.prompt) - 1


def test_tokens_appended_by_others_are_not_taken_for_the_text(model: Model) -> None:
    first = model.chat(ASKED, sampling=GREEDY, max_tokens=8).text()
    model.session.append([5, 6, 7])
    after = model.chat(ASKED, sampling=GREEDY, max_tokens=8)
    assert after.text() == first
    assert after.reused == 0


def test_states_that_cannot_be_taken_back_go_on_from_a_snapshot(tmp_path: Path) -> None:
    model = load(write_hybrid(tmp_path / "hybrid"), threads=1, prepared=False)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 30).tolist()
    model.begin(tokens[:20], reuse=True)
    for token in (1, 2, 3):
        model.decode(token)
    logits = model.begin([*tokens[:20], 9, 8], reuse=True).copy()  # an answer that is not gone on with
    assert model.reused == 20
    np.testing.assert_allclose(
        logits, load(tmp_path / "hybrid", prepared=False).prefill([*tokens[:20], 9, 8]), atol=1e-5
    )
    model.begin([*tokens[:10], 4], reuse=True)  # before the snapshot: nothing is known
    assert model.reused == 0


def test_the_model_s_own_settings_are_used_unless_others_are_given(bundle: Path, model: Model) -> None:
    assert sampling_defaults(bundle) == Sampling(temperature=0.7, top_k=40)
    assert model.chat(ASKED, max_tokens=4).sampling == Sampling(temperature=0.7, top_k=40)
    assert model.chat(ASKED, max_tokens=4, sampling=GREEDY).sampling == GREEDY


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, Sampling()),
        ({"do_sample": False, "temperature": 0.5}, Sampling()),
        ({"do_sample": True}, Sampling(temperature=1.0, top_k=50)),
        (
            {"do_sample": True, "top_k": 0, "top_p": 0.8, "repetition_penalty": 1.1},
            Sampling(temperature=1.0, top_p=0.8, repetition_penalty=1.1),
        ),
    ],
)
def test_settings_are_read_as_transformers_reads_them(tmp_path: Path, config: object, wanted: Sampling) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert sampling_defaults(tmp_path) == wanted


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_p": 7}', encoding="utf-8")
    with pytest.raises(InputError, match="top_p"):
        sampling_defaults(tmp_path)


def test_special_tokens_are_shown_when_asked_for_and_stop_when_named(model: Model) -> None:
    answer = model.generate([5, 6, 7], max_tokens=5)
    answer.text()
    stop = answer.tokens[2]
    stopped = model.generate([5, 6, 7], max_tokens=5, stop=[stop])
    stopped.text()
    assert stopped.tokens == answer.tokens[: answer.tokens.index(stop) + 1]
    assert stopped.stop_reason == "stop"
    named = model.generate([5, 6, 7], max_tokens=2, stop=["<|endoftext|>", "never said"])
    assert named.stop_tokens == {0}
    with pytest.raises(InputError, match="stop token"):
        model.generate([5, 6, 7], stop=[-1])


def test_a_model_without_a_template_is_said_to_have_none(tmp_path: Path, bundle: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load(sign(tmp_path / "bundle"), threads=1, prepared=False).chat(ASKED)


def test_a_conversation_is_saved_resumed_and_taken_back(model: Model, tmp_path: Path) -> None:
    conversation = Conversation(model, sampling=GREEDY, max_tokens=6)
    answer = "".join(conversation.say("Good morrow."))
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[1]["content"] == answer
    conversation.save(tmp_path / "talk.json")
    assert read_conversation(tmp_path / "talk.json") == conversation.messages
    pieces = conversation.say("And now?")
    next(pieces)
    pieces.close()  # left in the middle: kept as far as it came
    assert conversation.last is not None
    assert conversation.last.statistics().endswith("; interrupted")
    assert len(conversation.messages) == 4
    assert conversation.undo()
    conversation.save(tmp_path / "talk.json")
    assert read_conversation(tmp_path / "talk.json") == conversation.messages[:2]
    assert conversation.undo()
    assert not conversation.undo()


def test_a_conversation_replaces_no_file_that_is_none(model: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="edgepress_conversation"):
        Conversation(model).save(tmp_path / "notes.json")
    assert (tmp_path / "notes.json").read_text(encoding="utf-8") == "{}"


def test_what_is_no_conversation_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text('{"edgepress_conversation": 1, "messages": [{"role": "user"}, {"content": "a"}]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"talk\.json: message 2 has no entry 'role'; name a file"):
        read_conversation(path)


def test_the_terminal_answers_again_what_was_asked_in_parts(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [{"type": "text", "text": "Good morrow."}]
    talk = {"edgepress_conversation": 1, "messages": [{"role": "user", "content": parts}]}
    (tmp_path / "talk.json").write_text(json.dumps(talk), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"/again\n/save talk.json\n/load\n/reset\n/stats\n")))
    command = ["chat", str(bundle), "--resume", "talk.json", "--max-tokens", "2", "--no-prepare", "--threads", "1"]
    assert main(command) == 0
    saved = read_conversation(tmp_path / "talk.json")
    assert saved[0]["content"] == parts
    assert len(saved) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["/load FILE", "begun anew", "nothing was answered yet"]


def test_the_terminal_answers_line_by_line_and_saves(bundle: Path, tmp_path: Path) -> None:
    lines = "Good morrow.\n/again\n/undo\n/nonsense\nAnd \\\nnow?\n/stats\n"
    lines += "/save talk.json\n/load missing.json\n/quit\nnever\n"
    command = [sys.executable, "-m", "edgepress", "chat", str(bundle), "--max-tokens", "5", "--temperature", "0"]
    command += ["--system", "You are Romeo.", "--no-prepare", "--threads", "1"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    saved = read_conversation(tmp_path / "talk.json")
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[1]["content"] == "And \nnow?"  # a line that ends with a backslash goes on
    answers = done.stdout.split("\n")
    assert len([line for line in answers if line]) >= 3
    assert "there is no /nonsense" in done.stderr
    assert "of them known" in done.stderr
    assert "missing.json is no file" in done.stderr


def typed(lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next command read ``lines`` where a terminal would be."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))


def test_what_was_said_before_a_reset_has_no_statistics(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["chat", str(bundle), "--max-tokens", "3", "--no-prepare", "--threads", "1", "--system", "Be brief."]
    file = tmp_path / "talk.json"
    typed(f"Good morrow.\n/stats\n/save {file}\n/reset\n/stats\n/system\n/load {file}\n/stats\n", monkeypatch)
    assert main(command) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("prompt ")
    assert said[2:] == ["begun anew", "nothing was answered yet", "Be brief.", f"{file}: 3 messages", said[3]]


def test_an_answer_that_fills_the_context_says_so_or_goes_on(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["chat", str(bundle), "--no-prepare", "--threads", "1", "--context", "48", "--temperature", "0"]
    command += ["--bias", "<|endoftext|>=-inf"]
    for more in ([], ["--forget", "0.25", "--max-tokens", "70"]):
        typed("Good morrow.\n/stats\nAnd now?\n/stats\n", monkeypatch)
        assert main([*command, *more]) == 0
        said = capsys.readouterr().err
        full = "the answer ends here, as the context of 48 tokens is full; --forget SHARE goes on, --context N gives"
        assert said.count(full) == (0 if more else 2)
        assert said.count("tokens forgotten; ended by max_tokens") == (2 if more else 0)


def test_another_system_prompt_than_a_file_has_is_said_to_be_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["chat", str(bundle), "--max-tokens", "3", "--no-prepare", "--threads", "1", "--system", "Be brief."]
    command += ["--prefix", str(tmp_path / "kept")]
    typed("Good morrow.\n/stats\n/system Be long.\nGood morrow.\n/stats\n", monkeypatch)
    assert main(command) == 0
    known, said, anew = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/kept has the beginning with another system prompt, and is not gone on from with this" in said
    assert "of them known" in known
    again = re.search(r"(\d+) of them known", anew)
    assert again is None or int(again[1]) < int(re.search(r"(\d+) of them known", known)[1])  # type: ignore[index]


def test_lines_are_edited_at_a_terminal(bundle: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="there are no terminals of this kind here")
    pytest.importorskip("readline")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgepress", "chat", str(bundle), "--max-tokens", "3", "--no-prepare"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path) as child:
        os.close(theirs)
        said = b""
        for wanted, typed in (
            (b"> ", b"morrow.\x01Good \r"),  # Ctrl-A goes to where the line begins
            (b"ended by", b"\x1b[A\x01/not\r"),  # and the arrow to the line before
            (b"there is no /notGood", b""),
        ):
            while wanted not in said:
                said += os.read(ours, 4096)
            said = said.partition(wanted)[2]
            os.write(ours, typed)
        os.write(ours, b"/save talk.json\r/quit\r")
        with suppress(OSError):  # Linux ends a terminal that nobody has open any more with an error
            while os.read(ours, 4096):
                pass
    os.close(ours)
    assert child.returncode == 0
    assert read_conversation(tmp_path / "talk.json")[0]["content"] == "Good morrow."


def test_run_chat_is_one_turn(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "edgepress", "run", str(bundle), "--prompt", "Good morrow.", "--max-tokens", "5"]
    command += ["--no-prepare", "--threads", "1", "--temperature", "0"]
    chat = subprocess.run([*command, "--chat"], capture_output=True, text=True, check=True)
    model = load(bundle, threads=1, prepared=False)
    wanted = model.chat([{"role": "user", "content": "Good morrow."}], sampling=GREEDY, max_tokens=5).text()
    assert chat.stdout == wanted + "\n"
    wrong = subprocess.run([*command, "--system", "Be brief."], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "--chat" in wrong.stderr
    assert main(["chat", str(bundle), "--max-tokens", "0"]) == 2
    assert "max_tokens is 0; it must be at least 1" in capsys.readouterr().err
    more = str(usable_cores() + 1)
    assert main([*command[3:], "--threads", more]) == 0
    assert f"{more} threads wait for each other here: " in capsys.readouterr().err
    assert main(["run", str(bundle), "--prompt", "x", "--no-think"]) == 2
    assert "--no-think is for conversations; give --chat, too" in capsys.readouterr().err


def test_an_export_ends_with_the_command_that_talks_with_a_model_that_was_made_for_it(bundle: Path) -> None:
    assert _next(read_manifest(bundle), "out") == "chat out"
    (plain := read_manifest(bundle).files).pop("chat_template.jinja")
    assert _next(replace(read_manifest(bundle), files=plain), "out") == "run out --prompt …"


def test_a_bundle_carries_what_transformers_made_of_conversations(bundle: Path, tmp_path: Path) -> None:
    vectors = read_vectors(bundle)
    assert vectors is not None
    assert vectors.made_by == f"transformers {transformers.__version__}"
    assert [one.case for one in vectors.vectors] == [case.name for case in CASES]
    reference = transformers.AutoTokenizer.from_pretrained(bundle.parent / "model")
    [one] = [one for one in vectors.vectors if one.case == "several turns"]
    [case] = [case for case in CASES if case.name == "several turns"]
    asked = reference.apply_chat_template(list(case.messages), add_generation_prompt=True, return_dict=False)
    assert one.tokens == asked
    command = [sys.executable, "-m", "edgepress", "verify", "--conformance"]
    done = subprocess.run([*command, str(bundle)], capture_output=True, text=True, check=True)
    assert "gives the text and tokens" in done.stdout
    other = shutil.copytree(bundle, tmp_path / "other")
    (other / "chat_template.jinja").write_text(TEMPLATE.replace("ROMEO", "TYBALT"), encoding="utf-8")
    failed = subprocess.run([*command, str(sign(other))], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "several turns: its text differs from character" in failed.stderr


def test_the_model_s_own_text_is_written_without_a_word_of_its_template(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = CalibrationText(tokens=4, length=4)
    generate_calibration(Checkpoint.open(bundle.parent / "model"), asked, folder=tmp_path, context_length=8, threads=1)
    assert caplog.messages == []


def test_templates_that_write_the_date_give_the_same_bundle_every_day(bundle: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bundle.parent / "model", tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}", encoding="utf-8")
    write_vectors(model, Checkpoint.open(model))
    vectors = read_vectors(model)
    assert vectors is not None
    assert {one.text for one in vectors.vectors} == {NOW.strftime("%d %b %Y")}
    template = read_template(model)
    assert template is not None
    assert differences(ChatEncoder(template, read_tokenizer(model)), vectors) == []
    assert template.render([{"role": "user"}]) == datetime.now().strftime("%d %b %Y")


def test_a_template_that_takes_no_plain_question_is_named(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hermes' template for tools goes through them, whether there are any or not."""
    model = shutil.copytree(bundle.parent / "model", tmp_path / "model")
    (model / "chat_template.jinja").write_text("{% for tool in tools %}{{ tool.function.name }}{% endfor %}")
    write_vectors(model, Checkpoint.open(model))
    without = sum(case.tools is None for case in CASES)
    assert f"refuses {without} of {len(CASES)} conversations, in transformers as here" in caplog.text
    assert "it takes those with tools alone" in caplog.text
    template = read_template(model)
    assert template is not None
    with pytest.raises(InputError, match=r"tools as JSON schemas, which this template may need$"):
        template.render([{"role": "user", "content": "hi"}])


def test_onnxruntime_genai_is_held_to_the_same_conversations(bundle: Path) -> None:
    vectors = read_vectors(bundle)
    assert vectors is not None
    found = genai_differences(bundle, vectors)
    assert {"one turn", "several turns"} <= set(found)  # its engine has no `upper`
    plain = TEMPLATE.replace(" | upper", "")
    tokenizer = onnxruntime_genai.Tokenizer(str(bundle))
    encoder = ChatEncoder(ChatTemplate(plain, tokens={"bos_token": "<|endoftext|>"}), read_tokenizer(bundle))
    made, wanted = vector_of_genai(tokenizer, CASES[0], plain), vector(encoder, CASES[0])
    assert made == wanted
    forged = CASES[[case.name for case in CASES].index("a special token alone")].with_control("<|endoftext|>")
    made, wanted = vector_of_genai(tokenizer, forged, plain), vector(encoder, forged)
    assert (made.tokens or []).count(0) == 2  # what a user writes is a special token to it
    assert (wanted.tokens or []).count(0) == 1
