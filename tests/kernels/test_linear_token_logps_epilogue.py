"""Exponentials in the epilogue of the product, against float64 and against the row kernel that they replace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import linear_cases
import pytest
import torch
import triton
import triton.language as tl
from linear_cases import LOGP_TOLERANCE, REGIMES, assert_gradient_within, shrink_tiles
from torch import Tensor

from iwpo_kernels.linear_token_logps import (
    gpu,
    kernels,
    linear_token_logps,
    linear_token_statistics,
    naive_linear_token_logps,
)
from iwpo_kernels.linear_token_logps.epilogue import kernels as epilogue_kernels
from iwpo_kernels.linear_token_logps.epilogue import launch, pays, serves, stream_slice
from iwpo_kernels.linear_token_logps.epilogue.architecture import architecture
from iwpo_kernels.linear_token_logps.epilogue.tiles import TILES, Tile, tile_for
from iwpo_kernels.linear_token_logps.tuned import Mode, Tuned, device_name, using
from iwpo_kernels.linear_token_logps.types import Head
from iwpo_kernels.wide_products import mm_fp32

M, MASS, LABEL_Z, LABEL_SLOPE, FACTOR = (
    plane.value for plane in (kernels.M, kernels.MASS, kernels.LABEL_Z, kernels.LABEL_SLOPE, kernels.FACTOR)
)
WRITTEN = [M, MASS, LABEL_Z, LABEL_SLOPE, FACTOR]
UNTOUCHED = [plane for plane in range(kernels.PLANES) if plane not in WRITTEN]
POINTERS = Tile(16, 64, 16, warps=4, stages=2)
DESCRIPTORS = replace(POINTERS, pieces=2, descriptors=True)
ROWS, FEATURES = 17, 21  # neither a multiple of the tiles
SLICES = ((0, 64), (64, 141), (141, 150))
WHOLE = ((0, 150),)
DTYPES = [
    torch.float32,
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="Triton's interpreter multiplies bfloat16 matrices wrongly"
        ),
    ),
]
FLOOR = 4 * torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def small_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """References come from a part of the first slice."""
    monkeypatch.setattr(launch, "SEED_COLUMNS", 20)


THE_GPUS = pytest.param("those of the GPU", marks=pytest.mark.gpu)
every_tile = pytest.mark.parametrize("tile", ["pointers", "descriptors", THE_GPUS], indirect=True)


@pytest.fixture(params=["descriptors", THE_GPUS], autouse=True)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "those of the GPU":
        chosen = POINTERS if request.param == "pointers" else DESCRIPTORS
        monkeypatch.setattr(launch, "tile_for", lambda architecture, dtype: chosen)
    elif architecture(torch.device("cuda")) not in TILES:
        pytest.skip("no tiles for this GPU")


@dataclass(frozen=True, eq=False)
class Case:
    """Rows of matrices are padded to whole 64 bytes, so that they start aligned whatever their length.

    Attributes:
        x: [R, H].
        weight: [V, H].
        labels: [R].
        slices: of the vocabulary.
    """

    x: Tensor
    weight: Tensor
    labels: Tensor
    slices: tuple[tuple[int, int], ...] = SLICES
    softcap: float | None = None
    scale: float = 1.0

    @property
    def head(self) -> Head:
        return Head(self.weight, None, self.softcap, self.scale, 1.0)


@dataclass(frozen=True)
class Streamed:
    """After each slice: the state, and the masses that were written."""

    states: list[Tensor]
    masses: list[Tensor]

    @property
    def state(self) -> Tensor:
        return self.states[-1]

    @property
    def logsumexp(self) -> Tensor:
        return self.state[M].double() + self.state[MASS].double().log()


def padded(matrix: Tensor) -> Tensor:
    memory = matrix.new_zeros(matrix.shape[0], -(-matrix.shape[1] // 16) * 16)
    memory[:, : matrix.shape[1]] = matrix
    return memory[:, : matrix.shape[1]]


def random_case(device: torch.device, dtype: torch.dtype, **settings: Any) -> Case:
    """Logits of three standard deviations; the last label is in no slice."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    weight = torch.randn(150, FEATURES, generator=generator) * 3 / FEATURES**0.5
    labels = torch.randint(150, (ROWS,), generator=generator)
    labels[-1] = 150
    return Case(padded(x.to(device, dtype)), padded(weight.to(device, dtype)), labels.to(device), **settings)


