"""A product with a weight matrix on the CPU: mygpt's kernels, for few rows and for many, and what torch and
bitsandbytes have.

Each shape has enough matrices to exceed the caches, taken in turn, as the layers of a model are; and the ways take
turns, so that all see the machine in the same state. The numbers are GB/s of weights read (in int8 and in 4 bits
with their scales), medians. `mygpt.kernels.plain.FEW_ROWS` and `mygpt.kernels.cpu.library.Library.max_rows` are where
the ways meet; with tiles (AVX512-BF16 or AMX) the kernel takes any number of rows.

    python benchmarks/linear.py [--dtypes bfloat16 float32 int8 nf4] [--rows 1 2 4 8 16 32]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from report import print_report
from torch import Tensor

from mygpt.kernels.cpu import library, ops
from mygpt.kernels.cpu.structs import MAX_ROWS
from mygpt.quantize.bnb_matrices import FourBit
from mygpt.quantize.matmul import FastFourBitProduct

SHAPES = [(960, 576), (3072, 576), (576, 1536), (3072, 2048), (16384, 2048), (2048, 8192)]
BYTES = 400e6  # more than most caches

Product = Callable[[Tensor, Any], Tensor]


def by_weight_first(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mv(weight, x[0])[None] if len(x) == 1 else torch.mm(weight, x.t()).t()


def floats(dtype: torch.dtype) -> tuple[Callable[[tuple[int, int]], Any], dict[str, Product]]:
    ways: dict[str, Product] = {"F.linear": F.linear, "weight first": by_weight_first}
    if found := library.active():
        ways["kernel"] = lambda x, w: ops.linear(found, x, ops.dense_matrix(w))
    return lambda shape: torch.randn(shape).to(dtype), ways


def int8() -> tuple[Callable[[tuple[int, int]], Any], dict[str, Product]]:
    def make(shape: tuple[int, int]) -> Any:
        return torch.randint(-127, 128, shape, dtype=torch.int8), torch.rand(shape[0]).bfloat16()

    ways: dict[str, Product] = {"int8pack_mm": lambda x, w: torch._weight_int8pack_mm(x, *w)}
    if found := library.active():
        ways["kernel"] = lambda x, w: ops.linear(found, x, ops.int8_matrix(*w))
    return make, ways


def nf4() -> tuple[Callable[[tuple[int, int]], Any], dict[str, Product]]:
    """Both in the same layout, in memory once."""

    def make(shape: tuple[int, int]) -> Any:
        rows, columns = shape
        packed = torch.randint(256, (rows, columns // 2), dtype=torch.uint8)
        matrix = FourBit(torch.Size(shape), "nf4", packed, torch.rand(rows, columns // 64))
        return FastFourBitProduct(matrix)

    ways: dict[str, Product] = {"bitsandbytes": lambda x, w: w.by_bitsandbytes(x)}
    found = library.active()
    if found and found.has_fourbit:
        ways["kernel"] = lambda x, w: ops.linear(found, x, w.kernel_matrix())
    return make, ways


KINDS: dict[str, Callable[[], tuple[Callable[[tuple[int, int]], Any], dict[str, Product]]]] = {
    "bfloat16": lambda: floats(torch.bfloat16),
    "float32": lambda: floats(torch.float32),
    "int8": int8,
    "nf4": nf4,
}
# Of a weight, scales included.
BITS = {"bfloat16": 16.0, "float32": 32.0, "int8": 8.0, "nf4": 4.25}


def seconds(ways: dict[str, Product], x: Tensor, weights: Sequence[Any], repeats: int) -> dict[str, float]:
    """The median time of a product, by each of the ways in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, product in ways.items():
            for weight in weights:
                start = time.perf_counter()
                product(x, weight)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtypes", nargs="+", choices=KINDS, default=["bfloat16", "float32"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--megabytes", type=float, default=BYTES / 1e6, help="of the matrices of a shape")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    results = []
    for dtype in args.dtypes:
        make, ways = KINDS[dtype]()
        for shape in SHAPES:
            size = shape[0] * shape[1] * BITS[dtype] / 8
            weights = [make(shape) for _ in range(max(2, min(200, int(args.megabytes * 1e6 / size))))]
            for rows in args.rows:
                x = torch.randn(rows, shape[1]).to(torch.float32 if dtype == "float32" else torch.bfloat16)
                found = library.active()
                many = x.dtype is torch.bfloat16 and found is not None and found.has_tiles
                fit = {
                    name: way for name, way in ways.items() if name != "kernel" or many or rows <= MAX_ROWS
                }
                times = seconds(fit, x, weights, args.repeats)
                speeds = {name: round(size / time / 1e9, 1) for name, time in times.items()}
                results.append({"dtype": dtype, "shape": shape, "rows": rows, **speeds})
                print(*(f"{key} {value}" for key, value in results[-1].items()), sep="\t", flush=True)
    print_report("linear", {"threads": torch.get_num_threads(), "gb_per_s": results})


if __name__ == "__main__":
    main()
