# `just NAME` (https://just.systems), or copy the line.

# The tests of a few minutes.
test:
    pytest

# The rest of the matrix.
full:
    pytest -m full

# Which lines of mygpt/ the whole matrix does not run, the processes that it starts included.
# Not under Ctrl-C in a row: a KeyboardInterrupt in coverage's own code keeps its lock for ever (seen in 7.17).
coverage:
    coverage erase
    coverage run -m pytest --full --deselect tests/chat/test_terminal.py::test_ctrl_c_under_load
    coverage combine -q
    coverage report

lint:
    ruff check . && ruff format --check . && mypy

# Breaks the core in two dozen ways; the tests must notice each.
mutations:
    python -m tests.mutations

# Valid files and options broken in 20,000 ways by three seeds; mygpt must refuse each in one line.
fuzz seeds="101 102 103":
    for seed in {{seeds}}; do python -m tests.fuzz --seed $seed --mutations 6700; done

# Start-up, decode and prefill of SmolLM2; nothing else should run meanwhile.
bench folder="/tmp/mygpt-bench":
    test -d {{folder}} || python benchmarks/make_model.py A {{folder}}
    python benchmarks/startup.py --checkpoint {{folder}}
    python benchmarks/decode.py {{folder}}
