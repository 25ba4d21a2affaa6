"""K-means by each backend from the same start: seconds, and inertia against scikit-learn's."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.findings import CLOSE_INERTIA
from benchmarks.processes import ABSENT, FAILED, status_of
from iwpo_fast.rewards.kmeans import BACKENDS, NEEDS, Backend, available_backends, kmeans

CLUSTERS = 8
SEED = 0


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a backend fails, or finds other clusters than scikit-learn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    options = parser.parse_args(argv)
    points = clustered(options.points, options.features)
    rows: list[dict[str, Any]] = []
    for backend in sorted(BACKENDS, key=lambda name: name != "sklearn"):
        rows.append(measure(backend, points, rows[0] if rows else None))
        print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
        (options.out / "kmeans.json").write_text(json.dumps({"backends": rows}))
    return int(any(row["status"] in (FAILED, "other clusters") for row in rows))


def clustered(count: int, features: int) -> np.ndarray:
    """float32 [count, features] around twice as many centres as are looked for."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((2 * CLUSTERS, features), dtype=np.float32)
    noise = random.standard_normal((count, features), dtype=np.float32)
    return centres[random.integers(len(centres), size=count)] + noise


def measure(backend: Backend, points: np.ndarray, sklearn: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"backend": backend, "status": "ok"}
    if backend not in available_backends():
        return row | {"status": ABSENT, "message": f"needs {NEEDS[backend]}"}
    try:
        kmeans(points[: 10 * CLUSTERS], CLUSTERS, backend=backend, seed=SEED)  # imports and compiles
        begin = time.perf_counter()
        centroids = kmeans(points, CLUSTERS, backend=backend, seed=SEED)
        row["seconds"] = time.perf_counter() - begin
        row["inertia"] = inertia(points, centroids)
    except Exception as error:
        return row | {"status": FAILED, "message": status_of(error)[1]}
    if sklearn is not None and "inertia" in sklearn:
        ratio = row["inertia_over_sklearn"] = row["inertia"] / sklearn["inertia"]
        if abs(ratio - 1) > CLOSE_INERTIA:
            row["status"] = "other clusters"
    return row


def inertia(points: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid, in float64."""
    x, c = points.astype(np.float64), centroids.astype(np.float64)
    squares = (x**2).sum(1)[:, None] - 2 * x @ c.T + (c**2).sum(1)
    return float(squares.min(1).sum())


if __name__ == "__main__":
    sys.exit(main())
