"""Code that a model brings runs only where the setting says so; nothing asks; a loader's reason is passed on."""

from __future__ import annotations

import ast
import builtins
import json
from pathlib import Path

import pytest
import torch
from families import save_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import iwpo_fast
from iwpo_fast.config import DataConfig, ModelConfig, RewardConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.pretrained import trust_line
from iwpo_fast.models.saving import fingerprint
from iwpo_fast.rewards.classifier import classifier_scores
from iwpo_fast.world import World

CODE = """from pathlib import Path
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

Path({mark!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = 'own_model'


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnBase(LlamaModel):
    config_class = OwnConfig


AutoModel.register(OwnConfig, OwnBase, exist_ok=True)


class OwnClassifier(LlamaForSequenceClassification):
    config_class = OwnConfig
"""


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch, tmp_path) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def own(tmp_path, tokenizer) -> Path:
    return with_code(save_model(tmp_path / "own", "llama", tokenizer), tmp_path / "it ran")


def with_code(folder: Path, mark: Path) -> Path:
    settings = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnModel"}
    classes |= {"AutoModelForSequenceClassification": "OwnClassifier"}
    settings |= {"model_type": "own_model", "auto_map": {auto: f"code.{name}" for auto, name in classes.items()}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    return folder


def load(path: Path, tokenizer, **options) -> Policy:
    return load_policy(ModelConfig(path=str(path), **options), tokenizer, World(0, 1, torch.device("cpu")), seed=0)


def test_code_is_not_run_and_the_setting_is_named(own, tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"brings code of its own, which is not run: .* model\.trust_remote_code"):
        load(own, tokenizer)
    assert not (tmp_path / "it ran").exists()


def test_a_tokenizer_of_ones_own_is_not_run_either(own, tmp_path) -> None:
    path = own / "tokenizer_config.json"
    brings = {"auto_map": {"AutoTokenizer": [None, "code.OwnTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
    path.write_text(json.dumps(json.loads(path.read_text()) | brings))
    with pytest.raises(ValueError, match="brings code of its own, which is not run"):
        load_tokenizer(ModelConfig(path=str(own)), ())
    assert not (tmp_path / "it ran").exists()


@pytest.mark.slow
def test_trusted_code_runs_trains_and_is_saved_with_the_model(own, tokenizer, batch, tmp_path) -> None:
    load_tokenizer(ModelConfig(path=str(own), trust_remote_code=True), ())
    policy = load(own, tokenizer, trust_remote_code=True)
    assert (tmp_path / "it ran").exists() and type(policy.causal_lm).__name__ == "OwnModel"
    policy.save(tmp_path / "saved", tokenizer)
    again = load(tmp_path / "saved", tokenizer, trust_remote_code=True)
    assert torch.equal(again(batch), policy(batch))


@pytest.mark.slow
def test_the_fingerprint_covers_the_code(own, tokenizer) -> None:
    before = fingerprint(load(own, tokenizer, trust_remote_code=True).causal_lm)
    (own / "code.py").write_text((own / "code.py").read_text() + "\n# another\n")
    assert fingerprint(load(own, tokenizer, trust_remote_code=True).causal_lm) != before


@pytest.mark.slow
def test_a_reward_model_is_held_to_the_same_setting(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "own", "llama", tokenizer)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    with_code(folder, tmp_path / "it ran")
    options = {"tokens_per_batch": 99, "device": torch.device("cpu")}
    with pytest.raises(ValueError, match=r"^rewards\.model .* brings code of its own"):
        classifier_scores(str(folder), ["a"], ["b"], **options)
    assert len(classifier_scores(str(folder), ["a"], ["b"], trust_remote_code=True, **options)) == 1


def test_code_that_fails_is_one_sentence_with_its_reason(own, tokenizer) -> None:
    (own / "code.py").write_text("raise AttributeError('no such kernel')\n")
    with pytest.raises(ValueError, match=r"The model of model\.path .* cannot be loaded \(no such kernel\): give what"):
        load(own, tokenizer, trust_remote_code=True)


def test_a_kind_that_transformers_does_not_know_is_reported_by_its_reason(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "new", "llama", tokenizer)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "of_next_year"}))
    with pytest.raises(ValueError, match=r"model type `of_next_year` but Transformers does not recognize") as error:
        load(folder, tokenizer)
    assert "\n" not in str(error.value)


def test_a_package_that_a_tokenizer_needs_is_named(tmp_path, monkeypatch) -> None:
    def needs(*_: object, **__: object) -> None:
        raise ImportError("\nLlamaTokenizer requires the SentencePiece library but it was not found.\n")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", needs)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cannot be loaded \(LlamaTokenizer requires the SentencePiece library"):
        load_tokenizer(ModelConfig(path=str(tmp_path)), ())


def test_trusting_the_tiny_model_has_no_effect_and_is_refused() -> None:
    trusting = ModelConfig(trust_remote_code=True)
    with pytest.raises(ValueError, match=r"^model\.trust_remote_code is true but the tiny model brings no code"):
        check_config(TrainConfig(DataConfig("x"), model=trusting))
    rewards = RewardConfig(source="model", model="some/classifier")
    check_config(RunConfig(DataConfig("x"), model=trusting, rewards=rewards))


LOADERS = ("from_pretrained", "from_config")
WITHOUT_CODE = ("GenerationConfig", "PeftModel", "peft.PeftConfig")
"""Classes whose files are settings and numbers alone; an adapter's go through `check_saved`, which refuses pickles."""


@pytest.mark.slow
def test_every_loader_of_the_library_is_told_whether_code_may_run() -> None:
    silent, told = [], 0
    for path in sorted(Path(iwpo_fast.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr not in LOADERS or ast.unparse(call.func.value) in WITHOUT_CODE:
                continue
            said = any(keyword.arg == "trust_remote_code" for keyword in call.keywords)
            told += said
            silent += [] if said else [f"{path.name}:{call.lineno}: {ast.unparse(call.func)}"]
    assert silent == []
    assert told >= 3


def test_a_plan_says_that_code_may_run_and_else_nothing() -> None:
    assert trust_line(ModelConfig(path="x")) is None
    said = trust_line(ModelConfig(path="x", trust_remote_code=True))
    assert said == "model.trust_remote_code is true: code that models and tokenizers of this run bring is run"
