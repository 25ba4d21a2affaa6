"""Blocks of drawn completions: a damaged one is drawn again."""

from __future__ import annotations

from iwpo_fast.sampling.store import load_part, save_part

RECORDS = [
    {"row": 3, "draw": 0, "completion": "naïve ☃", "tokens": 4, "ended": True, "log_mu": -1.5, "log_model": None}
]


def test_a_block_is_read_as_it_was_drawn_or_not_at_all(tmp_path, caplog) -> None:
    path = tmp_path / "0000001.json"
    assert load_part(path) is None and not caplog.text
    save_part(path, iter(RECORDS))
    assert load_part(path) == RECORDS
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert load_part(path) in (None, RECORDS)
    path.write_bytes(whole.replace(b"-1.5", b"-1.6"))
    assert load_part(path) is None and "are damaged: drawing this block again" in caplog.text
