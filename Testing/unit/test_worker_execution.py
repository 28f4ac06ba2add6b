"""What happens around a method's own work: memory that runs out, what is remembered between jobs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medgen.errors import BadInput, MedGenError
from medgen.method import Context, SilentProgress
from medgen.spec import MethodSpec, Paper, Table
from medgen.weights import file_sha256
from medgen.worker import devices, execution
from medgen.worker.devices import choose_device, list_devices
from medgen.worker.execution import NETWORKS_KEPT, RecentCache, failure_sentence, run_method

SPEC = MethodSpec("m", "M", "", "test", Paper("", "", "", 2026), "", "a:b", (), (Table("table", "Table"),))
REQUEST = {"parameters": {}, "seed": 0, "device": "cuda:0", "weights": None}


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, sentence: str) -> None:
        self.notices.append(sentence)


def run_with(run: Callable[..., dict], monkeypatch: pytest.MonkeyPatch) -> tuple[dict, list[str]]:
    monkeypatch.setattr(execution, "load_run", lambda spec: run)
    monkeypatch.setattr(execution, "choose_device", lambda asked: asked)
    heard = Heard()
    _, provenance = run_method(SPEC, {}, REQUEST, heard, RecentCache())
    assert provenance["notices"] == heard.notices
    return provenance, heard.notices


@pytest.mark.parametrize(
    ("fits", "tried", "said"),
    [
        (lambda c: True, [("cuda:0", 1.0)], 0),
        (lambda c: c.batch_scale < 1, [("cuda:0", 1.0), ("cuda:0", 0.25)], 1),
        (lambda c: c.device == "cpu", [("cuda:0", 1.0), ("cuda:0", 0.25), ("cpu", 1.0)], 2),
    ],
)
def test_a_full_gpu_means_smaller_batches_then_the_cpu(
    fits: Callable[[Context], bool], tried: list, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run(inputs: dict, parameters: dict, context: Context) -> dict:
        seen.append((context.device, context.batch_scale))
        if not fits(context):
            context.cache["on the GPU"] = 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert not context.cache
        return {"table": {"a": [1]}}

    provenance, notices = run_with(run, monkeypatch)
    assert seen == tried and len(notices) == said
    assert provenance["device"] == tried[-1][0]


def test_other_failures_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(inputs: dict, parameters: dict, context: Context) -> dict:
        seen.append(1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        run_with(run, monkeypatch)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MedGenError("As it is."), "As it is."),
        (MemoryError(), "The computer ran out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "ran out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "The GPU ran out of memory, also with few patches"),
        (ModuleNotFoundError("No module named 'monai'", name="monai"), "lacks the package 'monai'"),
        (ValueError(), "The method failed: ValueError"),
    ],
)
def test_every_failure_is_one_sentence(error: Exception, sentence: str) -> None:
    said = failure_sentence(error)
    assert (sentence in said and "\n" not in said and said.endswith((".", "it.", "region."))) or "ValueError" in said


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = RecentCache()
    context = Context(cache=cache)
    for n in range(NETWORKS_KEPT):
        context.cached(n, lambda n=n: n)
    assert context.cached(0, lambda: "made again") == 0
    context.cached("new", lambda: "new")
    assert 0 in cache and 1 not in cache and len(cache) == NETWORKS_KEPT


def weights_file(folder: Path, method: str, content: str) -> str:
    """Puts a weights file and its card there; returns the SHA-256."""
    place = folder / "Weights" / method
    place.mkdir(parents=True, exist_ok=True)
    (place / "w.safetensors").write_text(content)
    digest = file_sha256(place / "w.safetensors")
    (place / "card.json").write_text(json.dumps({"files": {"w.safetensors": {"sha256": digest}}}))
    return digest


def test_results_name_every_weights_file_and_follow_the_one_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path))

    def run(inputs: dict, parameters: dict, context: Context) -> dict:
        assert context.weights is not None
        path, other = context.weights, context.borrow("other", "w.safetensors")
        return {"table": {"a": [context.cached(str(file), file.read_text) for file in (path, other)]}}

    monkeypatch.setattr(execution, "load_run", lambda spec: run)
    spec, cache = replace(SPEC, weights=("w.safetensors",)), RecentCache()
    for content in (["old", "old"], ["old", "old"], ["new", "old"], ["new", "new"], ["newer", "new"]):
        own, theirs = (weights_file(tmp_path, *pair) for pair in zip(("m", "other"), content, strict=True))
        outputs, provenance = run_method(spec, {}, {**REQUEST, "device": "cpu"}, SilentProgress(), cache)
        assert outputs["table"] == {"a": content}
        assert provenance["weights"] == "w.safetensors, other/w.safetensors"
        assert provenance["weights_sha256"] == f"{own}, {theirs}"


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_devices()[-1]["id"] == "cpu"
    assert choose_device("auto") == list_devices()[0]["id"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    assert list_devices()[0] == {"id": "cuda:0", "title": "NVIDIA H100"}
    assert choose_device("auto") == choose_device("cuda") == "cuda:0" and choose_device("cpu") == "cpu"
    with pytest.raises(BadInput, match="no device 'tpu'"):
        choose_device("tpu")


def test_gpus_are_told_from_the_driver_before_pytorch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "loaded_torch", lambda: None)
    monkeypatch.setattr(devices, "nvidia_names", lambda: ["NVIDIA A", "NVIDIA B"])
    for version, found in {"2.13.0": ["cuda:0", "cuda:1", "cpu"], "2.13.0+cpu": ["cpu"]}.items():
        monkeypatch.setattr(devices.importlib.metadata, "version", lambda name, version=version: version)
        assert [device["id"] for device in list_devices()] == found


def test_a_model_imported_after_the_start_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from medgen.worker import server

    catalogue: dict[str, object] = {"old": "an old method"}
    monkeypatch.setattr(server, "load_catalogue", lambda: dict(catalogue))
    running = server.Server.__new__(server.Server)
    running._methods = {}
    assert running._find("old") == "an old method"
    with pytest.raises(BadInput, match="There is no method 'new'"):
        running._find("new")
    catalogue["new"] = "a new method"
    assert running._find("new") == "a new method"
