"""A product of few rows with a weight matrix on the CPU: torch's F.linear against what mygpt.linear takes.

Each shape has enough matrices to exceed the caches, taken in turn, as the layers of a model are. The numbers are
GB/s of weights read, medians; `mygpt.linear.FEW_ROWS` is where the two meet.

    python benchmarks/linear.py [--dtype bfloat16]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from report import print_report
from torch import Tensor

SHAPES = [(960, 576), (3072, 576), (576, 1536), (3072, 2048), (16384, 2048), (2048, 8192)]
ROWS = [1, 2, 4, 8, 16, 32, 64, 256]
BYTES = 400e6  # more than any cache


def by_linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def by_weight_first(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mv(weight, x[0])[None] if len(x) == 1 else torch.mm(weight, x.t()).t()


def gigabytes_per_second(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor]
) -> float:
    times = []
    for weight in weights + weights:
        start = time.perf_counter()
        product(x, weight)
        times.append(time.perf_counter() - start)
    return weights[0].nbytes / statistics.median(times) / 1e9


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    dtype = getattr(torch, parser.parse_args().dtype)
    results = []
    for shape in SHAPES:
        count = max(4, min(100, int(BYTES / (shape[0] * shape[1] * dtype.itemsize))))
        weights = [torch.randn(shape).to(dtype) for _ in range(count)]
        for rows in ROWS:
            x = torch.randn(rows, shape[1]).to(dtype)
            result = {"shape": shape, "rows": rows}
            for product in (by_linear, by_weight_first):
                result[product.__name__] = round(gigabytes_per_second(product, x, weights), 1)
            results.append(result)
            print(*result.values(), sep="\t", flush=True)
    print_report("linear", {"dtype": str(dtype), "gb_per_s": results})


if __name__ == "__main__":
    main()
