"""What is where in the folder of a pipeline."""

from __future__ import annotations

from pathlib import Path

from iwpo_fast.output_folder import LOCK, Inside, OutputFolder, not_ours


class PipelineFolder(OutputFolder):
    """Paths inside `output_dir`. A stage writes its own files only, aside and then renamed."""

    OPENED = (LOCK, "cache")  # tokens of data that were refused before the first stage

    REPLACED = ("prepared/tiny", "rewards/reward_model", "train/model")

    manifest = Inside("manifest.json")

    prepared = Inside("prepared/train.jsonl")
    """Training pairs in one form, before weighing."""
    held_out = Inside("prepared/held_out.jsonl")
    """Held-out pairs in one form; absent if nothing is held out."""
    tiny_model = Inside("prepared/tiny")
    """The built-in `tiny` model with random weights and its tokenizer, if it is the model to train."""

    samples = Inside("samples/candidates.jsonl")
    """Completions drawn for the training prompts, with their log-probs; absent if none are drawn."""
    sample_parts = Inside("samples/parts")
    """Blocks of them that are finished; gone when all are."""

    table = Inside("reference/pairs.safetensors")
    """Pairs of the training data as rows of features."""

    clusters = Inside("clusters/centroids.safetensors")
    prompt_clusters = Inside("clusters/prompts.safetensors")

    rewards = Inside("rewards/rewards.safetensors")
    reward_report = Inside("rewards/report.json")
    reward_model = Inside("rewards/reward_model")
    """The heads that scored the pairs, to score other texts; absent unless heads on features did."""
    tuned = Inside("rewards/folds")
    """Rewards and adapters of the folds that a fine-tuned model has scored; gone when all folds are done."""

    weighted = Inside("weights/train.jsonl")
    """Training pairs with weights, soft labels and scores, and preferred pairs, for training here or elsewhere."""
    weight_report = Inside("weights/report.json")
    histogram = Inside("weights/histogram.png")
    preferred = Inside("weights/preferred.png")
    """Importance of the candidates; absent if no preferred pairs are drawn."""

    training = Inside("train")

    evaluation = Inside("evaluation/evaluation.json")
    report = Inside("evaluation/report.md")
    margins = Inside("evaluation/margins.safetensors")
    """The margin of every held-out pair; absent if nothing is held out."""
    arms_table = Inside("evaluation/arms.json")
    arms_report = Inside("evaluation/arms.md")
    """Parts of the method beside one another; absent unless `arms` asks for them."""
    arms = Inside("arms")
    """A pipeline for each of them."""

    page = Inside("report.html")
    """What the run has done, for people."""

    cache = Inside("cache")
    """Token ids, reference log-probs and features, unless `data.cache_dir` names another place."""

    def check(self) -> None:
        """Raise ValueError if the folder exists and belongs to something else, or holds links where folders will be."""
        self.refuse_links()
        if self.is_used and not self.manifest.exists():
            raise not_ours(self.path, "pipeline of iwpo_fast")


def files_in(folder: Path) -> list[Path]:
    """All files in a folder, which may be absent, and in the folders inside it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
