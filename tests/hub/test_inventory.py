"""What lies in the caches, and its removal: all of it, and nothing else."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir

from mygpt.errors import InputError, RunError
from mygpt.hub import inventory
from mygpt.hub.inventory import CachedModel, compiled, folder_size, models
from mygpt.hub.remove import freed_bytes, remove
from mygpt.hub.resolve import download
from tests.fake_hub import Repo, serve
from tests.hub.caches import CONFIG, DEFAULT, HUB_SIZE, MODEL, SIZE, Caches, used, write


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caches:
    return Caches(tmp_path, monkeypatch)


def one() -> CachedModel:
    (model,) = models()
    return model


def test_empty_and_missing_caches(caches: Caches) -> None:
    assert models() == []
    assert compiled() == []
    shutil.rmtree(caches.hub)
    shutil.rmtree(caches.own)
    assert models() == []
    assert compiled() == []


def test_models_of_all_caches_by_name(caches: Caches) -> None:
    write(caches.checkpoints / "owner" / "zeta")
    write(caches.checkpoints / "gpt2")
    caches.store("Owner/beta")
    write(caches.own / "SmolLM2-135M-Instruct")
    (caches.own / "SmolLM2-135M-Instruct.lock").touch()
    found = [(model.name, model.place, model.size_bytes) for model in models()]
    assert found == [
        ("gpt2", "checkpoints", SIZE),
        (DEFAULT, "mygpt", SIZE),
        ("Owner/beta", "huggingface", HUB_SIZE),
        ("owner/zeta", "checkpoints", SIZE),
    ]
    assert {(model.family, model.supported, model.missing) for model in models()} == {("llama", True, ())}


def test_what_is_downloaded_is_found_and_removed(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.repos["owner/model"] = Repo(MODEL)
        folder = download("owner/model")
    model = one()
    assert (model.name, model.folder, model.size_bytes, model.missing) == (
        "owner/model",
        folder,
        SIZE + 40,
        (),
    )
    remove(model)
    assert models() == []
    assert not scan_cache_dir(caches.hub).repos


def test_datasets_are_no_models(caches: Caches) -> None:
    caches.store("owner/data").parents[1].rename(caches.hub / "datasets--owner--data")
    assert models() == []


def test_models_of_other_kinds(caches: Caches) -> None:
    caches.store("google/bert", {**MODEL, "config.json": json.dumps({"model_type": "bert"}).encode()})
    assert (one().family, one().supported, one().missing) == (None, False, ())


class TestIncomplete:
    def test_a_shard_is_missing(self, caches: Caches) -> None:
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        files = {name: data for name, data in MODEL.items() if name != "model.safetensors"}
        files |= {"model.safetensors.index.json": json.dumps(index).encode(), "model-1.safetensors": b"1"}
        caches.store("owner/half", files)
        assert one().missing == ("model-2.safetensors",)

    def test_a_broken_index(self, caches: Caches) -> None:
        files = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors.index.json": b"{"}
        write(caches.checkpoints / "x", files)
        assert one().missing == ("model.safetensors.index.json",)

    def test_a_blob_is_missing(self, caches: Caches) -> None:
        (caches.store("owner/model") / "model.safetensors").resolve().unlink()
        assert one().missing == ("model.safetensors",)

    def test_a_download_that_has_just_begun(self, caches: Caches) -> None:
        """huggingface_hub does not take it for a repository; its bytes count, and it can be removed."""
        blobs = caches.hub / "models--owner--begun" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "abc.incomplete").write_bytes(bytes(700))
        model = one()
        assert (model.name, model.size_bytes, model.supported) == ("owner/begun", 700, None)
        assert "config.json" in model.missing
        remove(model)
        assert caches.files() == set()

    def test_the_rest_of_an_interrupted_download_goes_too(self, caches: Caches) -> None:
        repo = caches.store("owner/model", {"config.json": CONFIG}, ref=None).parents[1]
        (repo / "blobs" / "abc.incomplete").write_bytes(bytes(700))
        assert one().size_bytes == len(CONFIG) + 700
        remove(one())
        assert caches.files() == set()


def test_a_newer_commit_does_not_hide_the_complete_one(caches: Caches) -> None:
    whole = caches.store("owner/model")
    caches.store("owner/model", {"config.json": CONFIG}, ref=None, commit="beef")
    assert (one().folder, one().missing, one().note) == (whole, (), None)


def test_a_model_of_another_revision_says_so(caches: Caches) -> None:
    caches.store("owner/model", ref="v1")
    assert (one().missing, one().note) == ((), "--revision v1")


def test_gguf_files(caches: Caches, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    written = []
    for architecture in ("llama", "mamba"):
        path = tmp_path / f"{architecture}.gguf"
        writer = GGUFWriter(path, architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        written.append(path.read_bytes())
    write(caches.checkpoints, {"a.gguf": written[0]})
    write(caches.checkpoints / "owner" / "b", {"b.gguf": written[1], "c.gguf": b"GGUF"})
    caches.store("owner/model-GGUF", {"model.gguf": written[0]})
    names = [
        "checkpoints/a.gguf",
        "checkpoints/owner/b/b.gguf",
        "checkpoints/owner/b/c.gguf",
        "owner/model-GGUF",
    ]
    found = models()
    assert [model.name for model in found] == names
    assert [model.family for model in found] == ["llama", None, None, "llama"]
    assert [model.missing for model in found] == [(), (), ("c.gguf",), ()]
    assert found[3].note == "pass the path of its .gguf file"
    remove(found[1])
    remove(found[2])
    assert not (caches.checkpoints / "owner" / "b").exists()
    assert (caches.checkpoints / "a.gguf").exists()


def test_last_used_is_when_the_weights_were_read(caches: Caches) -> None:
    """`config.json` is read by `mygpt list` itself."""
    folder = write(caches.checkpoints / "model")
    used(folder / "model.safetensors", 1_000_000)
    used(folder / "config.json", 2_000_000)
    assert one().last_used == 1_000_000


def test_blobs_in_a_store_that_repositories_share_count(caches: Caches, tmp_path: Path) -> None:
    blob = (caches.store("owner/model") / "model.safetensors").resolve()
    blob.rename(tmp_path / "shared")
    blob.symlink_to(tmp_path / "shared")
    assert one().size_bytes == HUB_SIZE


def test_too_many_files_to_add_up(caches: Caches) -> None:
    write(caches.work / "many")
    with pytest.raises(TimeoutError):
        folder_size(caches.work, timeout_s=-1)


class TestRemove:
    def test_of_each_place_and_nothing_else(self, caches: Caches) -> None:
        write(caches.checkpoints / "owner" / "one")
        caches.store("owner/two")
        write(caches.own / "SmolLM2-135M-Instruct")
        write(caches.own / "kernels", {"a.so": b"x"})
        before = caches.files()
        caches.store("owner/one")
        for model in models():
            if model.name == "owner/one":
                remove(model)
        assert caches.files() == {path for path in before if "owner/one" not in path}
        assert not (caches.checkpoints / "owner").exists()
        for entry in [*models(), *compiled()]:
            remove(entry)
        assert caches.files() == set()

    def test_a_repository_with_the_same_commit_stays(self, caches: Caches) -> None:
        """As gpt2 and openai-community/gpt2 have: a renamed repository keeps its commits."""
        for _ in range(4):  # sets have no order
            for name in ("a", "b", "c"):
                caches.store(f"owner/{name}")
            remove(next(model for model in models() if model.name == "owner/b"))
            assert [model.name for model in models()] == ["owner/a", "owner/c"]
            shutil.rmtree(caches.hub)

    def test_both_commits_of_a_repository(self, caches: Caches) -> None:
        caches.store("owner/model")
        caches.store("owner/model", {**MODEL, "model.safetensors": b"new"}, ref="v2", commit="beef")
        remove(one())
        assert caches.files() == set()

    def test_a_link_goes_and_its_target_stays(self, caches: Caches, tmp_path: Path) -> None:
        target = write(tmp_path / "elsewhere")
        caches.checkpoints.mkdir()
        (caches.checkpoints / "linked").symlink_to(target)
        (caches.hub / "models--owner--linked").symlink_to(target)
        for model in models():
            assert freed_bytes(model) == 0
            remove(model)
        assert models() == []
        assert sorted(path.name for path in target.iterdir()) == sorted(MODEL)

    def test_nothing_behind_a_link_goes(self, caches: Caches, tmp_path: Path) -> None:
        target = write(tmp_path / "elsewhere" / "model")
        caches.checkpoints.mkdir()
        (caches.checkpoints / "owner").symlink_to(target.parent)
        assert one().name == "owner/model"
        with pytest.raises(InputError, match="outside of checkpoints"):
            remove(one())
        assert len(list(target.iterdir())) == len(MODEL)

    def test_caches_that_are_links_themselves(self, caches: Caches, tmp_path: Path) -> None:
        for folder in (caches.hub, caches.checkpoints):
            real = tmp_path / f"real-{folder.name}"
            real.mkdir()
            shutil.rmtree(folder, ignore_errors=True)
            folder.symlink_to(real)
        caches.store("owner/a")
        write(caches.checkpoints / "owner" / "b")
        for model in models():
            remove(model)
        assert {path for path in caches.files() if not path.startswith("real-")} == {
            "hub",
            "work/checkpoints",
        }
        assert models() == []

    def test_links_inside_are_not_followed(self, caches: Caches, tmp_path: Path) -> None:
        target = write(tmp_path / "elsewhere")
        folder = write(caches.checkpoints / "model")
        (folder / "more").symlink_to(target)
        (folder / "big").symlink_to(target / "model.safetensors")
        assert one().size_bytes == SIZE
        remove(one())
        assert len(list(target.iterdir())) == len(MODEL)

    def test_half_removed_is_no_model(self, caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
        """The default model counts as complete where its folder is; the next removal clears what is left."""
        write(caches.own / "SmolLM2-135M-Instruct")
        write(caches.own / "kernels", {"a.so": b"x"})

        def interrupted(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupted)
            with pytest.raises(KeyboardInterrupt):
                remove(one())
        assert models() == []
        assert inventory.find_default() is None
        remove(compiled()[0])
        assert caches.files() == set()

    def test_what_someone_else_removed_meanwhile(self, caches: Caches) -> None:
        folder = write(caches.checkpoints / "owner" / "model")
        entry = one()
        shutil.rmtree(folder)
        remove(entry)
        assert models() == []

    @pytest.mark.parametrize("place", ["huggingface", "checkpoints"])
    def test_what_the_system_refuses(
        self, caches: Caches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
    ) -> None:
        if place == "huggingface":
            caches.store("owner/model")
        else:
            write(caches.checkpoints / "owner" / "model")

        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(shutil, "rmtree", refuse)
        monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
        with pytest.raises(RunError, match=r"cannot remove .*model.* \(Permission denied\)"):
            remove(one())
        assert not caplog.records
