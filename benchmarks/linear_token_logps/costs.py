"""The kernels of one call of the operator on a GPU, with what each moves: `gpu.py` and `gpu_head_gradient.py` on paper.

Numbers of 16 bits, and of float32 where sums grow. Tiles are those that the operator chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.linear_token_logps.gpus import Gpu
from benchmarks.linear_token_logps.ledger import EXPONENTIALS, HEAD, RESULTS, SUMS, Ledger
from iwpo_kernels.linear_token_logps.gpu import forward_work
from iwpo_kernels.linear_token_logps.gpu_head_gradient import gradient_work
from iwpo_kernels.linear_token_logps.tiling import Tiling, Work, tiling_on
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Mode, Tuned
from iwpo_kernels.linear_token_logps.types import Head as LinearHead

WORKSPACE_MB = 256
SHOWN = 1 / 3  # of the traffic of sums that grow in a product's output: the rest hides behind its multiply-adds
SORT = 12  # kernels of a stable sort of some thousand 64-bit integers, eight bits at a time
EPILOGUE_INSTRUCTIONS = {False: 10, True: 14}  # an element of a product, without and with an exponential to write


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        tokens: N, that have a label.
        gathered: hidden states come with an index, as where prompts stand between them; else they are in order.
        element_size: bytes of a number of hidden states and head. The costs are those of 2.
    """

    tokens: int
    features: int
    vocab: int
    mode: Mode
    gathered: bool = False
    element_size: int = 2

    @property
    def makes_jacobian(self) -> bool:
        return self.mode != "no gradient"

    @property
    def element_bytes(self) -> int:
        """Of hidden states or results [N, H], in 16 bits."""
        return 2 * self.tokens * self.features

    def forward_work(self, epilogue: bool = False) -> Work:
        """Args: epilogue: whether the product makes its exponentials itself, so that logits are never written."""
        mode: Mode = "frozen" if self.mode == "recomputed" else self.mode
        return forward_work(self.tokens, self.vocab, self.features, self.element_size, mode, True, epilogue)

    @property
    def gradient_work(self) -> Work:
        """Of the head's gradient where exponentials are recomputed."""
        weight = torch.empty(self.vocab, self.features, device="meta", dtype=torch.bfloat16)
        head = LinearHead(weight, None, None, 1.0, 1.0)
        dtype = torch.float32 if self.element_size == 4 else torch.bfloat16
        return gradient_work(self.tokens, head, dtype, saved=False)


def costs(
    case: Case,
    gpu: Gpu,
    *,
    workspace_mb: int = WORKSPACE_MB,
    settings: Tuned = DEFAULTS,
    main_loop: float | None = None,
) -> Ledger:
    """Of a call and, except for "no gradient", its backward pass.

    Args:
        main_loop: rate of a product that makes its exponentials itself over that of cuBLAS, where there is one. Its
            instructions overlap with nothing.
    """
    ledger = Ledger(gpu)
    work = case.forward_work(epilogue=main_loop is not None)
    _forward(case, ledger, tiling_on(gpu.multiprocessors, work, workspace_mb, settings), main_loop)
    if case.makes_jacobian:
        _hidden_gradient(case, ledger)
    if case.mode == "saved":
        _saved_gradient(case, ledger)
    elif case.mode == "recomputed":
        _recomputed_gradient(case, ledger, tiling_on(gpu.multiprocessors, case.gradient_work, workspace_mb, settings))
    return ledger


def _forward(case: Case, ledger: Ledger, tiling: Tiling, main_loop: float | None) -> None:
    features = case.features
    ledger.tiles.append(f"{tiling.rows} × {tiling.width}")
    for start, end in tiling.row_ranges(case.tokens):
        rows = end - start
        ledger.small(3)  # the first state
        if case.gathered:
            ledger.passes(RESULTS, 4 * rows * features)
        for first, last in tiling.slices(case.vocab):
            width = last - first
            if main_loop is None:
                ledger.product(rows, width, features)
                ledger.pass_of_slice(EXPONENTIALS, rows * width * (4 + (2 if case.makes_jacobian else 0)))
            else:
                instructions = EPILOGUE_INSTRUCTIONS[case.makes_jacobian]
                ledger.fused(rows, width, features, main_loop, instructions)
            if case.makes_jacobian:
                if first > 0:
                    ledger.pass_of_slice(SUMS, SHOWN * 8 * rows * features)  # and a factor that is 1, looked at
                ledger.product(rows, features, width)
        # Sums and labels' columns of the head, into ∂logp/∂hidden in float32.
        ledger.passes(RESULTS, (4 + 2 + 4) * rows * features if case.makes_jacobian else 0)


def _hidden_gradient(case: Case, ledger: Ledger) -> None:
    ledger.small(2)  # labels of -100
    if case.gathered:
        ledger.passes(RESULTS, 3 * case.element_bytes, SORT + 3)
    else:
        ledger.passes(RESULTS, (3 + 2) * case.element_bytes, 3)  # factors, and zeros where there are none


def _saved_gradient(case: Case, ledger: Ledger) -> None:
    _pulls_and_pushes(case, ledger)
    ledger.passes(HEAD, 2 * case.element_bytes, 2)  # hidden states times their pulls
    ledger.product(case.vocab, case.features, case.tokens)


def _recomputed_gradient(case: Case, ledger: Ledger, tiling: Tiling) -> None:
    _pulls_and_pushes(case, ledger)
    ledger.tiles.append(f"{tiling.rows} × {tiling.width}")
    for first, last in tiling.slices(case.vocab):
        ledger.product(case.tokens, last - first, case.features)
        ledger.pass_of_slice(HEAD, 6 * case.tokens * (last - first))
        ledger.product(last - first, case.features, case.tokens)


def _pulls_and_pushes(case: Case, ledger: Ledger) -> None:
    """What every gradient of the head needs: hidden states without idle rows, and pushes onto the labels' columns."""
    ledger.small(7)  # coefficients
    if case.gathered:
        ledger.passes(HEAD, 2 * case.element_bytes)
    ledger.passes(HEAD, 4 * case.element_bytes, 2)
    ledger.passes(HEAD, 3 * case.element_bytes, SORT + 1)
