"""What a running method gets and gives.

A method is a function `run(inputs, parameters, context) -> outputs`, found by `MethodSpec.run`:

* inputs, outputs: {port name: value}; what a value is, each port class in `medgen.spec` says (images are
  SimpleITK.Image). Optional inputs that the user left out are absent. Optional outputs may be absent.
* parameters: every declared parameter, checked.
* no MRML, no Qt, no file paths but `context.weights`, no globals, no printing (`context.progress.log`).
* same seed, same device: same result.

It raises BadInput with one sentence when the inputs cannot be used, and lets `Cancelled` pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Protocol

from medgen.weights import checked_weights

if TYPE_CHECKING:
    import torch


class Progress(Protocol):
    """Where a method says how far it is. `fraction` counts from 0 to 1 over the whole job and never falls."""

    def report(self, stage: str, fraction: float, message: str = "") -> None: ...

    def log(self, line: str) -> None: ...

    def notice(self, sentence: str) -> None:
        """Something the user must know beside the result, as 'The GPU ran out of memory; this ran on the CPU.'"""

    def partial(self, name: str, value: Any) -> None:
        """Shows something before the end: an image, or a list of images, which must not be changed afterwards. Whoever
        watches sees the newest of each name, or nothing; a job never waits for it."""

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled. Call it at least every half second."""


class SilentProgress:
    """For tests, training and proofs: reports nowhere, is never cancelled."""

    def report(self, stage: str, fraction: float, message: str = "") -> None:
        pass

    def log(self, line: str) -> None:
        pass

    def notice(self, sentence: str) -> None:
        pass

    def partial(self, name: str, value: Any) -> None:
        pass

    def raise_if_cancelled(self) -> None:
        pass


@dataclass
class Context:
    """device: 'cpu', 'cuda:0', ...; seed: of every random draw; weights: checked safetensors file, None where the
    method needs none; cache: survives between jobs of one worker (loaded networks), keyed by the method; the keys must
    name the device. batch_scale: what to multiply the number of patches in a batch with: below 1 after the GPU ran out
    of memory. borrowed: {'method/file': SHA-256} of other methods' weights that took part, for the provenance."""

    progress: Progress = field(default_factory=SilentProgress)
    device: str = "cpu"
    seed: int = 0
    weights: Optional[Path] = None
    cache: dict[Any, Any] = field(default_factory=dict)
    batch_scale: float = 1.0
    borrowed: dict[str, str] = field(default_factory=dict)

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU, so that a seed draws the same numbers for every device."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    def borrow(self, method_id: str, name: str) -> Path:
        """Checked weights of another method. To be called in every run that uses them, also where the network is still
        in the cache: the results name them. Raises BadInput."""
        path, digest = checked_weights(method_id, name)
        self.borrowed[f"{method_id}/{name}"] = digest
        if hasattr(self.cache, "renew"):  # the worker's: what it keeps may be of the file's earlier content
            self.cache.renew(path, digest)
        return path

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


Run = Callable[[dict[str, Any], dict[str, Any], Context], dict[str, Any]]
