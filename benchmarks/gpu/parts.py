"""What the first run does, in order of worth: commands, limits in seconds, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OUT = "{out}"  # in arguments and variables: the part's folder, whose JSON goes into the results
QUICK_LIMIT = 600  # seconds of a part on a CPU, which others may be using: after that it is stuck


@dataclass(frozen=True)
class Command:
    """Arguments of Python, and variables of its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


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
    commands: tuple[Command, ...]
    quick: tuple[Command, ...]


def _command(line: str, *more: str, **environment: str) -> Command:
    """`more` are arguments with spaces in them."""
    return Command((*line.split(), *more), environment)


PYTEST = "-m pytest -p no:cacheprovider"
HEAD = "benchmarks/run.py --suites linear_token_logps"
ON_GPU, ON_CPU = "--device cuda", "--device cpu --quick --threads 1 --without-memory"
CASE = "Qwen2.5-1.5B, UltraFeedback"
LIGER = "Liger fused DPO"
TUNE = "-m benchmarks.linear_token_logps.tune"

ALONE = "tests/kernels/test_linear_token_logps_on_a_gpu.py"  # its times and waits are not those of a crowded GPU
COMPILED = "tests/kernels/test_ahead_of_time.py"  # needs no GPU

PARTS = (
    Part(
        "kernels",
        "tests of the kernels",
        90,
        "tests.txt",
        (_command(f"{PYTEST} -v tests/kernels -n 8 --maxfail=25 --ignore {ALONE} --ignore {COMPILED}"),),
        (
            _command(f"{PYTEST} -q tests/kernels/test_index_sums.py tests/kernels/test_wide_products.py"),
            _command(f"{PYTEST} -q --collect-only tests/kernels --ignore {ALONE} --ignore {COMPILED}"),
        ),
    ),
    Part(
        "alone",
        "tests of the kernels that want the GPU to themselves: real size, streams, graphs, memory",
        25,
        "tests.txt",
        (_command(f"{PYTEST} -v {ALONE}"),),
        (_command(f"{PYTEST} -q --collect-only {ALONE}"),),
    ),
    Part(
        "probe",
        "what the cost model of the head assumes",
        45,
        "probe.txt",
        (_command(f"-m benchmarks.gpu.probe {ON_GPU} --out {OUT}"),),
        (_command(f"-m benchmarks.gpu.probe --device cpu --out {OUT}", TRITON_INTERPRET="1"),),
    ),
    Part(
        "head",
        "hidden states to loss and gradients, against all peers but Liger; logits to log-probs",
        90,
        "head.txt",
        (
            _command(
                f"{HEAD} {ON_GPU} --shapes qwen3-8b-half qwen3-8b qwen2-1.5b --peers trl cce --rounds 6 --seconds 50 "
                f"--out {OUT}/head"
            ),
            _command(
                f"benchmarks/run.py {ON_GPU} --suites token_logps --shapes 8192x151936 --peers --rounds 6 "
                f"--seconds 10 --out {OUT}/logits"
            ),
        ),
        (_command(f"benchmarks/run.py {ON_CPU} --suites linear_token_logps token_logps --peers --out {OUT}/head"),),
    ),
    Part(
        "tuned",
        "the operator's settings tuned, and the head once more with them",
        70,
        "tuned.txt",
        (
            _command(f"{TUNE} {ON_GPU} --shapes qwen3-8b qwen2-1.5b --seconds 30 --out {OUT}/tiling.json"),
            _command(
                f"{HEAD} {ON_GPU} --shapes qwen3-8b qwen2-1.5b --peers --rounds 6 --seconds 20 --out {OUT}/head "
                "--variants ours",
                "ours, recomputed",
                IWPO_TILING_TABLE=f"{OUT}/tiling.json",
            ),
        ),
        (
            _command(f"{TUNE} --device cpu --quick --seconds 3 --out {OUT}/tiling.json"),
            _command(
                f"{HEAD} {ON_CPU} --peers --out {OUT}/head --variants ours",
                "ours, recomputed",
                IWPO_TILING_TABLE=f"{OUT}/tiling.json",
            ),
        ),
    ),
    Part(
        "models",
        "tests of attention, models and of a training loop that does not wait for the GPU",
        40,
        "tests.txt",
        (_command(f"{PYTEST} -v -n 8 -m gpu --maxfail=25 tests/models tests/training/test_no_waiting.py"),),
        (
            _command(f"{PYTEST} -q tests/models/attention/test_choice.py tests/models/test_padding.py"),
            _command(f"{PYTEST} -q --collect-only -m gpu tests/models tests/training/test_no_waiting.py"),
        ),
    ),
    Part(
        "training",
        "training steps against TRL's and plain PyTorch's",
        85,
        "training.txt",
        (
            _command(
                f"-m benchmarks.training {ON_GPU} --parts cases --peers trl plain --rounds 3 --seconds 50 --out {OUT} "
                "--cases",
                CASE,
            ),
        ),
        (
            _command(
                f"-m benchmarks.training --quick --device cpu --threads 1 --parts cases --peers plain --rounds 1 "
                f"--out {OUT} --cases smoke"
            ),
        ),
    ),
    Part(
        "liger",
        "the head against Liger, which compiles for long",
        60,
        "head.txt",
        tuple(
            _command(
                f"{HEAD} {ON_GPU} --shapes qwen3-8b-half --peers liger --rounds 5 --seconds 20 --out {OUT}/{name} "
                "--variants",
                f"ours [{mode}]",
                f"{LIGER} [{mode}]",
            )
            for name, mode in (("frozen", "frozen head"), ("trainable", "trainable head"))
        ),
        (
            _command(
                f"{HEAD} {ON_CPU} --peers liger --out {OUT}/frozen --variants",
                "ours [frozen head]",
                f"{LIGER} [frozen head]",
            ),
        ),
    ),
    Part(
        "kmeans",
        "cuML and flash-kmeans against scikit-learn",
        15,
        "kmeans.txt",
        (_command(f"-m benchmarks.gpu.kmeans --points 20000 --features 256 --out {OUT}"),),
        (_command(f"-m benchmarks.gpu.kmeans --points 500 --features 8 --out {OUT}"),),
    ),
)
