"""What is told of a loaded model."""

import pytest

from mygpt import kernels
from mygpt.loading.load import kernels_of


@pytest.mark.parametrize(
    ("devices", "precision", "compiled", "expected"),
    [
        (["cpu"], "32-true", False, None),
        (["cuda:0", "cpu"], "bf16-true", False, None),
        (["cuda:0", "cuda:1"], "bf16-true", False, "none: cuda"),
        (["mps"], "16-true", False, "none: mps"),
        (["cpu"], "16-true", False, "none: 16-true"),
        (["cpu"], "32-true", True, "none: --compile"),
    ],
)
def test_which_kernels_run_it(
    devices: list[str], precision: str, compiled: bool, expected: str | None
) -> None:
    assert kernels_of(devices, precision, compiled=compiled) == (expected or kernels.describe())
