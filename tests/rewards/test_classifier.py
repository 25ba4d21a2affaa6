"""Scores of a sequence classifier with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.rewards.classifier import classifier_scores

PROMPTS = ["say hi: ", "say hi: ", "count to three please: ", "x: "]
COMPLETIONS = ["hi", "hello there, hello", "one two three", "y"]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward-model")
    tokenizer = train_tokenizer([*PROMPTS, *COMPLETIONS], 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_scores_are_those_of_the_model_on_each_text_alone(reward_model: Path, budget: int) -> None:
    scores = classifier_scores(
        str(reward_model), PROMPTS, COMPLETIONS, tokens_per_batch=budget, device=torch.device("cpu")
    )
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        with torch.no_grad():
            alone = model(**tokenizer(prompt + completion, return_tensors="pt")).logits
        assert score == pytest.approx(alone.item(), abs=1e-5)
    assert len(set(scores.round(4))) == len(scores)


def test_conversations_go_through_the_chat_template(reward_model: Path) -> None:
    prompts = [[{"role": "user", "content": "hi"}]]
    answers = [[{"role": "assistant", "content": "hello"}]]
    chat = {"tokens_per_batch": 100, "device": torch.device("cpu")}
    (score,) = classifier_scores(str(reward_model), prompts, answers, **chat)
    (plain,) = classifier_scores(str(reward_model), ["hi"], ["hello"], **chat)
    assert score != plain


def test_a_softcap_of_attention_counts_where_transformers_would_take_sdpa(
    reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "attn_logit_softcapping": 0.5}
    config = Gemma2Config(**shape, **heads, num_labels=1, initializer_range=0.5, pad_token_id=tokenizer.pad_token_id)
    Gemma2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = classifier_scores(str(tmp_path), PROMPTS, COMPLETIONS, tokens_per_batch=1, device=torch.device("cpu"))
    for softcap, agrees in ((0.5, True), (None, False)):
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path, attn_implementation="eager", attn_logit_softcapping=softcap
        ).eval()
        texts = [prompt + completion for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
        with torch.no_grad():
            alone = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
        assert (scores == pytest.approx(alone, abs=1e-5)) == agrees


def test_a_folder_without_a_classifier_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rewards\.model .* sequence classifier"):
        classifier_scores(str(tmp_path), PROMPTS, COMPLETIONS, tokens_per_batch=9, device=torch.device("cpu"))


def test_several_labels_are_refused(reward_model: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(reward_model, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path)
    for file in reward_model.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="has 3 labels"):
        classifier_scores(str(tmp_path), PROMPTS, COMPLETIONS, tokens_per_batch=9, device=torch.device("cpu"))
