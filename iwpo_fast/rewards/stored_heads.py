"""What heads of all kinds share: how many there are, and the arrays that a file keeps of them."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray


class StoredHeads:
    """Heads whose fields are arrays, with a slope for each member in every fold.

    Attributes:
        slope: [folds, members] fp64.
    """

    slope: NDArray[np.float64]

    @property
    def folds(self) -> int:
        return self.slope.shape[0]

    @property
    def members(self) -> int:
        return self.slope.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps of them."""
        return dict(vars(self))

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """From what `arrays` gave."""
        return cls(**arrays)
