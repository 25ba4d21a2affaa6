"""What is where in the folder of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PipelineFolder:
    """Paths inside `output_dir`. A stage writes its own files only, aside and then renamed."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def prepared(self) -> Path:
        """Training pairs in one form, before weighing."""
        return self.path / "prepared" / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """Held-out pairs in one form; absent where nothing is held out."""
        return self.path / "prepared" / "held_out.jsonl"

    @property
    def tiny_model(self) -> Path:
        """The built-in `tiny` model with random weights and its tokenizer, where that is what is trained."""
        return self.path / "prepared" / "tiny"

    @property
    def table(self) -> Path:
        """Pairs of the training data as rows of features."""
        return self.path / "reference" / "pairs.safetensors"

    @property
    def clusters(self) -> Path:
        return self.path / "clusters" / "centroids.safetensors"

    @property
    def prompt_clusters(self) -> Path:
        return self.path / "clusters" / "prompts.safetensors"

    @property
    def rewards(self) -> Path:
        return self.path / "rewards" / "rewards.safetensors"

    @property
    def reward_report(self) -> Path:
        return self.path / "rewards" / "report.json"

    @property
    def tuned(self) -> Path:
        """Rewards of the folds that a fine-tuned model has scored, until all are there."""
        return self.path / "rewards" / "folds"

    @property
    def weighted(self) -> Path:
        """Training pairs with weights, soft labels and scores: what is trained on, here or by another trainer."""
        return self.path / "weights" / "train.jsonl"

    @property
    def weight_report(self) -> Path:
        return self.path / "weights" / "report.json"

    @property
    def histogram(self) -> Path:
        return self.path / "weights" / "histogram.png"

    @property
    def training(self) -> Path:
        return self.path / "train"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation" / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.path / "evaluation" / "report.md"

    @property
    def cache(self) -> Path:
        """Token ids, reference log-probs and features, unless `data.cache_dir` names another place."""
        return self.path / "cache"
