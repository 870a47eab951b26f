"""`python -m tests.kernels.sanitized`: the kernels' tests under GCC's address and undefined behaviour sanitizers.

At each level that the machine has. Torch runs as it is, but its memory is allocated through the sanitizer.
"""

import os
import subprocess
import sys
import tempfile

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -O1 -g"
TESTS = [f"tests/kernels/test_{name}.py" for name in ("products", "attention", "models")] + [
    "tests/parallel/test_shm.py"
]
OUT_OF_BOUNDS = """
import torch
from mygpt.kernels.cpu import library, ops
kernels = library.active()
assert kernels is not None, library.describe()
x, y, weight = torch.randn(2, 64), torch.empty(3, 64), torch.ones(64)
kernels.c.mygpt_norm(1, ops.norm_of(weight, 1e-5, 0.0), x.data_ptr(), 3, y.data_ptr())  # a row more than there is
"""


def main() -> int:
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "CC": "gcc",
            "MYGPT_KERNELS": cache,
            "MYGPT_KERNEL_FLAGS": FLAGS,
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        }
        environment.pop("MYGPT_ISA", None)
        canary = [sys.executable, "-c", OUT_OF_BOUNDS]
        done = subprocess.run(canary, env=environment, capture_output=True, text=True, check=False)
        if "heap-buffer-overflow" not in done.stderr:
            print(f"the sanitizer does not notice a read out of bounds:\n{done.stderr}", file=sys.stderr)
            return 1
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "0", *TESTS], env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
