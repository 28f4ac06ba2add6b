"""The training loop as a method's author meets it: runs that end early, are killed, go on, and log what happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from medgen.errors import BadInput, Cancelled
from medgen.method import SilentProgress
from medgen.training.export import export_weights
from medgen.training.loop import LoopConfig, train
from medgen.weights import checked_weights, load_card


class Regression:
    """One network with dropout (so that the random generators matter)."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.networks = {"net": nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))}
        self.optimizers = {"net": torch.optim.Adam(self.networks["net"].parameters(), 1e-2)}

    def run(self, batch, update):
        x, y = batch
        loss = ((self.networks["net"](x) - y) ** 2).mean()
        update("net", loss)
        return {"loss": loss.item()}


class TinyGan:
    def __init__(self) -> None:
        torch.manual_seed(4)
        self.networks = {"generator": nn.Linear(2, 4), "discriminator": nn.Linear(4, 1)}
        self.optimizers = {n: torch.optim.Adam(m.parameters(), 1e-2) for n, m in self.networks.items()}

    def run(self, batch, update):
        x, _ = batch
        g, d = self.networks["generator"], self.networks["discriminator"]
        fake = g(torch.randn(len(x), 2))
        d_loss = nn.functional.softplus(d(fake.detach())).mean() + nn.functional.softplus(-d(x)).mean()
        update("discriminator", d_loss)
        g_loss = nn.functional.softplus(-d(fake)).mean()
        update("generator", g_loss)
        return {"d": d_loss.item(), "g": g_loss.item()}


def sample(step: int):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def states(outcome):
    return {f"{n}.{k}": v for n, net in outcome.networks.items() for k, v in net.state_dict().items()}


@pytest.mark.parametrize("make", [Regression, TinyGan])
def test_a_run_in_two_parts_equals_one_bit_for_bit(make, tmp_path: Path) -> None:
    config = dict(ema_decay=0.9, clip_norm=1.0, device="cpu", schedule=lambda s: 1 - s / 40)
    whole = train(make(), sample, tmp_path / "a", LoopConfig(20, **config))
    train(make(), sample, tmp_path / "b", LoopConfig(10, **config))
    second = train(make(), sample, tmp_path / "b", LoopConfig(20, **config))
    assert whole.finished and second.step == 20
    for name, value in states(whole).items():
        assert torch.equal(value, states(second)[name]), name


def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import time, test_training as t
from pathlib import Path
def slow(step):
    print(step, flush=True); time.sleep(0.05); return t.sample(step)
t.train(t.Regression(), slow, Path({str(tmp_path / "killed")!r}), t.LoopConfig(2000, device="cpu", checkpoint_every=5))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 12:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train(Regression(), sample, tmp_path / "killed", LoopConfig(20, device="cpu"))
    whole = train(Regression(), sample, tmp_path / "whole", LoopConfig(20, device="cpu"))
    for name, value in states(whole).items():
        assert torch.equal(value, states(resumed)[name]), name


def test_early_stop_keeps_the_best_networks(tmp_path: Path) -> None:
    figures = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen = []

    def validate(networks):
        seen.append(networks["net"][0].weight.detach().clone())
        return next(figures)

    config = LoopConfig(100, device="cpu", validate_every=2, patience=2)
    outcome = train(Regression(), sample, tmp_path, config, validate)
    assert (outcome.step, outcome.best, outcome.finished) == (8, 0.5, True)
    assert torch.equal(outcome.networks["net"][0].weight, seen[1])
    assert train(Regression(), sample, tmp_path, config, validate).step == 8  # a run that stopped early stays stopped
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["validation"] for line in lines if "validation" in line] == [0.1, 0.5, 0.4, 0.3]


def test_cancel_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    class Impatient(SilentProgress):
        calls = 0

        def raise_if_cancelled(self) -> None:
            self.calls += 1
            if self.calls > 7:
                raise Cancelled

    with pytest.raises(Cancelled):
        train(Regression(), sample, tmp_path, LoopConfig(50, device="cpu"), progress=Impatient())
    assert train(Regression(), sample, tmp_path, LoopConfig(7, device="cpu")).step == 7  # nothing was left to do


def test_an_error_within_a_step_keeps_no_half_done_step(tmp_path: Path) -> None:
    class Failing(TinyGan):
        def run(self, batch, update):
            self.count = getattr(self, "count", 0) + 1
            if self.count == 8:  # the discriminator has moved, the generator has not
                super().run(batch, lambda name, loss: update(name, loss) if name == "discriminator" else 1 / 0)
            return super().run(batch, update)

    config = LoopConfig(12, device="cpu", checkpoint_every=5)
    with pytest.raises(ZeroDivisionError):
        train(Failing(), sample, tmp_path / "failed", config)
    resumed, whole = (train(TinyGan(), sample, tmp_path / name, config) for name in ("failed", "whole"))
    for name, value in states(whole).items():
        assert torch.equal(value, states(resumed)[name]), name


def test_a_line_of_the_log_that_was_cut_short_does_not_stop_the_next_start(tmp_path: Path) -> None:
    train(Regression(), sample, tmp_path, LoopConfig(5, device="cpu", log_every=1))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "sec')
    assert train(Regression(), sample, tmp_path, LoopConfig(7, device="cpu", log_every=1)).finished
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_checkpoint_of_another_training_or_a_damaged_one_is_one_sentence(damaged: bool, tmp_path: Path) -> None:
    train(Regression(), sample, tmp_path, LoopConfig(2, device="cpu"))
    wide = Regression()
    wide.networks = {"net": nn.Linear(4, 1)}
    wide.optimizers = {"net": torch.optim.Adam(wide.networks["net"].parameters())}
    path = tmp_path / "checkpoint.pt"
    if damaged:
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadInput, match="is damaged, or of another training"):
        train(Regression() if damaged else wide, sample, tmp_path, LoopConfig(4, device="cpu"))


def test_time_budget_stops_with_a_checkpoint(tmp_path: Path) -> None:
    def slow(step):
        time.sleep(0.02)
        return sample(step)

    outcome = train(Regression(), slow, tmp_path, LoopConfig(10_000, device="cpu", max_seconds=0.3))
    assert 0 < outcome.step < 10_000 and not outcome.finished


def test_exported_weights_pass_their_own_check(tmp_path: Path) -> None:
    card = dict.fromkeys(["title", "training_data", "command", "device", "commit", "licence", "intended_use"], "x")
    card |= {"seed": 0, "steps": 1, "figures": {}, "known_failures": [], "trained_on_rendered": True}
    with pytest.raises(ValueError, match="seed"):
        export_weights({}, tmp_path, "a.safetensors", {k: v for k, v in card.items() if k != "seed"})
    export_weights({"w": torch.ones(3)}, tmp_path, "a.safetensors", card)
    assert load_card(tmp_path)["files"]["a.safetensors"]["sha256"]
    assert checked_weights("any", str(tmp_path / "a.safetensors"))[0].name == "a.safetensors"