def rising(case: Case, rows: slice = slice(None)) -> Case:
    """Each slice far above the one before, in some rows."""
    x, weight = padded(case.x), padded(case.weight)
    x[:, 0] = 0
    x[rows, 0] = 1
    for (first, last), lift in zip(case.slices, (0.0, 40.0, 90.0), strict=True):
        weight[first:last, 0] = lift
    return replace(case, x=x, weight=weight)


def short(case: Case) -> Case:
    return replace(case, x=case.x[:1], labels=case.labels[:1], slices=((0, 149), (149, 150)))


# Cases that nobody writes to, so that the row kernel, which is slow in the interpreter, runs once for all tiles.
shared_case = functools.cache(random_case)
shared_rising_case = functools.cache(lambda device, dtype: rising(random_case(device, dtype)))
shared_short_case = functools.cache(lambda device: short(random_case(device, torch.float32)))


def stream(case: Case, masses: bool, step: Callable[..., None] = stream_slice) -> Streamed:
    rows = len(case.x)
    state = torch.zeros(kernels.PLANES, rows, device=case.x.device)
    state[M] = -torch.inf
    state[LABEL_Z] = torch.nan
    state[UNTOUCHED] = 7.0
    done = Streamed([], [])
    for first, last in case.slices:
        out = padded(case.x.new_full((rows, last - first), torch.nan)) if masses else None
        step(case.x, case.weight[first:last], case.labels, state, first, out, case.head)
        done.states.append(state.clone())
        if out is not None:
            done.masses.append(out)
    return done


def row_kernel(
    x: Tensor, weight: Tensor, labels: Tensor, state: Tensor, first: int, masses: Tensor | None, head: Head
) -> None:
    """The same by a product of logits and a pass over them."""
    z = mm_fp32(x, weight.t())
    kernels.slice_kernel[(len(x),)](
        z,
        z if masses is None else masses,
        labels,
        state,
        z.stride(0),
        0 if masses is None else masses.stride(0),
        state.stride(0),
        first,
        z.shape[1],
        0,
        head.slope,
        head.ceiling or 0.0,
        kernels.slack(x.dtype),
        SOFTCAP=head.ceiling is not None,
        MASSES=masses is not None,
        STATS=False,
        BLOCK=256,
    )


def true_logits(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """float64 [R, V]: z, f', and which are not the label's."""
    z = case.head.slope * (case.x.double() @ case.weight.double().t())
    slope = torch.ones_like(z)
    if case.head.ceiling is not None:
        t = (z / case.head.ceiling).tanh()
        z, slope = case.head.ceiling * t, 1 - t.square()
    return z, slope, torch.arange(z.shape[1], device=z.device) != case.labels[:, None]


@functools.cache
def by_row_kernel(case: Case) -> Streamed:
    return stream(case, True, row_kernel)


def assert_close_to_truth(case: Case, masses: bool) -> Streamed:
    """Every error within twice that of the row kernel, or the resolution of float32."""
    ours, theirs = stream(case, masses), by_row_kernel(case)
    z, slope, counted = true_logits(case)
    logsumexp = z.masked_fill(~counted, -torch.inf).logsumexp(1)
    error, bound = ((done.logsumexp - logsumexp).abs() for done in (ours, theirs))
    floor = FLOOR * z.abs().amax(1).clamp(min=1)
    assert (error <= 2 * bound + floor).all(), (error - bound).max()

    inside = case.labels < z.shape[1]
    at = case.labels[inside, None]
    for plane, truth in ((LABEL_Z, z), (LABEL_SLOPE, slope)):
        label = truth[inside].gather(1, at)[:, 0]
        error, bound = ((done.state[plane, inside] - label).abs() for done in (ours, theirs))
        assert (error <= 2 * bound + floor[inside]).all(), plane
    assert ours.state[LABEL_Z, ~inside].isnan().all()
    assert (ours.state[UNTOUCHED] == 7).all()

    for i, (first, last) in enumerate(case.slices if masses else ()):
        true = (slope * counted * (z - logsumexp[:, None]).exp())[:, first:last]
        error, bound = (
            (done.masses[i].double() * (done.states[i][M].double() - logsumexp).exp()[:, None] - true).norm(dim=1)
            for done in (ours, theirs)
        )
        size = true.norm(dim=1)  # with m at the maximum, the row kernel may have no error where it matters
        assert (error <= 2 * bound + (floor + torch.finfo(case.x.dtype).eps / 2) * size).all(), (
            i,
            (error - bound).max(),
        )
    return ours


def assert_equal(ours: Streamed, expected: Streamed, rows: Tensor) -> None:
    for a, b in zip((*ours.states, *ours.masses), (*expected.states, *expected.masses), strict=True):
        per_row = (a.t(), b.t()) if a.shape == ours.state.shape else (a, b)
        torch.testing.assert_close(per_row[0][rows], per_row[1][rows], rtol=0, atol=0, equal_nan=True)


@every_tile
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("masses", "slices"), [(True, SLICES), (False, WHOLE)])
def test_slices_add_up(
    device: torch.device, dtype: torch.dtype, softcap: float | None, masses: bool, slices: tuple[tuple[int, int], ...]
) -> None:
    settings = {} if softcap is None else {"softcap": softcap, "scale": 0.7}
    assert_close_to_truth(shared_case(device, dtype, slices=slices, **settings), masses)


