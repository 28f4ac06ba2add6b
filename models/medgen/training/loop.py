"""The one training loop. A method brings a `Step` (its networks, optimisers and one update) and a function that makes
the batch of a step number; the loop brings device, precision, averaging, checkpoints, validation, log and an end.

A run that was stopped goes on bit-exactly on the same machine: batches depend on the step number alone, and a
checkpoint holds networks, optimisers, averages and the state of every random generator.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medgen.errors import BadInput, Cancelled
from medgen.method import Progress, SilentProgress

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class LoopConfig:
    """steps: updates in all; precision: Lightning Fabric's ('32-true', 'bf16-mixed', '16-mixed'); schedule: factor on
    every learning rate at a step; ema_decay: of the averaged copies, None for no averaging; clip_norm: of each
    network's gradient; checkpoint_every, validate_every, log_every: steps; patience: validations without a better
    figure before an early stop; max_seconds: of this call, after which it stops with a checkpoint."""

    steps: int
    seed: int = 0
    device: str = "auto"
    precision: Any = "32-true"
    schedule: Callable[[int], float] = lambda step: 1.0
    ema_decay: float | None = None
    clip_norm: float | None = None
    checkpoint_every: int = 500
    validate_every: int = 500
    log_every: int = 50
    patience: int | None = None
    max_seconds: float | None = None


Update = Callable[[str, Tensor], None]


class Step(Protocol):
    """networks and optimizers: by name; the optimiser of a network has its name. `run` does one training step on a
    batch: it calls update(name, loss) for each network that it trains (once for a VAE or a diffusion model, twice for a
    GAN), which backpropagates, clips and steps that network's optimiser, and returns the figures to log."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def run(self, batch: Any, update: Update) -> dict[str, float]: ...


Sample = Callable[[int], Any]  # step number -> batch of tensors, any nesting; the same number gives the same batch
Validate = Callable[[Mapping[str, nn.Module]], float]  # averaged (or plain) networks -> figure, higher is better


@dataclass
class Outcome:
    """networks: averaged ones where averaging was on, else the trained ones, those of the best validation if there was
    one; finished: all steps done or stopped early, not out of time."""

    networks: dict[str, nn.Module]
    step: int
    finished: bool
    best: float | None


