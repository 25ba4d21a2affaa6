"""What GPUs can do, by the data sheets of their makers."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One kind of GPU. All numbers are nominal; no run reaches them.

    Attributes:
        words: what it is called.
        memory: bytes.
        flops: FLOP/s of dense bfloat16 products with float32 sums.
        bandwidth: bytes/s of its memory.
        link: bytes/s that it receives from the GPUs of its machine.
    """

    words: str
    memory: float
    flops: float
    bandwidth: float
    link: float


# NVIDIA: data sheets of A100 80GB, H100, H200, HGX B200 and L40S at nvidia.com, whose bfloat16 numbers with sparsity
# are halved here. AMD: data sheet of Instinct MI300X at amd.com. A link is one direction of NVLink (300, 450 and
# 900 GB/s), of Infinity Fabric (7 links of 64 GB/s), or of PCIe 4.0 x16 (L40S).
GPUS = {
    "a100": Gpu("A100 SXM, 80 GB", 80e9, 312e12, 2.039e12, 300e9),
    "h100": Gpu("H100 SXM, 80 GB", 80e9, 989e12, 3.35e12, 450e9),
    "h200": Gpu("H200 SXM, 141 GB", 141e9, 989e12, 4.8e12, 450e9),
    "b200": Gpu("B200 SXM, 180 GB", 180e9, 2250e12, 7.7e12, 900e9),
    "l40s": Gpu("L40S, 48 GB", 48e9, 362e12, 0.864e12, 32e9),
    "mi300x": Gpu("MI300X, 192 GB", 192e9, 1307e12, 5.3e12, 448e9),
}
"""By the names that `PlanConfig.on` takes."""