@every_tile
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masses", [True, False])
def test_references_move_where_logits_rise(device: torch.device, dtype: torch.dtype, masses: bool) -> None:
    done = assert_close_to_truth(shared_rising_case(device, dtype), masses)
    for before, after in zip(done.states, done.states[1:], strict=False):
        assert (after[M] > before[M] + kernels.slack(dtype)).all()
        torch.testing.assert_close(after[FACTOR], (before[M] - after[M]).exp())


@pytest.mark.parametrize("masses", [True, False])
def test_factor_is_one_where_the_reference_stays(device: torch.device, masses: bool) -> None:
    done = stream(random_case(device, torch.float32), masses)
    for before, after in zip(done.states, done.states[1:], strict=False):
        assert torch.equal(before[M], after[M])
    assert all((state[FACTOR] == 1).all() for state in done.states)


def test_rows_keep_their_bits_beside_rows_done_again(device: torch.device) -> None:
    case = random_case(device, torch.float32)
    calm = torch.arange(1, ROWS)
    assert_equal(stream(rising(case, slice(0, 1)), True), stream(rising(case, slice(0, 0)), True), calm)


@pytest.mark.parametrize("masses", [True, False])
def test_rows_that_are_not_finite_spoil_no_other(device: torch.device, masses: bool) -> None:
    case = random_case(device, torch.float32)
    clean = stream(case, masses)
    case.x[3, 5], case.x[7, 5] = torch.nan, torch.inf
    ours = stream(case, masses)
    assert ours.state[MASS, [3, 7]].isnan().all()
    assert_equal(ours, clean, torch.tensor([row for row in range(ROWS) if row not in (3, 7)]))
    assert all(out[[3, 7]].isfinite().all() for out in ours.masses)


@pytest.mark.parametrize("masses", [True, False])
def test_logits_of_minus_infinity_have_no_mass(device: torch.device, masses: bool) -> None:
    """All of the first slice and half of the second; a row without a reference gets one later."""
    case = random_case(device, torch.float32)
    case.x[:, 0] = 1
    case.weight[:100, 0] = -torch.inf
    done = stream(case, masses)
    assert (done.states[0][[M, MASS]] == torch.tensor([[-torch.inf], [0.0]], device=device)).all()
    assert all((out == 0).all() for out in done.masses[:1])
    finite = Case(case.x, case.weight[100:], case.labels - 100, ((0, 50),))
    z, _, counted = true_logits(finite)
    truth = z.masked_fill(~counted, -torch.inf).logsumexp(1)
    torch.testing.assert_close(done.logsumexp, truth, rtol=1e-6, atol=1e-6)


