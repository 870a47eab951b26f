"""`mygpt plan`: the tables of `../shared/seeds`, and what it says against what the commands allocate."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.checkpoint.fill import fill, translated
from mygpt.checkpoint.open import open_checkpoint
from mygpt.engine.prefill import prefill
from mygpt.engine.sampling import sample
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.loading import room
from mygpt.loading.build import build, empty_model
from mygpt.loading.plan import make_plan, planned_devices
from mygpt.loading.workspace import Workload, logits_bytes, workspace_bytes
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import GROWTH
from mygpt.options import LoadOptions, Sampling
from mygpt.parallel import placement
from mygpt.parallel.devices import DTYPES, mover, pick_device
from mygpt.parallel.placement import Placement, choose_placement
from mygpt.parallel.sequential import SequentialGPT
from mygpt.parallel.tensor import ModelShard
from mygpt.quantize.formats.bnb import MODES
from mygpt.quantize.linear import quantize_linears
from tests.families.variants import VARIANTS, Variant
from tests.models import write_model

Run = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
CONFIGS = {
    "llama-2-70b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
    "falcon-40b": {
        "model_type": "falcon",
        "vocab_size": 65024,
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
        "new_decoder_architecture": True,
        "max_position_embeddings": 2048,
    },
    "stablelm-base-alpha-3b": {
        "model_type": "gpt_neox",
        "vocab_size": 50688,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "rotary_pct": 0.25,
        "max_position_embeddings": 4096,
    },
}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`mygpt plan` on a bare `config.json` with options; what it prints."""

    def plan(config: str, **options: Any) -> dict[str, Any]:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(CONFIGS[config]))
        arguments = [f"--{name}={str(value).lower()}" for name, value in options.items()]
        assert main(["plan", str(path), "--json=true", *arguments]) == 0
        content: dict[str, Any] = json.loads(capsys.readouterr().out)
        return content

    return plan


# (command, --quantize): the most GB of a device by the number of devices, None where they are not enough; of 40 GB.
TABLES = {
    ("generate_sequentially", None): {2: None, 4: 35.64, 5: 28.72, 8: 18.35},
    ("generate_sequentially", "bnb.nf4-dq"): {2: 20.00, 4: 10.80, 5: 8.96, 8: 6.23},
    ("generate_tp", None): {2: None, 4: 35.46, 8: 18.19},
    ("generate_tp", "bnb.nf4-dq"): {2: 19.79, 4: 10.73, 8: 6.15},
}


@pytest.mark.parametrize(
    ("command", "quantize", "devices", "most"),
    [(*key, devices, most) for key, rows in TABLES.items() for devices, most in rows.items()],
)
def test_the_tables_of_llama_2_70b(
    run: Run, command: str, quantize: str | None, devices: int, most: float | None
) -> None:
    options = {"quantize": quantize} if quantize else {}
    plan = run(
        "llama-2-70b",
        command=command,
        devices=devices,
        precision="bf16-true",
        max_new_tokens=256,
        num_samples=2,
        device_memory="40GB",
        **options,
    )
    assert len(plan["devices"]) == devices
    assert plan["fits"] == (most is not None)
    largest = max(device["total_bytes"] for device in plan["devices"])
    assert largest <= (most or float("inf")) * 1e9
    assert largest >= 0.85 * (most or 40.0) * 1e9 or quantize, "less than the weights"
    assert plan["device_counts"] == [1, 2, 4, 8]


def test_falcon_40b_under_fsdp(run: Run) -> None:
    whole = run("falcon-40b", strategy="fsdp", devices=4, device_memory="40GB")
    assert whole["fits"]
    assert 20e9 < max(device["total_bytes"] for device in whole["devices"]) <= 32e9
    offloaded = run("falcon-40b", strategy="fsdp", devices=2, cpu_offload=True, device_memory="24GB")
    assert offloaded["fits"]
    assert max(device["total_bytes"] for device in offloaded["devices"]) <= 13e9
    assert all(device["weights_bytes"] == 0 for device in offloaded["devices"])
    assert offloaded["host_peak_bytes"] > 80e9


