"""Token ids on disk, found again by the content of rows and tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.config import DataConfig
from iwpo_fast.data import clock
from iwpo_fast.data.pairs import Pairs, hash_of
from iwpo_fast.data.ragged import Ragged, RaggedWriter
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.saved_tokenizer import save_tokenizer
from iwpo_fast.files import check_readable, written_aside
from iwpo_fast.paths import cache_of_user, expanded

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

FORMAT, CANDIDATES_FORMAT = "3", "candidates 3"
ROWS_IN_GROUP = 4096
"""Rows of a file that are unpacked at once."""

SIDES = ("prompt", "chosen", "rejected")

logger = logging.getLogger(__name__)


def cache_folder(config: DataConfig) -> Path:
    """Folder for what can be computed again."""
    return expanded(config.cache_dir) if config.cache_dir else cache_of_user()


def tokens_path(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Path:
    """Where the token ids of these rows are kept.

    The name hashes all texts, all files of the tokenizer with its chat template, what that writes of the clock, and the
    settings that decide how texts become tokens. Truncation happens after the cache, and weights and scores go around
    it, so changing them costs no tokenisation.
    """
    arguments: Iterable[dict[str, Any]] = rows.template or repeat({}, len(rows))
    present = () if rows.present is None else (rows.present.tolist(),)
    texts = zip(rows.prompt, rows.chosen, rows.rejected, arguments, *present, strict=True)
    return _path(FORMAT, texts, tokenizer, config)


def candidates_path(rows: Rows, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Path:
    """Where the token ids of the candidates of these rows are kept, behind the prompts of these pairs."""
    assert rows.candidates is not None
    row = map(int, rows.candidates.row)
    arguments = rows.template
    texts = (
        (rows.prompt[i], text, arguments[i] if arguments else {})
        for i, text in zip(row, rows.candidates.texts, strict=True)
    )
    kind = f"{CANDIDATES_FORMAT} {hash_of(pairs.row, pairs.prompt.offsets, pairs.prompt.values)}"
    return _path(kind, texts, tokenizer, config)


def save_tokens(path: Path, pairs: Pairs, seams: np.ndarray) -> None:
    """Write what `encode_rows` returns as Parquet with checksums, aside and then renamed."""
    _save(path, {"row": pairs.row, "seam": seams}, {name: getattr(pairs, name) for name in SIDES})


def load_tokens(path: Path) -> tuple[Pairs, np.ndarray] | None:
    """What `save_tokens` wrote, of weight 1 and without `present`; None if there is nothing, or nothing undamaged."""
    loaded = _load(path, ("row", "seam"), SIDES)
    if loaded is None:
        return None
    (row, seams), (prompt, chosen, rejected) = loaded
    return Pairs(prompt, chosen, rejected, np.ones(len(row)), row=row), seams


def save_candidates(path: Path, kept: np.ndarray, completions: Ragged) -> None:
    """Write what `encode_candidates` returns, as `save_tokens` does."""
    _save(path, {"row": kept}, {"completion": completions})


def load_candidates(path: Path) -> tuple[np.ndarray, Ragged] | None:
    """What `save_candidates` wrote; None if there is nothing, or nothing that is undamaged."""
    loaded = _load(path, ("row",), ("completion",))
    return None if loaded is None else (loaded[0][0], loaded[1][0])


def _path(kind: str, texts: Iterable[object], tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Path:
    settings = f"{kind} {config.add_eos} {config.train_on} {config.on_prefix_mismatch == 'split'} "
    digest = hashlib.sha256(settings.encode())
    for file in _tokenizer_files(tokenizer):
        digest.update(f"{len(file)} ".encode() + file)
    for written in clock.shown(tokenizer):
        digest.update(written.encode())
    for row in texts:
        digest.update(json.dumps(row, default=str).encode())
    return cache_folder(config) / "tokens" / f"{digest.hexdigest()[:32]}.parquet"


def _save(path: Path, columns: dict[str, np.ndarray], parts: dict[str, Ragged]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({**columns, **{name: _to_arrow(part) for name, part in parts.items()}})
    table = table.replace_schema_metadata({checksums.KEY: _hash(columns, parts)})
    with written_aside(path) as aside:
        pq.write_table(
            table,
            aside,
            row_group_size=ROWS_IN_GROUP,
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        )


def _load(path: Path, columns: Sequence[str], parts: Sequence[str]) -> tuple[list[np.ndarray], list[Ragged]] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    check_readable(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
            groups = map(file.read_row_group, range(file.num_row_groups))
            values, rows = _from_groups(groups, columns, parts)
            known = (file.schema_arrow.metadata or {}).get(checksums.KEY.encode())
        found = _hash(dict(zip(columns, values, strict=True)), dict(zip(parts, rows, strict=True)))
        if known is not None and known.decode() != found:
            raise Damaged(path)
        return values, rows
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError):
        logger.warning("The cached tokens in %s are damaged: tokenising again.", path)
        return None


def _hash(columns: Mapping[str, np.ndarray], parts: Mapping[str, Ragged]) -> str:
    ragged = {f"{name} {what}": getattr(part, what) for name, part in parts.items() for what in ("offsets", "values")}
    return checksums.of_arrays({**columns, **ragged})


def _to_arrow(rows: Ragged) -> pa.LargeListArray:
    import pyarrow as pa

    return pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.values))


def _from_groups(
    groups: Iterable[pa.Table], columns: Sequence[str], parts: Sequence[str]
) -> tuple[list[np.ndarray], list[Ragged]]:
    values: list[list[np.ndarray]] = [[] for _ in columns]
    writers = [RaggedWriter() for _ in parts]
    for group in groups:
        for name, found in zip(columns, values, strict=True):
            found.append(group.column(name).to_numpy())
        for name, writer in zip(parts, writers, strict=True):
            for part in _from_arrow(group.column(name)):
                writer.append(part)
    return [np.concatenate(found) for found in values], [writer.finish() for writer in writers]


def _from_arrow(column: pa.ChunkedArray) -> Iterator[Ragged]:
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        yield Ragged(chunk.flatten().to_numpy(), offsets - offsets[0])


def _tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """Names and contents of everything that `save_pretrained` writes."""
    if tokenizer.is_fast:
        # Not part of the tokenizer, but of what it was last asked to do.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return [part for path in files for part in (path.name.encode(), path.read_bytes())]
