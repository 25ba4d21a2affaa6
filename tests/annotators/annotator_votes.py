"""Votes of annotators of two tastes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WARM, COLD = ("warm", "sun", "hot"), ("cold", "ice", "snow")


def write_votes(path: Path, *, annotators: int = 6, each: int = 6, **columns: list[Any]) -> Path:
    """Every third annotator prefers what is cold, the others what is warm."""
    draw = random.Random(0)
    rows = []
    for who in range(annotators):
        for _ in range(each):
            warm, cold = draw.choice(WARM), draw.choice(COLD)
            chosen, rejected = (cold, warm) if who % 3 == 0 else (warm, cold)
            row = {"prompt": f"say {draw.randrange(100)}: ", "chosen": chosen, "rejected": rejected}
            row |= {name: values[len(rows)] for name, values in columns.items()}
            rows.append(row | {"annotator": f"ann{who}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rankings(path: Path, *, annotators: int = 6, each: int = 6) -> Path:
    """Of three answers every third annotator ranks the colder ones higher, the others the warmer ones."""
    draw = random.Random(0)
    rows = []
    for who in range(annotators):
        for _ in range(each):
            order = [draw.choice(WARM), draw.choice(("mild", "cool")), draw.choice(COLD)]
            ranked = order[::-1] if who % 3 == 0 else order
            rows.append({"prompt": f"say {draw.randrange(100)}: ", "ranked": ranked, "annotator": f"ann{who}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
