"""What importing the operators costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from iwpo_kernels.linear_token_logps.saving import constant_when_compiled


@pytest.mark.slow
def test_nobody_pays_for_a_compiler_that_was_not_asked_for() -> None:
    """`torch._dynamo` takes two seconds."""
    code = "import sys, iwpo_kernels; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constants_are_marked_as_torch_marks_them() -> None:
    def ours() -> int:
        return 0

    def theirs() -> int:
        return 0

    assert vars(constant_when_compiled(ours)) == vars(torch.compiler.assume_constant_result(theirs))
