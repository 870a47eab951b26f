"""Runs mutations of valid files and options, and tells which ones mygpt does not take as it must.

python -m tests.fuzz --seed 1 --mutations 3000 --jobs 2
python -m tests.fuzz --case 1:17      # this one alone; its folder is kept
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Queue

from tests.fuzz.bases import Bases
from tests.fuzz.case import command_line, remove
from tests.fuzz.child import Place, server_environment
from tests.fuzz.kinds import KINDS, make_case
from tests.fuzz.tally import Tally
from tests.fuzz.verdict import BAD, Verdict

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Returns 1 if any case is bad, 2 if a server failed."""
    options = _parse()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # not without ending the servers and removing the folder
    seed, number = options.case or (options.seed, None)
    root = Path(tempfile.mkdtemp(prefix="mygpt-fuzz-"))
    root.chmod(0o711)
    kept = number is not None
    try:
        print(f"seed {seed}; made in {root}", flush=True)
        if options.bases is None:
            options.bases = root / "bases"
            _build_bases(options.bases)
        return _run_all(options, seed, number, root)
    finally:
        if not kept:
            remove(root)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutations", type=int, default=3000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
                        help=f"only these of {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", type=_case, help="SEED:NUMBER, run alone and kept")
    parser.add_argument("--wall", type=float, default=120, help="seconds after which a case is ended")
    parser.add_argument(
        "--cpu", type=int, default=40, help="seconds of computing after which a case is ended"
    )
    parser.add_argument(
        "--bases", type=Path, help="valid files that `python -m tests.fuzz.bases FOLDER` made"
    )
    parser.add_argument("--log", type=Path, help="a file for one line of JSON a case")
    parser.add_argument(
        "--call", default="tests.fuzz.server:mygpt_main", help=argparse.SUPPRESS
    )  # of its tests
    return parser.parse_args()


def _case(text: str) -> tuple[int, int]:
    seed, _, number = text.partition(":")
    return int(seed), int(number)


def _build_bases(folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.bases", str(folder)], cwd=ROOT, env=environment,
                          capture_output=True, text=True, errors="replace", check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the valid files cannot be made:\n{done.stderr}")


def _run_all(options: argparse.Namespace, seed: int, number: int | None, root: Path) -> int:
    start = time.monotonic()
    jobs = 1 if number is not None else options.jobs
    results: Queue[str | None] = Queue()
    servers = []
    for job in range(jobs):
        folder = root / f"job{job}"
        folder.mkdir()
        place = Place(folder)
        command = [sys.executable, "-m", "tests.fuzz.server", str(folder), str(options.bases), "--seed", str(seed),
                   "--mutations", str(options.mutations), "--share", str(job), str(jobs),
                   "--wall", str(options.wall), "--cpu", str(options.cpu),
                   "--call", options.call, "--kinds", *options.kinds]  # fmt: skip
        command += [] if number is None else ["--case", str(number)]
        environment = server_environment(place, os.environ)
        servers.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        )
        threading.Thread(target=_forward, args=(servers[-1], results), daemon=True).start()
    try:
        tally = _collect(results, jobs, seed, options.log)
    except BaseException:
        for server in servers:
            server.terminate()
        raise
    failed = [code for server in servers if (code := server.wait())]
    if number is not None:
        _show_case(seed, number, root, Bases(options.bases))
    print("\n".join(tally.lines(time.monotonic() - start)))
    return 2 if failed else int(tally.bad > 0)


def _forward(server: "subprocess.Popen[str]", results: "Queue[str | None]") -> None:
    assert server.stdout is not None
    for line in server.stdout:
        results.put(line)
    results.put(None)


def _collect(results: "Queue[str | None]", jobs: int, seed: int, log: Path | None) -> Tally:
    """Count the servers' results until each has ended; bad ones are told at once."""
    tally = Tally(seed)
    while jobs:
        line = results.get()
        if line is None:
            jobs -= 1
            continue
        result = json.loads(line)
        verdict = Verdict(result["word"], result["message"])
        tally.add(result["number"], result["kind"], verdict)
        if verdict.word == BAD:
            print(f"{result['kind']} {seed}:{result['number']} {verdict.message[:200]}", flush=True)
        if log is not None:
            with log.open("a") as file:
                file.write(line)
    return tally


def _show_case(seed: int, number: int, root: Path, bases: Bases) -> None:
    """What a kept case was made of, and how to run it again by hand."""
    place = Place(root / "job0")
    case = make_case(seed, number, bases)
    print(f"case {seed}:{number} of {case.kind}", *case.mutations, sep="\n  ")
    print(command_line(case, place.environment(), place.run, place.io / "stdin"))
    print(f"cat {shlex.quote(str(place.io / 'stderr'))}:")
    print(ascii((place.io / "stderr").read_bytes()[-2000:].decode("utf-8", "replace")).replace("\\n", "\n"))


if __name__ == "__main__":
    sys.exit(main())
