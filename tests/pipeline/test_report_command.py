"""`iwpo report`: a page that has all that the run has, needs nothing else, and in which no text of the data acts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_cases import DATA, read_jsonl, refused_in_a_sentence, stages_done, toy_config, toy_rows, write_jsonl
from report_page import Page, said_of
from safetensors.numpy import load_file

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.files import load_record, save_record
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.report.sections import SECTIONS

HOSTILE = "</pre></details><script>document.title='owned'</script><img src=x onerror=alert(1)><style>*{display:none}"
FLAGS = [
    *("--data.path", DATA, "--data.eval_fraction", "0.2", "--data.max_length", "320", "--device", "cpu"),
    *("--model.tiny", "{vocab_size: 320, hidden_size: 32, layers: 2, heads: 2}", "--candidates.per_prompt", "1"),
    *("--optim", "{lr: 1.0e-3, pairs_per_step: 8, max_steps: 4}", "--candidates.max_new_tokens", "4"),
    *(
        "--log",
        "{every: 1, eval_every: 2, samples: 2, sample_tokens: 4}",
        "--clusters",
        "{count: 3, min_pairs: 8, backend: sklearn}",
    ),
    *("--rewards.heads", "linear", "--weights.form", "strong", "--output_dir", "run"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on texts that would act if they could, beside plain DPO; to be read only."""
    place = tmp_path_factory.mktemp("reported")
    before = Path.cwd()
    os.chdir(place)
    try:
        rows = [row | {"chosen": f"{row['chosen']} {HOSTILE}\u202e"} for row in toy_rows(40)]
        write_jsonl(DATA, rows)
        assert main(["run", *FLAGS, "--baseline"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def run(made: Path, place: Path) -> Path:
    shutil.copytree(made, place, dirs_exist_ok=True)
    return place / "run"


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "run" / "report.html").read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "base", "form", "foreignobject"})
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    references = page.values("href", "xlink:href", "src", "srcset", "action", "poster")
    assert references and {reference[0] for reference in references} == {"#"}
    assert {reference[1:] for reference in references} <= set(page.values("id"))
    policy = next(found for tag, found in page.elements if found.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert sum(tag == "style" for tag, _ in page.elements) == 1


def test_ids_are_there_once_and_every_picture_has_something_in_it(made: Path, page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids)) and set(SECTIONS) <= set(ids)
    pictures = (made / "run" / "report.html").read_text(encoding="utf-8").split("<svg")[1:]
    assert len(pictures) == sum(tag == "figure" for tag, _ in page.elements) == 14
    for picture in pictures:
        assert picture.count("<path") + picture.count("<use") > 5 and "var(--first)" in picture
        assert "#0" not in picture.replace('href="#', ""), "a colour is not that of the page"


def test_texts_of_the_data_are_shown_and_do_not_act(page: Page) -> None:
    text = "".join(page.text)
    assert HOSTILE in text and r"\u202e" in text and "\u202e" not in text


def test_numbers_of_the_page_are_those_of_the_run(made: Path) -> None:
    text = said_of(made / "run" / "report.html")
    for row in json.loads((made / "run" / "evaluation" / "evaluation.json").read_text()).values():
        assert f"{row['accuracy']:.1%}".replace("%", " %") in text
        assert f"{100 * row['low']:.1f} to {row['high']:.1%}".replace("%", " %") in text
    weighted = [row for row in read_jsonl(made / "run" / "weights" / "train.jsonl") if not row.get("drawn")]
    weights = sorted(row["weight"] for row in weighted)
    assert weights[0] < weights[-1]
    assert f"weight {weights[0]:.2f} ·" in text and f"weight {weights[-1]:.2f} ·" in text
    least = min(row["score_chosen"] - row["score_rejected"] for row in weighted)
    assert (f"reward gap {least:+.2f}".replace("-", "−") in text) == (least < 0)
    (summary,) = [read for read in (made / "run" / "train").glob("summary.json")]
    assert f"{json.loads(summary.read_text())['steps']} steps." in text


def test_answers_to_the_same_held_out_prompts_stand_beside_one_another(made: Path, page: Page) -> None:
    before, after = (read_jsonl(made / "run" / "train" / "samples" / f"step-{step:08d}.jsonl") for step in (0, 4))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after] and len(before) == 2
    shown = "".join(page.text).partition("Held-out prompts, before and after")[2].partition("Drawn before")[0]
    for place, row in enumerate(before):
        part = shown.partition(f"Held-out prompt {place + 1}")[2]
        assert part.startswith(f"prompt{row['prompt'].splitlines()[0]}")
        assert 0 < part.index("before") < part.index("after")
    assert "kept no answers" not in "".join(page.text)


@pytest.mark.parametrize("line", ["{}", '{"step": 1, "loss": "low"}', '{"step": null, "loss": 1.0}'])
def test_lines_that_are_no_metrics_are_damage(line: str, run: Path, capsys) -> None:
    (run / "train/metrics.jsonl").write_text(f"{line}\n")
    assert main(["report", "run"]) == 2
    assert "metrics.jsonl is damaged" in capsys.readouterr().err


