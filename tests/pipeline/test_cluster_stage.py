"""What the stage says of its clusters."""

from __future__ import annotations

from iwpo_fast.pipeline.stages import cluster


def test_clusters_that_were_merged_are_said() -> None:
    assert cluster._merged_words(4, 4, 50) == ""
    assert cluster._merged_words(4, 2, 50) == (
        "; of the 4 found, those of under 50 pairs (clusters.min_pairs) joined their nearest"
    )