def test_stablelm_base_alpha_3b(run: Run) -> None:
    (device,) = run("stablelm-base-alpha-3b", precision="bf16-true", device_memory="24GB", max_new_tokens=50)[
        "devices"
    ]
    assert 7.0e9 < device["total_bytes"] < 7.6e9


def test_the_roofline(run: Run) -> None:
    """An A100 reads 1555 GB a second: of devices in turn one reads at a time, of slices all do."""
    options = {"devices": 4, "device_memory": "40GB", "bandwidth": 1555}
    turns = run("llama-2-70b", command="generate_sequentially", **options)["tokens_per_s"]
    slices = run("llama-2-70b", command="generate_tp", **options)["tokens_per_s"]
    assert turns == pytest.approx(1555 / 137.9, rel=0.02)
    assert slices == pytest.approx(4 * turns, rel=0.02)


def held(modules: list[nn.Module]) -> int:
    """Bytes of parameters and of quantized matrices, as they are allocated."""
    tensors = [tensor for module in modules for tensor in module.parameters()]
    products = [part for module in modules for name, part in module.named_modules() if "products." in name]
    nbytes: list[int] = [part.nbytes for part in products]  # type: ignore[misc]
    return sum(tensor.nbytes for tensor in tensors) + sum(nbytes)


def planned(folder: Path, options: LoadOptions) -> list[dict[str, int]]:
    raw = json.loads((folder / "config.json").read_text())
    plan = make_plan(read_config(raw)[1], None, options, Workload(10, 30, batch_size=2))
    return [{"weights": share.weights_bytes, "cache": share.kv_cache_bytes} for share in plan.devices]


PRECISE = {"precision": "32-true", "accelerator": "cpu"}


def find_variant(name: str) -> Variant:
    """The first of a family."""
    return next(v for v in VARIANTS if v.name.startswith(name))


@pytest.mark.parametrize("quantize", [None, "bnb.nf4", "bnb.nf4-dq", "bnb.int8"])
@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "mixtral", "deepseek-v3", "falcon", "cohere"])
def test_one_device_holds_what_was_said(tmp_path: Path, name: str, quantize: str | None) -> None:
    find_variant(name).build(tmp_path)
    model = LLM.load(str(tmp_path), quantize=quantize, **PRECISE).loaded.model
    assert isinstance(model, GPT)
    expected = {"weights": held([model]), "cache": model.allocate_cache(2, 30).nbytes}
    options = LoadOptions(quantize=quantize, strategy="auto", **PRECISE)  # type: ignore[arg-type]
    assert planned(tmp_path, options) == [expected]


@pytest.mark.parametrize("quantize", [None, "bnb.nf4"])
@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "mixtral"])
def test_parts_hold_what_was_said(tmp_path: Path, name: str, quantize: str | None) -> None:
    find_variant(name).build(tmp_path)
    options = LoadOptions(quantize=quantize, strategy="sequential", devices=2, **PRECISE)  # type: ignore[arg-type]
    halves = Placement("sequential", (CPU, CPU), ("cpu:0", "cpu:1"))
    checkpoint = open_checkpoint(tmp_path)
    model, _ = build(checkpoint, *read_config(checkpoint.config), halves, options)
    assert isinstance(model, SequentialGPT)
    caches = model.allocate_cache(2, 30).layers
    ends = [[model.embed], [model.norm] + ([model.head] if model.head else [])]
    if model.head is None:
        ends = [[model.embed, model.norm], []]
    expected = [
        {
            "weights": held([*(model.layers[i] for i in part.layers), *(ends[number])]),
            "cache": sum(caches[i].nbytes for i in part.layers),
        }
        for number, part in enumerate(model.parts)
    ]
    found = planned(tmp_path, options)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["cache"] == theirs["cache"]
        assert ours["weights"] == pytest.approx(theirs["weights"], rel=0.01)


