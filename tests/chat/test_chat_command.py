from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from trained_models import save_adapter, save_base
from transformers import AutoTokenizer, LlamaForCausalLM

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.chat.speaker import Speaker, _Printer
from iwpo_fast.cli import main
from iwpo_fast.command_config import ChatConfig
from iwpo_fast.signals import Stopped
from iwpo_fast.terminal import escaped_lines

Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base.parent / "adapter", base)


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The answers, as they are printed, to lines of input; greedy, of eight tokens."""

    def of(model: Path, lines: str | io.TextIOWrapper, *flags: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines) if isinstance(lines, str) else lines)
        assert main(["chat", "--model", str(model), "--temperature", "0", "--max_new_tokens", "8", *flags]) == 0
        return capsys.readouterr().out.partition("\n")[2]

    return of


def greedy(model: torch.nn.Module, folder: Path, said: Messages) -> str:
    """What plain transformers generates."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    tokens = model.generate(**ids, do_sample=False, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.slow
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_answered_as_unknown_characters(errors, base, talk) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(b"quick \xff fox\n"), encoding="utf-8", errors=errors)
    assert talk(base, pipe) == talk(base, "quick \ufffd fox\n")


@pytest.mark.slow
def test_the_answer_is_that_of_plain_transformers(base, talk) -> None:
    model = LlamaForCausalLM.from_pretrained(base)
    expected = escaped_lines(greedy(model, base, [user("quick fox")]))
    assert talk(base, "quick fox\n") == f"{expected}\n"
    system = [{"role": "system", "content": "be brief"}, user("quick fox")]
    assert talk(base, "quick fox\n", "--system", "be brief") != f"{expected}\n"
    assert talk(base, "quick fox\n", "--system", "be brief") == f"{escaped_lines(greedy(model, base, system))}\n"


@pytest.mark.slow
def test_beside_its_base_both_answer_and_each_remembers_what_it_said(base, adapter, talk) -> None:
    models = {
        str(adapter): PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), adapter),
        "base": LlamaForCausalLM.from_pretrained(base),
    }
    said: dict[str, Messages] = {name: [] for name in models}
    expected = ""
    for line in ("quick fox", "lazy dog"):
        for name, model in models.items():
            said[name].append(user(line))
            answer = greedy(model, base, said[name])
            said[name].append({"role": "assistant", "content": answer})
            expected += f"{name}: {escaped_lines(answer)}\n"
    assert said["base"] != said[str(adapter)]
    assert talk(adapter, "quick fox\nlazy dog\n", "--compare", "base") == expected


@pytest.mark.slow
def test_a_new_conversation_forgets_and_exit_ends(base, talk) -> None:
    first, second = talk(base, "quick fox\n\n/new\nquick fox\n/exit\nquick fox\n").split("\n")[:2]
    assert first == second
    assert talk(base, "quick fox\n/new\nlazy dog\n/exit\n").count("\n") == 2


@pytest.mark.slow
def test_draws_are_those_of_the_seed_and_leave_the_random_state_alone(base, talk) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (talk(base, "fox\n", "--temperature", "1", "--seed", seed) for seed in "112")
    assert one == same != other
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_the_oldest_exchanges_go_where_the_model_has_no_room(base) -> None:
    config = ChatConfig(model=str(base), system="be brief", max_new_tokens=60, temperature=0.0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    speaker = Speaker("", LlamaForCausalLM.from_pretrained(base), tokenizer, config)
    speaker.forget()
    for turn in range(6):
        speaker.answer(f"{turn} quick brown fox jumps", seed=0)
    assert speaker.said[0]["role"] == "system"
    assert speaker.said[1]["role"] == "user" and speaker.said[1]["content"] > "0 quick"
    assert speaker.said[-2]["content"].startswith("5")
    with pytest.raises(ValueError, match="are more than the model has positions for: write less"):
        speaker.answer("quick brown fox " * 80, seed=0)


@pytest.mark.slow
def test_without_a_chat_template_each_line_is_gone_on_with(base, tmp_path, talk, capsys) -> None:
    plain = save_base(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    tokenizer, model = AutoTokenizer.from_pretrained(plain), LlamaForCausalLM.from_pretrained(plain)
    assert tokenizer.chat_template is None
    ids = tokenizer("lazy dog", return_tensors="pt").input_ids
    tokens = model.generate(input_ids=ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
    expected = escaped_lines(tokenizer.decode(tokens, skip_special_tokens=True))
    assert talk(plain, "quick fox\nlazy dog\n").endswith(f"\n{expected}\n")


def test_nothing_that_a_model_says_acts_on_the_terminal(base, capsys) -> None:
    printer = _Printer(AutoTokenizer.from_pretrained(base))
    printer.on_finalized_text("a\x1b[2Jb\n", stream_end=True)
    assert capsys.readouterr().out == "a\\x1b[2Jb\n\n"


@pytest.mark.slow
def test_on_a_terminal_a_line_that_is_too_long_ends_nothing(base, monkeypatch, capsys) -> None:
    lines = iter(["quick fox", "quick brown fox " * 80, "/new", "quick fox"])

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", "--model", str(base), "--temperature", "0", "--max_new_tokens", "8"]) == 0
    said = capsys.readouterr()
    _, first, second, *_ = said.out.split("\n")
    assert first == second
    assert "more than the model has positions for" in said.err and said.err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_chat_without_a_word(base, monkeypatch, capsys) -> None:
    def interrupted() -> object:
        raise Stopped(2)

    monkeypatch.setattr("iwpo_fast.chat.command._lines", interrupted)
    assert main(["chat", "--model", str(base)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "absent"], "model absent is neither a folder with a model nor the id of one"),
        (["--model", "{base}", "--compare", "base"], "does not say what it was before training: name that model."),
        (["--model", "{base}", "--compare", "absent"], "compare absent is neither a folder"),
        (["--model", "{base}", "--temperature", "-1"], "temperature is -1"),
        (["--model", "{base}", "--max_new_tokens", "9999"], "are more than the model has positions for"),
        ([], "model is missing: give --model or set it in the recipe."),
    ],
)
def test_a_mistake_is_one_sentence(flags, sentence, base, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("quick fox\n"))
    assert main(["chat", *(flag.format(base=base) for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("iwpo: error: ") and said.count("\n") == 1