def test_logits_far_below_zero_have_mass(device: torch.device) -> None:
    """Beside pieces of nothing but −∞, whose reference is none."""
    case = random_case(device, torch.float32, slices=WHOLE)
    case.x[:, 0] = 1
    case.weight[:, 0] = -300
    case.weight[64:, 0] = -torch.inf
    z, _, counted = true_logits(case)
    truth = z.masked_fill(~counted, -torch.inf).logsumexp(1)
    for masses in (True, False):
        torch.testing.assert_close(stream(case, masses).logsumexp, truth, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("no_help_to_repeat")
@pytest.mark.parametrize("masses", [True, False])
def test_runs_repeat_bitwise(device: torch.device, masses: bool) -> None:
    case = rising(random_case(device, torch.float16), slice(0, 5))
    assert_equal(stream(case, masses), stream(case, masses), torch.arange(ROWS))


@pytest.mark.parametrize("masses", [True, False])
def test_one_token_and_one_column(device: torch.device, masses: bool) -> None:
    assert_close_to_truth(shared_short_case(device), masses)


@pytest.mark.parametrize("masses", [True, False])
def test_the_host_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, masses: bool) -> None:
    """Tensors without data have nothing that could be read back."""
    launched = []

    @dataclass(frozen=True)
    class Recorder:
        name: str

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **options: launched.append(self.name)

    for name in ("product_kernel", "seed_kernel", "settle_kernel"):
        monkeypatch.setattr(epilogue_kernels, name, Recorder(name))
    monkeypatch.setattr(launch, "tile_for", lambda architecture, dtype: DESCRIPTORS)
    stream(random_case(torch.device("meta"), torch.float32, slices=WHOLE), masses)
    twice = ["product_kernel", "settle_kernel"]
    assert launched == (["product_kernel", "seed_kernel", *twice, *twice] if masses else twice)


def test_what_is_not_served_is_refused(device: torch.device) -> None:
    x, weight = torch.zeros(3, 32, device=device), torch.zeros(5, 32, device=device)
    memory = torch.zeros(3, 36, device=device)
    assert serves(x, weight, None, False, False)
    assert serves(memory[:, :32], weight, None, False, False)
    assert not serves(x, weight, torch.zeros(5, device=device), False, False)
    assert not serves(x, weight, None, True, False)
    assert not serves(x, weight, None, False, True)
    assert not serves(x.double(), weight.double(), None, False, False)
    assert not serves(x.half(), weight, None, False, False)
    assert not serves(memory[:, 1:33], weight, None, False, False)
    assert not serves(x, memory.t()[:5].repeat(1, 11)[:, :32].t().contiguous().t(), None, False, False)
    assert not serves(x[:, :9], weight[:, :9], None, False, False)
    assert not serves(x[:0], weight, None, False, False)


@triton.jit
def corner_kernel(corner_ptr, rows, columns, GROUP: tl.constexpr) -> None:
    row, column = epilogue_kernels.tile_corner(tl.program_id(0), rows, columns, 16, 32, GROUP)
    tl.store(corner_ptr + 2 * tl.program_id(0), row)
    tl.store(corner_ptr + 2 * tl.program_id(0) + 1, column)


def test_every_tile_is_made_once(device: torch.device) -> None:
    """Five blocks of rows in groups of two, three blocks of columns."""
    corners = torch.zeros(15, 2, dtype=torch.int32, device=device)
    corner_kernel[(15,)](corners, 70, 96, GROUP=2)
    expected = [(row, column) for row in range(0, 80, 16) for column in range(0, 96, 32)]
    assert sorted(map(tuple, corners.tolist())) == expected
    assert corners[:3].tolist() == [[0, 0], [16, 0], [0, 32]]