def train(
    step: Step,
    sample: Sample,
    folder: Path,
    config: LoopConfig,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Trains from the checkpoint in `folder` if there is one, else from the start. Lets `Cancelled` pass, after writing
    a checkpoint. Raises BadInput for a checkpoint that is damaged or of other networks."""
    run = _Run(step, folder, config, progress or SilentProgress())
    run.restore()
    return run.loop(sample, validate)


class _Run:
    def __init__(self, step: Step, folder: Path, config: LoopConfig, progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.step, self.folder, self.config, self.progress = step, folder, config, progress
        self.fabric = Fabric(accelerator=_accelerator(config.device), devices=1, precision=config.precision)
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(config.seed)
        # averages are copied before the set-up: Fabric's wrapper is for the networks that are trained
        decay = config.ema_decay
        self.averages = {} if decay is None else {name: _copy(net) for name, net in step.networks.items()}
        self.base_rates = {name: [g["lr"] for g in o.param_groups] for name, o in step.optimizers.items()}
        for name, network in step.networks.items():
            step.networks[name] = self.fabric.setup_module(network)
        for name, optimizer in step.optimizers.items():
            step.optimizers[name] = self.fabric.setup_optimizers(optimizer)  # type: ignore[assignment]
        for network in self.averages.values():
            network.to(self.fabric.device)
        self.number, self.waited = 0, 0
        self.best: float | None = None
        self.best_states: dict[str, dict[str, Tensor]] = {}

    # ------------------------------------------------------------------------------------------------------ training

    def loop(self, sample: Sample, validate: Validate | None) -> Outcome:
        config, started = self.config, time.monotonic()
        figures: dict[str, float] = {}
        stopped_early = self._out_of_patience()
        try:
            while self.number < config.steps and not stopped_early:
                if config.max_seconds is not None and time.monotonic() - started > config.max_seconds:
                    break
                self.progress.raise_if_cancelled()
                figures = self._one_step(sample(self.number))
                self.number += 1
                if self.number % config.log_every == 0 or self.number == config.steps:
                    self._log(figures, time.monotonic() - started)
                if validate is not None and self._due(config.validate_every):
                    stopped_early = self._validate(validate)
                if self.number % config.checkpoint_every == 0:
                    self.save()
        except Cancelled:  # raised between two steps; an error within one leaves a half-done step, which is not kept
            self.save()
            raise
        self.save()
        return Outcome(self._result(), self.number, stopped_early or self.number >= config.steps, self.best)

    def _due(self, every: int) -> bool:
        return self.number % every == 0 or self.number == self.config.steps

    def _one_step(self, batch: Any) -> dict[str, float]:
        factor = self.config.schedule(self.number)
        for name, optimizer in self.step.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = rate * factor
        for network in self.step.networks.values():
            network.train()
        figures = self.step.run(self.fabric.to_device(batch), self._update)
        for name, average in self.averages.items():
            self._average(average, self.step.networks[name])
        return figures

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer, network = self.step.optimizers[name], self.step.networks[name]
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.config.clip_norm is not None:
            self.fabric.clip_gradients(network, optimizer, max_norm=self.config.clip_norm)
        optimizer.step()

    def _average(self, average: nn.Module, network: nn.Module) -> None:
        assert self.config.ema_decay is not None
        decay = min(self.config.ema_decay, (1 + self.number) / (10 + self.number))  # follows closely at first
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value.to(mean.dtype), 1 - decay)
                else:
                    mean.copy_(value)

    def _judged(self) -> dict[str, nn.Module]:
        return self.averages or {name: _plain(network) for name, network in self.step.networks.items()}

    def _validate(self, validate: Validate) -> bool:
        """Returns whether to stop early."""
        networks = self._judged()
        for network in networks.values():
            network.eval()
        with torch.no_grad():
            figure = float(validate(networks))
        self._write_line({"step": self.number, "validation": figure})
        if self.best is None or figure > self.best:
            self.best, self.waited = figure, 0
            self.best_states = {name: _state(network) for name, network in networks.items()}
        else:
            self.waited += 1
        return self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.waited >= self.config.patience

    def _result(self) -> dict[str, nn.Module]:
        networks = self._judged()
        for name, state in self.best_states.items():
            networks[name].load_state_dict(state)
        return {name: network.eval() for name, network in networks.items()}

    # ----------------------------------------------------------------------------------------------- log, checkpoints

    def _log(self, figures: Mapping[str, float], seconds: float) -> None:
        self._write_line(
            {"step": self.number, "seconds": round(seconds, 2), **{k: float(v) for k, v in figures.items()}}
        )
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.progress.report("Training", self.number / self.config.steps, shown)

    def _write_line(self, line: dict[str, Any]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        state = {
            "number": self.number,
            "best": self.best,
            "waited": self.waited,
            "best_states": self.best_states,
            "networks": {name: network.state_dict() for name, network in self.step.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.step.optimizers.items()},
            "averages": {name: network.state_dict() for name, network in self.averages.items()},
            "generators": _generators(),
        }
        partial = self.folder / (CHECKPOINT + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def restore(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            self._take(torch.load(path, map_location=self.fabric.device, weights_only=True))
        except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            raise BadInput(
                f"The checkpoint in '{self.folder}' is damaged, or of another training: choose another folder."
            ) from error
        self._drop_later_lines()

    def _take(self, state: dict[str, Any]) -> None:
        for kept, parts in (("networks", self.step.networks), ("optimizers", self.step.optimizers)):
            for name, part in parts.items():
                part.load_state_dict(state[kept][name])
        for name, network in self.averages.items():
            network.load_state_dict(state["averages"][name])
        self.number, self.best, self.waited = state["number"], state["best"], state["waited"]
        self.best_states = state["best_states"]
        _restore_generators(state["generators"])

    def _drop_later_lines(self) -> None:
        """The log of steps after the checkpoint, which will be done again, and a line that a full disk cut short."""
        path = self.folder / LOG
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.number]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _accelerator(device: str) -> str:
    return "cuda" if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else "cpu"


def _copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).requires_grad_(False)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest],
        "python": list(random.getstate()),
    }


def _restore_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _plain(network: nn.Module) -> nn.Module:
    """What Fabric's wrapper wraps."""
    plain = network.module
    assert isinstance(plain, nn.Module)
    return plain