def test_the_arm_that_baseline_asks_for_is_beside_the_run(made: Path) -> None:
    arms = load_record(made / "run" / "evaluation" / "arms.json")
    assert set(arms) == {"dpo", "run"}
    text = said_of(made / "run" / "report.html")
    assert f"{100 * arms['run']['difference'][0]:+.1f} points".replace("-", "−") in text
    assert "--baseline true" not in text


def test_the_command_writes_the_page_of_the_run_again_to_the_byte(run: Path, capsys) -> None:
    assert main(["report", "--run", "run", "--output", "elsewhere.html"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("After training the better answer is preferred in ")
    assert said.endswith("the report is in elsewhere.html\n")
    assert Path("elsewhere.html").read_bytes() == (run / "report.html").read_bytes()


def test_a_page_that_is_no_longer_so_is_taken_away(run: Path, capsys) -> None:
    assert main(["run", *FLAGS, "--only", "evaluate"]) == 0
    assert not (run / "report.html").exists()
    assert main(["run", *FLAGS]) == 0
    assert "(done before)" in capsys.readouterr().out
    text = said_of(run / "report.html")
    assert "Nothing was trained beside this run" in text and "--baseline true" in text


def test_an_unfinished_run_shows_what_there_is(run: Path, capsys) -> None:
    manifest = Manifest(run / "manifest.json")
    manifest.start("train", "another", {})
    with open(run / "train" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    assert main(["report", "run"]) == 0
    text = said_of(run / "report.html")
    assert "This run has not finished: train, evaluate still to do." in text
    assert "The stage evaluate has not been done yet: the same iwpo run goes on where it stopped." in text
    assert "The training is not finished: 4 steps so far." in text
    assert "The heaviest" in text and "held-out accuracy," not in text


def test_a_run_of_one_stage_says_what_was_read(place: Path) -> None:
    write_jsonl(DATA, toy_rows(20))
    assert main(["run", *FLAGS, "--only", "prepare"]) == 0
    assert main(["report", "run"]) == 0
    text = said_of(Path("run/report.html"))
    assert "rows read40100.0 %" in text
    assert "The stage reward has not been done yet" in text


def test_what_was_left_out_and_cut_is_counted(copied: Path) -> None:
    assert main(["report", "run"]) == 0
    text = said_of(Path("run/report.html"))
    ledger = Manifest(copied / "run" / "manifest.json").result("reference")["ledger"]
    assert ledger["dropped_too_long"] > 0
    assert f"left out: longer than 96 tokens{ledger['dropped_too_long']}" in text
    record = load_record(Path("run/manifest.json"))
    record["stages"]["reference"]["result"]["ledger"]["prompts_cut_away"] = 3
    save_record(Path("run/manifest.json"), record)
    assert main(["report", "run"]) == 0
    assert "of these, prompts of which almost nothing is left3" in said_of(Path("run/report.html"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("weights/train.jsonl", "train.jsonl is damaged"),
        ("rewards/report.json", "report.json is damaged"),
        ("evaluation/margins.safetensors", "margins.safetensors is damaged"),
        ("evaluation/arms.json", "arms.json is damaged"),
        ("train/metrics.jsonl", "metrics.jsonl is damaged"),
        ("manifest.json", "manifest.json is damaged, and says which files of the run are whole: put a copy of it back"),
    ],
)
def test_a_damaged_file_is_named_in_a_sentence_and_the_page_stays(name: str, sentence: str, run: Path, capsys) -> None:
    before = (run / "report.html").read_bytes()
    spoilt = (run / name).read_bytes()
    if name == "weights/train.jsonl":  # which any other text would leave as good as it was
        spoilt = spoilt.replace(b"red", b"rod", 1)
    elif name.endswith(".safetensors"):
        spoilt = spoilt[:-1] + bytes([spoilt[-1] ^ 1])
    else:
        spoilt = b"[1]\n"
    (run / name).write_bytes(spoilt)
    assert main(["report", "run"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["weights/train.jsonl", "weights/report.json", "rewards/report.json", "evaluation/margins.safetensors"]
)
def test_an_absent_file_is_gone_and_the_same_run_makes_it_again(name: str, run: Path, capsys) -> None:
    (run / name).unlink()
    assert main(["report", "run"]) == 2
    said = capsys.readouterr().err
    assert said == f"iwpo: error: run/{name} is gone: the same iwpo run makes it again.\n"


@pytest.mark.slow
def test_the_same_run_makes_a_file_that_is_gone_again_and_trains_nothing(run: Path, capsys) -> None:
    model = (run / "train" / "model" / "model.safetensors").stat().st_mtime_ns
    before = (run / "report.html").read_bytes()
    (run / "weights" / "train.jsonl").unlink()
    assert main(["run", *FLAGS, "--baseline"]) == 0
    assert (run / "train" / "model" / "model.safetensors").stat().st_mtime_ns == model
    assert (run / "report.html").read_bytes() == before


def test_a_page_without_metrics_says_that_they_are_gone(run: Path) -> None:
    (run / "train" / "metrics.jsonl").unlink()
    assert main(["report", "run"]) == 0
    assert "train/metrics.jsonl of this run is gone or empty" in said_of(run / "report.html")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "run is missing: give --run"),
        (["nowhere"], "iwpo: error: nowhere is no folder: give the output_dir of iwpo run."),
        (["empty"], "iwpo: error: empty has no manifest.json: give the output_dir of iwpo run."),
        (["run/train"], "iwpo: error: run/train is a folder of iwpo train, and iwpo report shows one of iwpo run"),
        (["run", "--output", "run"], "output is run: give the name of a file that ends in .html."),
        (["run", "--output", "a.html"], "output is a.html, which is a folder"),
        (["run", "--output", "data.jsonl/a.html"], "data.jsonl is a file: choose another output."),
        (["run", "more"], "more belongs to no setting"),
    ],
)
def test_what_is_no_run_or_no_place_for_a_page_is_refused(words: list[str], sentence: str, run: Path, capsys) -> None:
    Path("empty").mkdir()
    Path("a.html").mkdir()
    Path("data.jsonl").touch()
    assert main(["report", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_margins_before_training_are_kept_where_rewards_have_no_reference(copied: Path) -> None:
    assert not load_file("run/evaluation/margins.safetensors")["before"].any()
    assert stages_done(toy_config(objective=ObjectiveConfig(name="simpo")))[-1] == "evaluate"
    before = load_file("run/evaluation/margins.safetensors")["before"]
    summary: dict[str, Any] = json.loads(Path("run/train/summary.json").read_text())
    assert before.std() > 0
    assert before.mean() == pytest.approx(summary["before"]["eval_rewards/margins"], rel=1e-4)
    assert main(["report", "run"]) == 0
    text = said_of(Path("run/report.html"))
    assert f"{np.mean(before > 0):.1%}before training".replace("%", " %") in text
    assert "was its own reference" not in text


def test_baseline_needs_held_out_pairs(place: Path, capsys) -> None:
    refused_in_a_sentence(["--baseline", "--data.eval_fraction", "0"], "arms are compared on held-out pairs", capsys)


def browser() -> str | None:
    """A Chromium, by the variable IWPO_BROWSER or by its usual names."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("IWPO_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_a_browser_draws_every_picture_and_has_nothing_to_say(width: int, scheme: Any, made: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    executable = browser()
    if executable is None:
        pytest.skip("needs a Chromium: set IWPO_BROWSER to it")
    said, asked = [], []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((made / "run" / "report.html").as_uri())
        boxes = tab.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBBox().width * s.clientWidth)")
        wide, title = tab.evaluate("[document.documentElement.scrollWidth, document.title]")
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        chromium.close()
    assert said == [] and len(asked) == 1 and title == "What the run run has done"
    assert len(boxes) == 14 and min(boxes) > 10_000
    assert wide == width, "it scrolls sideways"
    assert paper == ("rgb(20, 23, 26)" if scheme == "dark" else "rgb(251, 250, 247)")


@pytest.mark.slow
def test_weights_of_the_data_are_told_from_those_of_the_method(place: Path, capsys) -> None:
    rows = [row | {"heavy": 0.5 + number % 5} for number, row in enumerate(toy_rows(40))]
    write_jsonl(DATA, rows)
    assert main(["run", *FLAGS, "--data.columns.weight", "heavy", "--baseline"]) == 0
    text = said_of(Path("run/report.html"))
    method = Manifest(Path("run/manifest.json")).result("weigh")["ess"]
    weights = np.array([row["weight"] for row in read_jsonl("run/weights/train.jsonl") if not row.get("drawn")])
    both = weights.sum() ** 2 / (weights**2).sum() / len(weights)
    assert both < method
    assert (
        f"{method:.1%}effective sample size of the weights of the method{both:.1%}times your column heavy".replace(
            "%", " %"
        )
        in text
    )
    assert "dpo: DPO with the weights of your data" in text and "plain DPO it" not in text
    assert "Weights here are those of the method times your column heavy." in text and "the mean is 1" not in text
    assert "| dpo | DPO with the weights of your data |" in Path("run/evaluation/arms.md").read_text()


@pytest.mark.slow
def test_held_out_pairs_keep_the_weights_of_the_data_in_their_loss(place: Path) -> None:
    write_jsonl(DATA, [row | {"weight": 0.5 + number % 5} for number, row in enumerate(toy_rows(40))])
    assert main(["run", *FLAGS]) == 0
    held_out = np.array([row["weight"] for row in read_jsonl("run/prepared/held_out.jsonl")])
    (first,) = [row for row in read_jsonl("run/train/metrics.jsonl") if row["step"] == 0]
    assert np.ptp(held_out) > 0
    assert first["eval_loss"] == pytest.approx(np.log(2) * held_out.mean(), rel=1e-5)
    assert "Held-out pairs keep the weights and labels of your data" in said_of(Path("run/report.html"))
