"""Linear heads of all folds, which give rewards to any features that are made as those they learnt from were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, Groups, Ints, float32_blocks
from iwpo_fast.rewards.stored_heads import StoredHeads


@dataclass(frozen=True)
class LinearHeads(StoredHeads):
    """r(x, y) = s (v + δ_z)ᵀ f(x, y), for every member of an ensemble in every fold.

    Attributes:
        mean, scale: [d] fp32, by which features are standardised before they meet a head.
        vectors: [G, d, folds, members] fp32, v + δ_k; [1, ...] without residuals.
        slope: [folds, members] fp64, log-odds of the pairs that a head was shown, per unit of its reward.
    """

    kind: ClassVar[str] = "linear"

    mean: Float32s
    scale: Float32s
    vectors: Float32s
    slope: NDArray[np.float64]

    def rewards(self, groups: Groups, cluster: Ints, prompt: Ints) -> Iterator[tuple[slice, Float32s]]:
        """Rewards [b, folds, members] fp32, in log-odds, of each block of rows of the features [C, d], with its place.

        Args:
            cluster: [C] int64.
            prompt: [C] int64, which these heads need not know.
        """
        vectors = (self.vectors * self.slope.astype(np.float32)).reshape(len(self.vectors), len(self.mean), -1)
        for place, block in float32_blocks(groups):
            block = (block - self.mean) * self.scale
            rewards = np.empty((len(block), vectors.shape[2]), dtype=np.float32)
            of_block = cluster[place] if len(vectors) > 1 else np.zeros(len(block), dtype=np.int64)
            for k in np.unique(of_block):
                rows = np.flatnonzero(of_block == k)
                rewards[rows] = block[rows] @ vectors[k]
            yield place, rewards.reshape(-1, self.folds, self.members)


class HeadsBesideLinear(StoredHeads):
    """Heads that stand beside linear ones, whose arrays are kept with theirs.

    Attributes:
        linear: the linear heads.
    """

    linear: LinearHeads

    def arrays(self) -> dict[str, np.ndarray]:
        own = {name: values for name, values in vars(self).items() if name != "linear"}
        return own | {f"linear_{name}": values for name, values in self.linear.arrays().items()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        linear = {name: values for name, values in arrays.items() if name.startswith("linear_")}
        own: dict[str, Any] = {name: values for name, values in arrays.items() if name not in linear}
        parts = {name.removeprefix("linear_"): values for name, values in linear.items()}
        return cls(**own | {"linear": LinearHeads.of_arrays(parts)})