class Calls:
    """How often the operator took the epilogue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        inner = gpu.stream_slice

        def counted(*args: Any) -> None:
            self.count += 1
            inner(*args)

        monkeypatch.setattr(gpu, "stream_slice", counted)


def with_epilogue(device: torch.device, features: int, wanted: bool = True) -> Any:
    """The operator as where a table names the epilogue in both of its modes, or declines it."""
    name = device_name(device)
    return using({(name, features, mode): Tuned(epilogue=wanted) for mode in ("no gradient", "frozen")})


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(
    "regime", ["random", "softcap, scale and temperature", "certain", "repeated rows", "one token"]
)
def test_the_operator_is_exact_with_the_epilogue(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, regime: str
) -> None:
    shrink_tiles(monkeypatch)
    calls = Calls(monkeypatch)
    case = REGIMES[regime](linear_cases.random_case(features=16, spread=3.0))
    case = replace(case, frozen=("weight",)).rounded(dtype)
    index = None if case.hidden_index is None else case.hidden_index.to(device)
    labels = case.labels.to(device)

    def results(operator: Callable[..., Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        hidden = case.hidden.to(device, dtype, copy=True).requires_grad_()
        logps = operator(hidden, case.weight.to(device, dtype), labels, hidden_index=index, **case.settings)
        (grad,) = torch.autograd.grad(logps, hidden, case.grad.to(device, logps.dtype))
        return logps.detach().cpu().double(), grad.cpu().double()

    with with_epilogue(device, 16):
        logps, grad = results(linear_token_logps, dtype)
        with torch.no_grad():
            before = calls.count
            unrecorded = linear_token_logps(
                case.hidden.to(device, dtype),
                case.weight.to(device, dtype),
                labels,
                hidden_index=index,
                **case.settings,
            )
    assert 0 < before < calls.count
    true_logps, truth = results(naive_linear_token_logps, torch.float64)
    _, plain = results(naive_linear_token_logps, dtype)
    for found in (logps, unrecorded.cpu().double()):
        assert ((found - true_logps).abs() <= LOGP_TOLERANCE * (1 + true_logps.abs())).all()
    assert_gradient_within("hidden", grad, plain, truth, dtype, case.largest_logit)


def test_the_operator_takes_the_epilogue_by_itself_where_it_was_measured_to_be_faster(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, asked = Calls(monkeypatch), []

    def pays(*about: Any) -> bool:
        asked.append(about)
        return True

    monkeypatch.setattr(gpu, "pays", pays)
    case = linear_cases.random_case(features=16).rounded(torch.float16)
    hidden, weight = (x.to(device, torch.float16) for x in (case.hidden, case.weight))
    linear_token_logps(hidden, weight, case.labels.to(device))
    assert calls.count > 0 and asked == [(architecture(device), 16, "no gradient")]


@pytest.mark.parametrize(
    ("target", "features", "mode", "faster"),
    [
        ("sm_90", 4096, "no gradient", True),
        ("sm_90", 2560, "frozen", True),
        ("sm_90", 4096, "frozen", False),
        ("sm_90", 896, "saved", False),
        ("sm_80", 896, "no gradient", False),
        ("gfx942", 896, "frozen", False),
        ("cpu", 896, "frozen", False),
    ],
)
def test_the_epilogue_pays_where_it_was_measured(target: str, features: int, mode: Mode, faster: bool) -> None:
    assert pays(target, features, mode) == faster


@pytest.mark.parametrize(
    "obstacle", ["a bias", "statistics", "saved masses", "odd features", "float32", "a table that declines"]
)
def test_the_operator_takes_the_row_kernel_where_the_epilogue_does_not_serve(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    calls = Calls(monkeypatch)
    features = 13 if obstacle == "odd features" else 16
    case = linear_cases.random_case(features=features, bias=obstacle == "a bias")
    operator = linear_token_statistics if obstacle == "statistics" else linear_token_logps
    options: dict[str, Any] = {"save": obstacle == "saved masses"}
    options["bias"] = None if case.bias is None else case.bias.to(device, torch.float16)
    dtype = torch.float32 if obstacle == "float32" else torch.float16
    weight = case.weight.to(device, dtype).requires_grad_(obstacle == "saved masses")
    with with_epilogue(device, features, wanted=obstacle != "a table that declines"):
        operator(case.hidden.to(device, dtype), weight, case.labels.to(device), **options)
    assert calls.count == 0


def test_only_gpus_that_were_compiled_for_have_tiles() -> None:
    assert tile_for("cpu", torch.float32) is None and tile_for("sm_75", torch.float16) is None
    assert architecture(torch.device("cpu")) == "cpu"