@pytest.mark.parametrize("quantize", [None, "bnb.nf4", "bnb.int8"])
@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "mixtral", "deepseek-v3"])
def test_slices_hold_what_was_said(tmp_path: Path, name: str, quantize: str | None) -> None:
    find_variant(name).build(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    family, config = read_config(checkpoint.config)
    expected = []
    for rank in range(2):
        model, precision = empty_model(config, "tensor", "32-true", CPU)
        if quantize:
            quantize_linears(model, MODES[quantize], torch.float32)
        tensors = ModelShard(model, rank, 2).shard_weights(translated(checkpoint.tensors(), family, config))
        fill(model, tensors, mover(lambda name: CPU, precision), "tiny")
        expected.append({"weights": held([model]), "cache": model.allocate_cache(2, 30).nbytes})
    options = LoadOptions(quantize=quantize, strategy="tensor", devices=2, **PRECISE)  # type: ignore[arg-type]
    assert planned(tmp_path, options) == expected


def test_the_last_of_four_ranks_has_less_of_the_vocabulary(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2}
    write_model(tmp_path, vocab_size=131, head_dim=16, **sizes)
    _, config = read_config(json.loads((tmp_path / "config.json").read_text()))
    expected = []
    for rank in range(4):
        model, _ = empty_model(config, "tensor", "32-true", CPU)
        ModelShard(model, rank, 4)
        expected.append({"weights": held([model]), "cache": model.allocate_cache(2, 30).nbytes})
    assert expected[1] == expected[2] and expected[3]["weights"] < expected[2]["weights"]
    assert planned(tmp_path, LoadOptions(strategy="tensor", devices=4, **PRECISE)) == expected  # type: ignore[arg-type]


@pytest.fixture
def two_ranks() -> Iterator[Any]:
    """This process as the first of two ranks, whose messages go nowhere."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.parametrize("cpu_offload", [False, True])
def test_shares_hold_what_was_said(tmp_path: Path, two_ranks: Any, cpu_offload: bool) -> None:
    from torch.distributed.tensor import DTensor

    from mygpt.parallel import fsdp

    find_variant("mixtral").build(tmp_path)
    _, config = read_config(json.loads((tmp_path / "config.json").read_text()))
    model, _ = empty_model(config, "fsdp", "32-true", CPU)
    fsdp.shard(model, two_ranks, CPU, cpu_offload=cpu_offload)
    shares = [parameter.to_local() for parameter in model.parameters() if isinstance(parameter, DTensor)]
    options = LoadOptions(strategy="fsdp", devices=2, cpu_offload=cpu_offload, **PRECISE)  # type: ignore[arg-type]
    found = planned(tmp_path, options)[0]
    expected = 0 if cpu_offload else sum(share.nbytes for share in shares)
    assert found["weights"] == pytest.approx(expected, rel=0.01)
    assert found["cache"] == model.allocate_cache(2, 30).nbytes


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that torch held on the CPU during `work`, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events, found = profiler.profiler.kineto_results.experimental_event_tree(), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            extra = event.extra_fields
            found.append((event.start_time_ns, extra.total_allocated, extra.alloc_size))
    _, total, first = min(found)
    return max(total for _, total, _ in found) - (total - first)


SIZES = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 8192,
}
LATENT = {
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 128,
}


@pytest.mark.parametrize(
    "work", [Workload(64, 70, 1), Workload(700, 706, 2), Workload(1500, 1506, 1)], ids=str
)
@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "llama"},
        {"model_type": "gpt_neox"},
        {"model_type": "gemma2", "sliding_window": 512},
        {"model_type": "mixtral", "num_local_experts": 8},
        {"model_type": "deepseek_v3", "num_key_value_heads": 8, **LATENT, **EXPERTS},
        {"model_type": "gpt_oss", "num_local_experts": 4, "sliding_window": 128},
    ],
    ids=lambda raw: raw["model_type"],
)
def test_the_workspace_is_an_estimate_from_above(raw: dict[str, Any], work: Workload) -> None:
    _, config = read_config(SIZES | raw)
    model = GPT(config).to(torch.bfloat16)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    cache = model.allocate_cache(work.rows, work.slots)
    prefill(model, cache, [[1]] * work.rows)  # what is made once, is made now
    cache.truncate([0] * work.rows)

    @torch.inference_mode()
    def first_token() -> None:
        logits = prefill(model, cache, [[1] * work.prompt_tokens] * work.rows)
        sample(logits, Sampling(), torch.rand(work.rows, dtype=torch.float64))

    size = DTYPES["bf16-true"].itemsize
    estimate = workspace_bytes(list(model.layers), config, work, size, "cpu") + logits_bytes(
        config, work, size
    )
    peak = allocated(first_token)
    assert peak <= estimate <= 4 * peak


def test_what_does_not_divide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama-2-70b"]))
    assert main(["plan", str(tmp_path), "--command", "generate_tp", "--devices", "5"]) == 2
    message = capsys.readouterr().err
    assert "MLP width 28672" in message
    assert "the device counts that do are 1, 2, 4, 8" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "no such file: 'nowhere.json'"),
        (["./nowhere"], "no such folder or file: './nowhere'"),
        (["{}", "--device_memory", "40"], "--device_memory must be a size such as 40GB or 24GiB"),
        (["{}", "--bandwidth", "0"], "--bandwidth must be above 0"),
        (["{}", "--command", "download"], "--command must be one of generate, chat"),
        (["{}", "--prompt_tokens", "5000"], "do not fit the model's context of 4096 tokens"),
        (["{}", "--devices", "cuda:0,tpu:9"], "not all are devices"),
        (
            ["{}", "--strategy", "fsdp", "--devices", "2", "--quantize", "bnb.nf4"],
            "--strategy fsdp does not share out",
        ),
        (["{}", "--command", "generate_tp", "--strategy", "fsdp"], "has its own strategy"),
    ],
)
def test_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["llama-2-70b"]))
    assert main(["plan", *(str(path) if text == "{}" else text for text in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_config_and_an_unknown_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert main(["plan", str(tmp_path)]) == 2
    assert "the model_type 't5' is not supported" in capsys.readouterr().err


def test_tables_fit_100_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["stablelm-base-alpha-3b"]))
    assert main(["plan", str(tmp_path), "--device_memory", "24GB", "--bandwidth", "936"]) == 0
    one = capsys.readouterr().out
    assert main(["plan", str(tmp_path), "--device_memory", "24GB", "--compare", "true"]) == 0
    table = capsys.readouterr().out
    assert "fits 24GB a device" in one
    assert "generate --strategy fsdp" in table
    assert " yes" in table
    assert max(map(len, (one + table).splitlines())) <= 100
    assert "\x1b" not in one + table


def test_a_chat_has_the_whole_context(run: Run) -> None:
    """In the end, however short its answers are. It begins with the first prompt, and what a cache grows by."""
    chat = {"command": "chat", "precision": "16-true", "device_memory": "24GB"}
    for options in ({}, {"max_new_tokens": 10}):
        plan = run("stablelm-base-alpha-3b", **chat, **options)
        assert plan["devices"][0]["kv_cache_bytes"] == 16 * 2 * 4096 * 4096 * 2
        assert plan["kv_cache_tokens"] == 4096
        assert plan["kv_cache_start_bytes"] == 16 * 2 * 4096 * (64 + GROWTH) * 2
    smaller = run("stablelm-base-alpha-3b", **chat, context_length=1000)
    assert smaller["devices"][0]["kv_cache_bytes"] == 16 * 2 * 4096 * 1000 * 2
    assert smaller["kv_cache_start_bytes"] == smaller["devices"][0]["kv_cache_bytes"]
    assert "kv_cache_start_bytes" not in run("stablelm-base-alpha-3b", device_memory="24GB")


def test_a_chats_cache_grows_as_was_said(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gpt", max_position_embeddings=1500)
    chat = LLM.load(str(folder), **PRECISE).chat(max_new_tokens=200, temperature=0.0)
    sizes = []
    for _ in range(6):
        list(chat.say("x" * 500))
        assert chat._cache is not None
        sizes.append((chat._cache.slots, chat._cache.nbytes))
    _, config = read_config(json.loads((folder / "config.json").read_text()))
    options = LoadOptions(strategy="auto", **PRECISE)  # type: ignore[arg-type]
    (full,) = make_plan(config, None, options, Workload(64, 1500, 1)).devices
    assert sizes[-1] == (1500, full.kv_cache_bytes)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a plan says, in one line."""
    assert main(["plan", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Llama 2 70B, on a machine with 42 GB free whose CPU multiplies packed 4-bit weights."""
    monkeypatch.setattr("mygpt.quantize.matmul.has_fast_cpu_kernel", lambda: True)
    monkeypatch.setattr(room, "free_host_bytes", lambda: int(42e9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["llama-2-70b"]))
    return str(path)


def test_free_memory_and_what_would_fit_are_named(big: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--max_new_tokens", "50")
    text = said(capsys, big, *short, "--precision", "bf16-true")
    assert (
        "does not fit: it takes 138.02 GB on cpu and 42.00 GB are free; use --quantize bnb.nf4 (38." in text
    )
    assert text.endswith("generate_tp can use 1, 2, 4 or 8 devices")
    text = said(capsys, big, *short, "--quantize", "bnb.nf4")
    assert " fits: it takes 38." in text and "GB of the 42.00 GB that are free on cpu" in text

    text = said(capsys, big, *short, "--precision", "bf16-true", "--device_memory", "40GB")
    assert (
        "does not fit 40GB a device: use --quantize bnb.nf4-dq (37.4 GB), --devices 4 (34.6 GB) or a" in text
    )
    text = said(capsys, big, *short, "--precision", "32-true", "--device_memory", "1GB")
    assert "does not fit 1GB a device: use a smaller model" in text


def test_a_smaller_context_is_a_remedy(big: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["plan", big, "--quantize", "bnb.nf4", "--command", "chat", "--batch_size", "4", "--json=true"])
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False
    (memory,) = plan["memories"]
    assert memory["name"] == "cpu" and memory["free_bytes"] == 42e9 < memory["needed_bytes"]
    (remedy,) = plan["remedies"]
    assert remedy.startswith("--context_length 2048 (")
    options = ["--quantize", "bnb.nf4", "--batch_size", "4", "--command", "chat", "--context_length"]
    text = said(capsys, big, *options, "2048")
    assert "fits: it takes" in text
    assert "and grows to 2.68 GB, the full context of 2048 tokens; --context_length bounds it" in text
    assert main(["plan", big, "--context_length", "5000"]) == 2
    assert "is more than the model's context of 4096 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "generate_sequentially"])
def test_more_devices_than_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Refused by the plan as by the command; `auto` takes as many as there are layers."""
    folder = str(write_model(tmp_path / "gpt"))
    options = ["--prompt", "Hi"] if command != "plan" else ["--command", "generate_sequentially"]
    capsys.readouterr()
    assert main([command, folder, "--accelerator", "cpu", "--devices", "99", *options]) == 2
    message = "--devices 99: the model has 2 layers to share out; use at most 2 devices"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_auto_takes_no_more_devices_than_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = read_config(CONFIGS["llama-2-70b"] | {"num_hidden_layers": 2})
    monkeypatch.setattr(
        placement, "pick_devices", lambda *options: [torch.device("cuda", i) for i in range(8)]
    )
    options = LoadOptions(devices="auto", strategy="sequential")
    assert choose_placement(config, options).names == ("cuda:0", "cuda:1")


@pytest.mark.parametrize("present", ["cuda", "mps"])
def test_gpu_is_whichever_there_is(monkeypatch: pytest.MonkeyPatch, present: str) -> None:
    """`--accelerator gpu` is litgpt's and Lightning's word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: present == "mps")
    assert pick_device("gpu").type == present
    (device,) = planned_devices(LoadOptions(accelerator="gpu"), foreign=False)
    assert device.type == present


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(InputError, match="--accelerator gpu: this machine, or this build of torch, has none"):
        pick_device("gpu")


def test_a_mixed_list_fills_the_gpu_first(run: Run) -> None:
    gpu, cpu = run(
        "stablelm-base-alpha-3b",
        command="generate_sequentially",
        devices="cuda:0,cpu",
        precision="bf16-true",
        device_memory="6GB",
    )["devices"]
    assert (gpu["device"], cpu["device"]) == ("cuda:0", "cpu")
    assert 4.6e9 < gpu["total_bytes"] < 6e9  # a layer is 0.4 GB, the cache of 4096 tokens 1
    assert cpu["total_bytes"] > 1e9
