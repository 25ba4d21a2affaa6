"""Which tiles the streamed operator takes on a GPU, and the table of measured ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from iwpo_kernels.linear_token_logps import tuned
from iwpo_kernels.linear_token_logps.tiling import ALIGNMENT, Tiling, Work, gpu_tiling, ranked, tiling_on
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Tuned

VOCAB = 151_936
MULTIPROCESSORS = 132  # of an H100
CPU = torch.device("cpu")


def no_gradient(count: int, features: int) -> Work:
    return Work(count, VOCAB, features, per_logit=4, per_row=2 * features)


def frozen(count: int, features: int) -> Work:
    return Work(count, VOCAB, features, per_logit=6, per_row=2 * features, second="hidden")


def saved(count: int, features: int) -> Work:
    return Work(count, VOCAB, features, per_logit=4, per_row=2 * features, second="hidden")


def of_head(count: int, features: int) -> Work:
    return Work(count, VOCAB, features, per_logit=6, per_row=2 * features, second="head")


def on_h100(work: Work, settings: Tuned = DEFAULTS, workspace_mb: int = 256) -> Tiling:
    return tiling_on(MULTIPROCESSORS, work, workspace_mb, settings)


def idle_share(rows: int, columns: int) -> float:
    """Of the multiprocessors' time in a product of tiles of 128 × 256, whichever way they lie."""
    best = min(-(-rows // high) * -(-columns // wide) for high, wide in ((128, 256), (256, 128)))
    return 1 - rows * columns / (128 * 256 * MULTIPROCESSORS * -(-best // MULTIPROCESSORS))


@pytest.mark.parametrize("features", [896, 1536, 4096])
@pytest.mark.parametrize("kind", [no_gradient, frozen, saved, of_head])
def test_few_rows_have_few_slices(kind, features: int) -> None:
    assert len(on_h100(kind(600, features)).slices(VOCAB)) <= 3


@pytest.mark.parametrize("count", [4096, 8192])
@pytest.mark.parametrize("kind", [no_gradient, frozen, saved, of_head])
def test_products_with_a_wide_head_fill_whole_waves(kind, count: int) -> None:
    tile = on_h100(kind(count, 4096))
    assert idle_share(tile.rows, tile.width) < 0.031
    if kind in (frozen, saved):
        assert idle_share(tile.rows, 4096) < 0.031


@pytest.mark.parametrize("kind", [frozen, saved])
def test_a_narrow_head_takes_many_rows_that_its_sums_fill_the_chip(kind) -> None:
    assert on_h100(kind(8192, 896)).rows >= 4096


@pytest.mark.parametrize("kind", [no_gradient, frozen, saved])
@pytest.mark.parametrize("count", [4096, 8192, 10_000])
def test_more_memory_is_never_slower_by_the_estimate(kind, count: int) -> None:
    work = kind(count, 4096)
    steps = [work.steps(on_h100(work, workspace_mb=mib), MULTIPROCESSORS) for mib in (128, 256, 512)]
    assert steps[0] >= steps[1] >= steps[2]


def test_nearly_equal_lengths_have_the_same_tiles() -> None:
    assert on_h100(frozen(8190, 4096)) == on_h100(frozen(8065, 4096))


def test_a_device_that_is_not_there_counts_as_an_h100() -> None:
    assert gpu_tiling(frozen(8192, 4096), 256, CPU, DEFAULTS) == on_h100(frozen(8192, 4096))


def test_what_was_measured_is_taken() -> None:
    tile = on_h100(frozen(8192, 4096), Tuned(rows=2048, width=16_896))
    assert (tile.rows, tile.width) == (2048, 16_896)


def test_what_was_measured_is_made_even() -> None:
    tile = on_h100(frozen(5000, 4096), Tuned(rows=2048, width=18_000))
    assert tile.rows == 1792 and len(tile.row_ranges(5000)) == 3
    assert tile.width % ALIGNMENT == 0 and len(tile.slices(VOCAB)) == 9


def test_what_was_measured_is_left_where_it_exceeds_the_workspace() -> None:
    work, settings = frozen(8192, 4096), Tuned(rows=4096, width=38_016)
    assert work.bytes(Tiling(4096, 38_016)) > 256 << 20
    assert on_h100(work, settings) == on_h100(work)
    assert on_h100(work, settings, workspace_mb=1024) == Tiling(4096, 38_016)


@pytest.mark.parametrize("kind", [frozen, of_head])
def test_what_was_measured_with_many_rows_is_not_taken_for_few(kind) -> None:
    assert on_h100(kind(600, 4096), Tuned(rows=4096, width=8448)) == on_h100(kind(600, 4096))
    assert on_h100(kind(4096, 4096), Tuned(rows=4096, width=8448)) == Tiling(4096, 8448)


def test_the_gradient_of_the_head_has_all_rows_in_one_tile_whatever_was_measured() -> None:
    assert on_h100(of_head(8192, 1536), Tuned(rows=2048, width=2048)) == Tiling(8192, 2048)
    too_wide = Tuned(rows=2048, width=8448)
    assert on_h100(of_head(8192, 1536), too_wide) == on_h100(of_head(8192, 1536))


def test_the_first_of_the_ranked_tiles_is_the_one_that_is_taken() -> None:
    for work in (frozen(8192, 4096), of_head(4000, 896)):
        assert ranked(MULTIPROCESSORS, work, 256)[0] == on_h100(work)


ENTRY = {"device": "cpu", "hidden_size": 64, "mode": "frozen", "width": 256}


def table_at(path: Path, *entries: dict) -> str:
    path.write_text(json.dumps(entries))
    return str(path)


def test_the_table_is_found_by_device_hidden_size_and_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuned.TABLE, table_at(tmp_path / "t.json", ENTRY))
    assert tuned.tuned(CPU, 64, "frozen") == Tuned(width=256)
    assert tuned.tuned(CPU, 64, "saved") == DEFAULTS
    assert tuned.tuned(CPU, 128, "frozen") == DEFAULTS


def test_settings_on_trial_stand_in_for_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuned.TABLE, table_at(tmp_path / "t.json", ENTRY))
    with tuned.using({("cpu", 64, "saved"): Tuned(rows=3)}):
        assert tuned.tuned(CPU, 64, "saved") == Tuned(rows=3)
        assert tuned.tuned(CPU, 64, "frozen") == DEFAULTS
    assert tuned.tuned(CPU, 64, "frozen") == Tuned(width=256)


@pytest.mark.parametrize("change", [{"widht": 3}, {"hidden": 64}])
def test_a_key_that_is_not_known_is_named(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}.*each needs device, hidden_size, mode"):
        tuned.table(table_at(tmp_path / "t.json", ENTRY | change))


def test_a_missing_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each needs device, hidden_size, mode"):
        tuned.table(table_at(tmp_path / "t.json", {"device": "cpu", "mode": "frozen"}))


def test_a_table_that_is_not_there_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"IWPO_TILING_TABLE.*absent\.json"):
        tuned.table(str(tmp_path / "absent.json"))


def test_a_table_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"t\.json"):
        tuned.table(str(path))
