"""What the first run does, in order of worth: commands, limits in seconds, files.

A command is what would stand behind `python` in a shell, with variables of its environment before it.
"""

from __future__ import annotations

from dataclasses import dataclass

OUT = "{out}"  # in commands: the part's folder, whose JSON goes into the results
QUICK_LIMIT = 600  # seconds of a part on a CPU, which others may be using: after that it is stuck


@dataclass(frozen=True)
class Part:
    """
    Attributes:
        limit: seconds on a GPU; what runs longer is killed.
        file: of the output; parts may share one.
        commands: one after the other, as long as they succeed.
        quick: the same at tiny size on a CPU.
    """

    name: str
    what: str
    limit: int
    file: str
    commands: tuple[str, ...]
    quick: tuple[str, ...]


PYTEST = "-m pytest -p no:cacheprovider -p benchmarks.gpu.failures_at_once"
TABLE = "-m benchmarks"
HEAD = f"{TABLE} --suites linear_token_logps"
ON_GPU, ON_CPU = "--device cuda", "--device cpu --quick --threads 1 --without-memory"
TUNE = "-m benchmarks.linear_token_logps.tune"
TUNED = f"IWPO_TILING_TABLE={OUT}/tiling.json"

ALONE = "tests/kernels/test_linear_token_logps_on_a_gpu.py"  # its times and waits are not those of a crowded GPU
COMPILED = "tests/kernels/test_ahead_of_time.py"  # needs no GPU


def _liger(mode: str) -> str:
    return f"--variants 'ours [{mode}]' 'Liger fused DPO [{mode}]'"


PARTS = (
    Part(
        "kernels",
        "tests of the kernels",
        100,
        "tests.txt",
        (f"{PYTEST} -v tests/kernels -n 12 --maxfail=25 --ignore {ALONE} --ignore {COMPILED}",),
        (
            f"{PYTEST} -q tests/kernels/test_index_sums.py tests/kernels/test_wide_products.py",
            f"{PYTEST} -q --collect-only tests/kernels --ignore {ALONE} --ignore {COMPILED}",
        ),
    ),
    Part(
        "alone",
        "tests of the kernels that want the GPU to themselves: real size, streams, graphs, memory",
        40,
        "tests.txt",
        (f"{PYTEST} -v {ALONE}",),
        (f"{PYTEST} -q --collect-only {ALONE}",),
    ),
    Part(
        "probe",
        "what the cost model of the head assumes",
        40,
        "probe.txt",
        (f"-m benchmarks.gpu.probe {ON_GPU} --out {OUT}",),
        (f"TRITON_INTERPRET=1 -m benchmarks.gpu.probe --device cpu --out {OUT}",),
    ),
    Part(
        "head",
        "hidden states to loss and gradients, against all peers but Liger; logits to log-probs",
        90,
        "head.txt",
        (
            f"{HEAD} {ON_GPU} --shapes qwen3-8b-half qwen3-8b qwen2-1.5b --peers trl cce --rounds 6 --seconds 50 "
            f"--out {OUT}/head",
            f"{TABLE} {ON_GPU} --suites token_logps --shapes 8192x151936 --peers --rounds 6 --seconds 10 "
            f"--out {OUT}/logits",
        ),
        (f"{TABLE} {ON_CPU} --suites linear_token_logps token_logps --peers --out {OUT}/head",),
    ),
    Part(
        "tuned",
        "the operator's settings tuned, and the head once more with them",
        65,
        "tuned.txt",
        (
            f"{TUNE} {ON_GPU} --shapes qwen3-8b qwen2-1.5b --seconds 30 --out {OUT}/tiling.json",
            f"{TUNED} {HEAD} {ON_GPU} --shapes qwen3-8b qwen2-1.5b --peers --rounds 6 --seconds 20 "
            f"--out {OUT}/head --variants ours 'ours, recomputed'",
        ),
        (
            f"{TUNE} --device cpu --quick --seconds 3 --out {OUT}/tiling.json",
            f"{TUNED} {HEAD} {ON_CPU} --peers --out {OUT}/head --variants ours 'ours, recomputed'",
        ),
    ),
    Part(
        "models",
        "tests of attention, models and of a training loop that does not wait for the GPU",
        65,
        "tests.txt",
        (f"{PYTEST} -v -n 12 -m gpu --maxfail=25 tests/models tests/training/test_no_waiting.py",),
        (
            f"{PYTEST} -q tests/models/attention/test_choice.py tests/models/test_padding.py",
            f"{PYTEST} -q --collect-only -m gpu tests/models tests/training/test_no_waiting.py",
        ),
    ),
    Part(
        "training",
        "training steps against TRL's and plain PyTorch's",
        90,
        "training.txt",
        (
            f"-m benchmarks.training {ON_GPU} --parts cases --peers trl plain --rounds 3 --seconds 50 --out {OUT} "
            "--cases 'Qwen2.5-1.5B, UltraFeedback'",
        ),
        (
            f"-m benchmarks.training --quick --device cpu --threads 1 --parts cases --peers plain --rounds 1 "
            f"--out {OUT} --cases smoke",
        ),
    ),
    Part(
        "liger",
        "the head against Liger, which compiles for long",
        35,
        "head.txt",
        (
            f"{HEAD} {ON_GPU} --shapes qwen3-8b-half --peers liger --rounds 5 --seconds 15 --without-memory "
            f"--out {OUT}/frozen {_liger('frozen head')}",
        ),
        (f"{HEAD} {ON_CPU} --peers liger --out {OUT}/frozen {_liger('frozen head')}",),
    ),
    Part(
        "kmeans",
        "cuML and flash-kmeans against scikit-learn",
        15,
        "kmeans.txt",
        (f"-m benchmarks.gpu.kmeans --points 20000 --features 256 --out {OUT}",),
        (f"-m benchmarks.gpu.kmeans --points 500 --features 8 --out {OUT}",),
    ),
)
