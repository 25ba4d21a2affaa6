"""Code that calls Liger's fused DPO loss gets this library's."""

from __future__ import annotations

import pytest

from iwpo_kernels import PaddedLinearPreferenceLoss

liger = pytest.importorskip("liger_kernel.chunked_loss")


def test_the_patched_name_is_this_librarys_loss_until_it_is_given_back() -> None:
    from iwpo_fast.integrations.liger import patch_liger, unpatch_liger

    before = liger.LigerFusedLinearDPOLoss
    patch_liger()
    patch_liger()  # once more changes nothing
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss
        from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOLoss as Defined

        assert LigerFusedLinearDPOLoss is Defined is PaddedLinearPreferenceLoss
        assert LigerFusedLinearDPOLoss(beta=0.2, chunk_size=1, compiled=True).beta == 0.2
    finally:
        unpatch_liger()
    unpatch_liger()
    assert liger.LigerFusedLinearDPOLoss is before
    assert liger.dpo_loss.LigerFusedLinearDPOLoss is before
