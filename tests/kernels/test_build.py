"""The kernels are compiled once for each level; where there are none, it is said why, and all runs without."""

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mygpt.errors import InputError
from mygpt.kernels import jobs, plain
from mygpt.kernels.cpu import isa, library, structs
from mygpt.kernels.cpu.build import NoKernelsError, build
from mygpt.kernels.cpu.library import Library
from mygpt.parallel.devices import pick_precision
from tests.kernels.conftest import LEVELS

NAMES = {"avx2": "avx2", "avx512": "avx512", "amx": "avx512+amx", "native": "native"}
BUILD = "from mygpt import kernels; assert kernels.prepare()"
COMPILED = build(LEVELS[-1], lambda path: path.read_bytes()) if LEVELS else b""
needs_kernels = pytest.mark.skipif(not LEVELS, reason="no C compiler, or not Linux")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of compiled kernels."""
    for name in ("MYGPT_CACHE", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("MYGPT_KERNELS", "MYGPT_ISA"):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield tmp_path / "kernels"
    monkeypatch.undo()
    forget()


def forget() -> None:
    isa.level.cache_clear()
    library.load.cache_clear()


def test_levels_have_their_names(kernels: Library) -> None:
    level = isa.level()
    assert library.describe() == kernels.name == NAMES[level]
    assert kernels.has_tiles <= (level in ("avx512", "amx"))


@pytest.mark.parametrize("level", ["none", *isa.machine_levels()])
def test_a_level_by_the_environment(fresh: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", level)
    assert isa.level() == level
    monkeypatch.delenv("MYGPT_ISA")
    assert isa.level() == level  # found once
    forget()
    assert isa.level() == (isa.machine_levels() or ["native"])[-1]


@pytest.mark.parametrize("level", ["avx1024", "AVX2"])
def test_an_unknown_level_is_refused(fresh: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", level)
    with pytest.raises(InputError, match=f"MYGPT_ISA={level} is not a level of this machine; it has .*none"):
        library.describe()


def test_a_level_that_the_machine_lacks_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "machine_levels", lambda: ["avx2"])
    monkeypatch.setenv("MYGPT_ISA", "avx512")
    with pytest.raises(
        InputError, match="MYGPT_ISA=avx512 is not a level of this machine; it has avx2, none"
    ):
        isa.level()


def test_torch_is_held_too(hold: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of that level, bfloat16 is what a large model runs in or not."""
    monkeypatch.setattr("mygpt.parallel.devices.SMALL_MODEL", 0)
    model, device = torch.nn.Linear(2, 2), torch.device("cpu")
    hold("avx2")
    assert pick_precision(None, device, model) == "32-true"
    assert not isa.allows("avx512")
    hold("avx512")
    assert isa.allows("avx512")
    assert not isa.allows("amx")
    monkeypatch.setattr(isa, "level", lambda: "none")
    assert isa.allows("amx")


