"""What the cost model of the head assumes, measured: bandwidth, rates of products, the row kernel, the whole operator.

python -m benchmarks.gpu.probe --device cuda --out FOLDER   # about half a minute

On a CPU everything runs once at tiny size, to see that it works; set TRITON_INTERPRET=1 there. Numbers are written
after every section.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.operators import HEAD_START
from iwpo_kernels import linear_token_logps
from iwpo_kernels.launch import launch_options
from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.epilogue import serves, stream_slice
from iwpo_kernels.linear_token_logps.types import Head
from iwpo_kernels.wide_products import mm_fp32

BF16, F32 = torch.bfloat16, torch.float32
GB, TERA = 1e9, 1e12
WARM_UP_MS, TIMED_MS = 10, 40
SHOWN_KERNELS = 14
SECTIONS = ("device", "products", "row_kernel", "epilogue", "operator")


class OnGpu:
    """Sizes of what is measured."""

    copied = 1 << 30  # bytes
    square = 8192  # side of the product that says what the device can do
    vocab, tokens = 151936, 8192
    hidden: tuple[int, ...] = (4096, 1536, 896)  # the first is that of the row kernel and the operator
    rows: tuple[int, ...] = (1024, 2048, 4096, 8192)  # of slices
    widths: tuple[int, ...] = (4224, 8448, 13824, 16896, 33792)
    largest = 1 << 28  # elements of a slice; larger ones are left out
    slice_rows, slice_width = 2048, 16896  # at which the row kernel is timed
    blocks: tuple[tuple[int, int], ...] = ((4, 1024), (8, 1024), (8, 2048), (8, 4096))  # its warps and columns


class OnCpu(OnGpu):
    copied, square, vocab, tokens = 1 << 20, 64, 96, 16
    hidden, rows, widths, largest = (32, 16), (8, 16), (16, 48), 16 * 32
    slice_rows, slice_width, blocks = 3, 40, ((4, 16), (8, 32))


class Probe:
    """Measures, one section after the other, on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sizes = OnGpu if device.type == "cuda" else OnCpu

    def sections(self) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
        """What makes each section's numbers; rows of one name may come in several parts."""
        return {
            "device": self.whole_device,
            "products": self.all_products,
            "row_kernel": lambda: iter([{"slice_kernel": list(self.slice_kernel())}]),
            "epilogue": self.all_epilogues,
            "operator": lambda: ({"operator": [self.operator(trains)]} for trains in (False, True)),
        }

    def whole_device(self) -> Iterator[dict[str, Any]]:
        yield {"wide_output": {str(t).removeprefix("torch."): self.has_wide_output(t) for t in (BF16, torch.float16)}}
        yield {"accumulation": self.accumulation()}
        yield {"copy_tb_s": self.copy()}
        yield {"square_tflops": self.square_product()}

    def all_products(self) -> Iterator[dict[str, Any]]:
        for hidden in self.sizes.hidden:
            weight = self.random(self.sizes.vocab, hidden)
            yield {"products": self.products(weight), "head_gradient": [self.head_gradient(weight)]}
            del weight

    def all_epilogues(self) -> Iterator[dict[str, Any]]:
        yield {"epilogue": [self.epilogue(hidden, masses) for hidden in self.sizes.hidden for masses in (False, True)]}

    def random(self, *shape: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)

    def empty(self, *shape: int, dtype: torch.dtype = F32) -> Tensor:
        return torch.empty(*shape, device=self.device, dtype=dtype)

    def seconds(self, call: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            from triton.testing import do_bench

            return 1e-3 * do_bench(call, warmup=WARM_UP_MS, rep=TIMED_MS, return_mode="median")
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def rate(self, operations: float, call: Callable[[], object]) -> float | None:
        """TFLOP/s, or None where the device has no such product."""
        try:
            return operations / TERA / self.seconds(call)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return None

    def has_wide_output(self, dtype: torch.dtype) -> bool:
        """Whether 16-bit operands have a product of 32 bits."""
        operand = self.random(16, 16, dtype=dtype)
        return self.rate(1, lambda: torch.mm(operand, operand, out_dtype=F32)) is not None

    def accumulation(self) -> dict[str, float | str]:
        """Relative error of each call that adds a product to what is there, or why there is none."""
        e, w, before = self.random(256, 512), self.random(512, 384), self.random(256, 384, dtype=F32)
        wanted = before.double() + e.double() @ w.double()
        errors: dict[str, float | str] = {}
        for name, call in (
            ("addmm", lambda acc: torch.addmm(acc, e, w, out_dtype=F32, out=acc)),
            ("baddbmm", lambda acc: torch.baddbmm(acc[None], e[None], w[None], out_dtype=F32, out=acc[None])),
        ):
            acc = before.clone()
            try:
                call(acc)
            except (RuntimeError, TypeError) as error:
                errors[name] = str(error).splitlines()[0][:200]
            else:
                errors[name] = float((acc - wanted).norm() / wanted.norm())
        return errors

    def copy(self) -> float:
        """TB/s, bytes read and written."""
        source = self.empty(self.sizes.copied, dtype=torch.uint8).random_()
        target = torch.empty_like(source)
        return 2 * self.sizes.copied / TERA / self.seconds(lambda: target.copy_(source))

    def square_product(self) -> float:
        side = self.sizes.square
        a, b = self.random(side, side), self.random(side, side)
        return 2 * side**3 / TERA / self.seconds(lambda: a @ b)

    def products(self, weight: Tensor) -> list[dict[str, Any]]:
        """TFLOP/s at slice shapes: logits and E W as bfloat16, as float32, and E W added in place."""
        hidden, measured = weight.shape[1], []
        for rows in self.sizes.rows:
            x, acc = self.random(rows, hidden), self.empty(rows, hidden).zero_()
            for width in self.sizes.widths:
                if rows * width > self.sizes.largest:
                    continue
                w, e, z = weight[:width], self.random(rows, width), self.empty(rows, width)
                calls = {
                    "z_bf16": lambda x=x, w=w: torch.mm(x, w.t()),
                    "z_fp32": lambda x=x, w=w, z=z: torch.mm(x, w.t(), out_dtype=F32, out=z),
                    "ew_bf16": lambda e=e, w=w: torch.mm(e, w),
                    "ew_fp32": lambda e=e, w=w: torch.mm(e, w, out_dtype=F32),
                    "ew_in_place": lambda e=e, w=w, acc=acc: torch.addmm(acc, e, w, out_dtype=F32, out=acc),
                }
                rates = {name: self.rate(2.0 * rows * width * hidden, call) for name, call in calls.items()}
                measured.append({"hidden": hidden, "rows": rows, "width": width} | rates)
        return measured

    def head_gradient(self, weight: Tensor) -> dict[str, Any]:
        """TFLOP/s of Eᵀ X [V, H] rounded to bfloat16, in one product and in two halves."""
        (vocab, hidden), tokens = weight.shape, self.sizes.tokens
        x, e, grad = self.random(tokens, hidden), self.random(tokens, vocab), self.empty(vocab, hidden, dtype=BF16)

        def in_halves() -> None:
            for part in (slice(vocab // 2), slice(vocab // 2, vocab)):
                torch.mm(e[:, part].t(), x, out=grad[part])

        operations = 2.0 * tokens * vocab * hidden
        in_one = self.rate(operations, lambda: torch.mm(e.t(), x, out=grad))
        return {"hidden": hidden, "whole": in_one, "in_halves": self.rate(operations, in_halves)}

    def slice_kernel(self) -> Iterator[dict[str, Any]]:
        """GB/s of what it must move: logits read, exponentials written."""
        rows, width = self.sizes.slice_rows, self.sizes.slice_width
        z, e = self.random(rows, width, dtype=F32), self.empty(rows, width, dtype=BF16)
        labels = torch.randint(width, (rows,), device=self.device)
        for masses in (False, True):
            for warps, block in self.sizes.blocks:
                call = self._row_kernel(z, e if masses else None, labels, warps, block)
                moved = rows * width * (6 if masses else 4)
                rate = moved / GB / self.seconds(call)
                yield {"masses": masses, "warps": warps, "block": block, "gb_s": rate}

    def _row_kernel(self, z: Tensor, e: Tensor | None, labels: Tensor, warps: int, block: int) -> Callable[[], None]:
        """A call of it on logits [rows, width], of a whole vocabulary."""
        (rows, width), state = z.shape, self._state(len(z))

        def call() -> None:
            kernels.slice_kernel[(rows,)](
                z,
                z if e is None else e,
                labels,
                state,
                width,
                0 if e is None else width,
                rows,
                0,
                width,
                0,
                1.0,
                0.0,
                kernels.slack(BF16),
                SOFTCAP=False,
                MASSES=e is not None,
                STATS=False,
                BLOCK=block,
                **launch_options(warps, kernels.REGISTERS),
            )

        return call

    def epilogue(self, hidden: int, masses: bool) -> dict[str, Any]:
        """Milliseconds of one slice, exponentials made in the product's epilogue or by the row kernel after it."""
        rows, width = self.sizes.slice_rows, self.sizes.slice_width
        x, weight = self.random(rows, hidden), self.random(width, hidden) / hidden**0.5
        head = Head(weight, None, None, 1.0, 1.0)
        case: dict[str, Any] = {"hidden": hidden, "masses": masses}
        if not serves(x, weight, None, False, False):
            return case | {"epilogue_ms": None, "apart_ms": None}
        labels = torch.randint(width, (rows,), device=self.device)
        e = self.empty(rows, width, dtype=BF16) if masses else None
        z, state = self.empty(rows, width), self._state(rows)
        row_kernel = self._row_kernel(z, e, labels, kernels.SLICE_WARPS, kernels.SLICE_BLOCK)

        def apart() -> None:
            mm_fp32(x, weight.t(), out=z)
            row_kernel()

        def together() -> None:
            stream_slice(x, weight, labels, state, 1, e, head)

        return case | {"epilogue_ms": 1e3 * self.seconds(together), "apart_ms": 1e3 * self.seconds(apart)}

    def _state(self, rows: int) -> Tensor:
        """Of rows that have seen no slice."""
        state = self.empty(kernels.PLANES, rows).zero_()
        state[kernels.M.value] = state[kernels.TOP.value] = -torch.inf
        state[kernels.LABEL_Z.value] = torch.nan
        return state

    def operator(self, trains: bool) -> dict[str, Any]:
        """Log-probs and gradients as in training: time, launches, and whether the host waits."""
        tokens, vocab, hidden = self.sizes.tokens, self.sizes.vocab, self.sizes.hidden[0]
        x = self.random(tokens, hidden).requires_grad_()
        weight = (self.random(vocab, hidden) * (2 / hidden**0.5)).requires_grad_(trains)
        labels, upstream = torch.randint(vocab, (tokens,), device=self.device), self.random(tokens, dtype=F32)

        def call() -> None:
            logps = linear_token_logps(x, weight, labels, all_served=True)
            torch.autograd.grad(logps, (x, weight) if trains else (x,), upstream)

        call()
        mode = "trainable head" if trains else "frozen head"
        wait = self._wait(call)
        launches, timeline, table = self._profile(call)
        print(f"\n{mode}\n{table}")
        times = {"ms": 1e3 * self.seconds(call), "host_ms": 1e3 * self._host_seconds(call)}
        return {"mode": mode} | times | {"launches": launches, "wait": wait} | timeline

    def _wait(self, call: Callable[[], None]) -> str | None:
        """Why the host waits for the device, if it does."""
        if self.device.type != "cuda":
            call()
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            return str(error).splitlines()[0][:200]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return None

    def _host_seconds(self, call: Callable[[], None]) -> float:
        """Until the call returns, while the device is busy with something else."""
        samples = []
        for _ in range(5):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
                torch.cuda._sleep(HEAD_START)
            begin = time.perf_counter()
            call()
            samples.append(time.perf_counter() - begin)
        return median(samples)

    def _profile(self, call: Callable[[], None]) -> tuple[int, dict[str, float], str]:
        """Launches (operators, on a CPU), what a GPU did between them, and the table of the longest."""
        on_gpu = self.device.type == "cuda"
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if on_gpu else [])]) as profiler:
            if on_gpu:
                torch.cuda._sleep(HEAD_START)
            call()
            if on_gpu:
                torch.cuda.synchronize(self.device)
        kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
        events = [event for event in profiler.events() if event.device_type == kind]
        spans = sorted((event.time_range.start, event.time_range.end) for event in events)
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(spans[1:])]  # the first is the wait for the host
        timeline = {"busy_ms": 1e-3 * sum(end - start for start, end in spans[1:]), "idle_ms": 1e-3 * sum(gaps)}
        if gaps:
            timeline |= {"gap_us": median(gaps), "largest_gap_us": max(gaps)}
        by = "device_time_total" if on_gpu else "cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=SHOWN_KERNELS, max_name_column_width=60)
        return len(events), timeline if on_gpu else {}, table


def lines_of(section: dict[str, Any]) -> Iterator[str]:
    for name, value in section.items():
        rows = value if isinstance(value, list) else [value]
        for row in rows:
            fields = row.items() if isinstance(row, dict) else [("", row)]
            yield f"{name}: " + "  ".join(f"{key} {_number(field)}".strip() for key, field in fields)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    options = parser.parse_args(argv)
    device = torch.empty(0, device=options.device).device
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, triton {triton.__version__}, python {sys.version.split()[0]}, {name}")
    numbers: dict[str, Any] = {}
    sections = Probe(device).sections()
    for name in options.sections:
        for part in sections[name]():
            for key, value in part.items():
                numbers[key] = numbers.get(key, []) + value if isinstance(value, list) else value
            print(*lines_of(part), sep="\n", flush=True)
            (options.out / "probe.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