def test_variables_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    code = (
        "import os, torch, mygpt.kernels\n"
        "print(torch.backends.cpu.get_cpu_capability(), os.environ['ONEDNN_MAX_CPU_ISA'])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    capability, onednn = run.stdout.split()
    assert "AVX512" not in capability
    assert onednn == "ALL"  # the user's own


@pytest.mark.parametrize(
    ("compiler", "path", "reason"),
    [
        ("/no/such/compiler", "/nowhere", "none: no C compiler"),
        ("false", "/usr/bin:/bin", "none: false failed"),
    ],
)
def test_without_a_compiler(
    fresh: Path, compiler: str, path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", path)
    assert library.active() is None
    assert library.describe() == reason
    x, weight = torch.randn(1, 16), torch.randn(3, 16)
    assert torch.equal(jobs.linear(x, weight), plain.linear(x, weight))
    assert not list(fresh.glob("*"))


def test_turned_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", "none")
    assert library.active() is None
    assert library.describe() == "none: MYGPT_ISA=none"


def test_elsewhere(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert library.describe() == "none: not Linux"


@needs_kernels
def test_without_a_folder_to_write(fresh: Path, tmp_path: Path) -> None:
    for folder in (fresh, tmp_path / f"mygpt-kernels-{os.geteuid()}"):
        folder.write_text("a file, no folder")
    assert library.active() is None
    assert library.describe().startswith("none: ")
    assert str(fresh) in library.describe()


@pytest.fixture
def compiler(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes a moment: it copies what the real one has made, and writes down that it ran."""
    script, library = tmp_path / "compiler", tmp_path / "compiled"
    library.write_bytes(COMPILED)
    script.write_text(
        f'#!/bin/sh\necho ran >> "{tmp_path}/runs"\nsleep 0.3\n'
        f'while [ "$1" != -o ]; do shift; done\ncp "{library}" "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    return tmp_path / "runs"


def build_name() -> str:
    """Where the library is that is found, or made."""
    return build(LEVELS[-1], lambda path: str(path.resolve()))


@needs_kernels
@pytest.mark.parametrize("damage", ["other", "truncated", "one byte"])
def test_a_broken_library_is_made_anew(
    fresh: Path, compiler: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where it can still be loaded: of a truncated one the first access to a missing page kills the process."""
    made = Path(build_name())
    contents = made.read_bytes()
    middle = len(contents) // 2
    flipped = contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
    made.write_bytes({"other": b"no library", "truncated": contents[:middle], "one byte": flipped}[damage])
    for _ in range(2):
        subprocess.run([sys.executable, "-c", BUILD], check=True)
        assert made.read_bytes() == contents
    assert compiler.read_text() == "ran\nran\n"  # once anew
    assert capfd.readouterr().err == ""  # no terminal


@needs_kernels
def test_the_folder_is_of_one_user(fresh: Path, compiler: Path) -> None:
    assert Path(build_name()).parent == fresh
    assert fresh.stat().st_mode & 0o777 == 0o700


@needs_kernels
def test_a_library_that_others_can_write_is_not_loaded(fresh: Path, compiler: Path) -> None:
    """The folder is shared: within it, there is one of this user alone."""
    build_name()
    fresh.chmod(0o777)
    for _ in range(2):
        assert Path(build_name()).parent == fresh / str(os.geteuid())
    assert compiler.read_text() == "ran\nran\n"


@needs_kernels
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_library_of_another_user_is_not_loaded(
    fresh: Path, compiler: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(build_name())
    if what == "folder":
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)  # so nothing is this user's
        with pytest.raises(NoKernelsError, match="other users can write to it"):
            build_name()
    elif os.geteuid() == 0:
        os.chown(made, 65534, -1)
        assert Path(build_name()).stat().st_uid == 0
    else:
        (fresh / "mine").symlink_to(made)  # only root can give a file away; a link is none of the files kept
        assert build_name() == str(made)


@needs_kernels
def test_a_folder_that_is_renamed_meanwhile_stays_the_same(
    fresh: Path, compiler: Path, tmp_path: Path
) -> None:
    """Whoever can write to a folder above may exchange it after it was checked."""
    contents = Path(build_name()).read_bytes()

    def load(path: Path) -> bytes:
        fresh.rename(tmp_path / "moved")
        fresh.mkdir()
        (fresh / path.name).write_bytes(b"another")
        return path.read_bytes()

    assert build(LEVELS[-1], load) == contents


@needs_kernels
def test_a_full_disk(
    fresh: Path, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """They are kept among the temporary files, and so compiled once all the same; it is said once."""
    allocate = os.posix_fallocate

    def full(number: int, offset: int, size: int) -> None:
        if f"{fresh}/" in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(number, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    own = tmp_path / f"mygpt-kernels-{os.geteuid()}"
    for _ in range(2):
        assert Path(build_name()).parent == own
    assert compiler.read_text() == "ran\n"
    error = capsys.readouterr().err
    assert error == (
        "compiling mygpt's kernels for this processor, once\n"
        f"they are kept in {own}: {fresh} cannot be used (No space left on device)\n"
    )
    shutil.rmtree(own)
    own.touch()
    with pytest.raises(NoKernelsError, match="No space left"):
        build_name()
    assert "there are none, so models run slower: " in capsys.readouterr().err
    assert compiler.read_text() == "ran\n"  # without trying for seconds


@needs_kernels
def test_a_library_is_on_the_disk_before_it_has_its_name(
    fresh: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    sync = os.fsync

    def fsync(number: int) -> None:
        synced.append((Path(f"/proc/self/fd/{number}").readlink().name, [*fresh.glob("*.so")]))
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    made = Path(build_name())
    assert [named for _, named in synced] == [[], [made]]
    assert [file for file, _ in synced] == ["kernels.so", "kernels"]


SLOW = '#!/bin/sh\necho $$ > "{0}/compiler.pid"\ntouch half-made\nsleep 60\n'


@needs_kernels
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_build_that_is_ended(fresh: Path, tmp_path: Path, compiler: Path, name: str) -> None:
    """Nothing is left of it; after SIGKILL until the next build."""
    number, slow = getattr(signal, name), tmp_path / "slow"
    slow.write_text(SLOW.format(tmp_path))
    slow.chmod(0o755)
    running = subprocess.Popen([sys.executable, "-c", BUILD], env={**os.environ, "CC": str(slow)})
    pid = tmp_path / "compiler.pid"
    deadline = time.monotonic() + 60
    while not (list(fresh.glob("tmp*/half-made")) and pid.exists() and pid.read_text().strip()):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(20) == -number
    if name == "SIGKILL":
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    else:
        assert not list(fresh.glob("*"))
        assert not Path("/proc", pid.read_text().strip()).exists()
    made = Path(build_name())
    assert list(fresh.glob("*")) == [made]


@needs_kernels
def test_processes_may_build_at_the_same_time(fresh: Path, compiler: Path) -> None:
    """One does, and the other waits for it."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", BUILD], check=True) for _ in range(2)]
    assert all(run.result().returncode == 0 for run in runs)
    assert [path.suffix for path in fresh.glob("*")] == [".so"]
    assert compiler.read_text() == "ran\n"


@needs_kernels
@pytest.mark.parametrize("value", ['gcc "', "/no/such/compiler", "no-such-compiler -O3", " "])
def test_a_cc_that_is_no_command(
    fresh: Path, compiler: Path, tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's compiler is taken."""
    (tmp_path / "cc").symlink_to(os.environ["CC"])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CC", value)
    build_name()
    assert compiler.read_text() == "ran\n"


@needs_kernels
@pytest.mark.parametrize("entry", ["", ".", "bin"])
def test_no_compiler_of_the_current_folder(
    fresh: Path, compiler: Path, tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "cc").symlink_to(os.environ["CC"])
    bad = tmp_path / "bad"
    (bad / "bin").mkdir(parents=True)
    for name in ("cc", "gcc", "bin/cc", "bin/gcc"):
        (bad / name).write_text(f'#!/bin/sh\necho bad >> "{compiler}"\nexit 1\n')
        (bad / name).chmod(0o755)
    monkeypatch.chdir(bad)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", f"{entry}{os.pathsep}{tmp_path / 'good'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    build_name()
    assert compiler.read_text() == "ran\n"


@needs_kernels
@pytest.mark.parametrize("name", ["Matrix", "AttentionArgs", "FOURBIT", "no such name"])
def test_structs_that_differ_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that only one side has would otherwise be read as another."""
    longer = {**structs.CONSTANTS, name: structs.CONSTANTS.get(name, 0) + ctypes.sizeof(ctypes.c_long)}
    monkeypatch.setattr(library, "CONSTANTS", longer)
    with pytest.raises(NoKernelsError, match=f"C and Python differ in {name}"):
        build(LEVELS[-1], lambda path: Library(path, LEVELS[-1]))
