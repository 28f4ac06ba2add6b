"""Networks as the samplers want them, and how they are kept in one weights file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from medgen.diffusion.schedule import Schedule
from medgen.errors import BadInput
from medgen.method import Context
from medgen.nets.diffusion_unet import DiffusionUNet, Encoder, EncoderClassifier, Layout, LocalClassifier

ANY_LABEL = -1


class NoiseNetwork:
    """A DiffusionUNet as a function of x and the level: noise, and the variance's fraction.

    label: of every image, for a network with a label embedding; ANY_LABEL is the mean of what it predicts for all of
    them, as if nothing were known (exact where both labels are equally likely), at as many evaluations. condition:
    [n, c, h, w], channels put before x (the MR image of a mask that is drawn). Half precision on CUDA. A network that
    predicts chances adds to what the noisy pixel itself says, and the noise is what x has besides the expected mask.
    """

    def __init__(self, network: DiffusionUNet, label: int | None = None, condition: Tensor | None = None) -> None:
        self.network, self.label, self.condition = network, label, condition
        self.labels = list(range(network.layout.classes)) if label == ANY_LABEL else [label]
        self.schedule = Schedule()
        self.evaluations = 0  # images that went through, for the benchmark

    @torch.no_grad()
    def predict(self, x: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        # the image itself, level 0, was never seen in training: level 1 differs from it by next to nothing
        level = max(t, 1)
        steps = torch.full((len(x),), level, device=x.device)
        given = x if self.condition is None else torch.cat([self.condition, x], dim=1)
        outputs = []
        for each in self.labels:
            label = None if each is None else torch.full((len(x),), each, device=x.device)
            with torch.autocast("cuda", torch.float16, enabled=x.is_cuda):
                outputs.append(self.network(given, steps, label).float())
            self.evaluations += len(x)
        output = torch.stack(outputs).mean(0) if len(outputs) > 1 else outputs[0]
        if self.network.layout.predicts == "chance":
            chance = (output + self.schedule.evidence(x, steps)).sigmoid()
            return (x - self.schedule.signal(level) * chance) / self.schedule.sigma(level), None
        if output.shape[1] == x.shape[1]:
            return output, None
        noise, place = output.chunk(2, dim=1)
        return noise, (place + 1) / 2

    def __call__(self, x: Tensor, t: int) -> Tensor:
        return self.predict(x, t)[0]


def joined_state(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The weights of several networks under 'name.key', for one file."""
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def layouts_of(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """The file's metadata: how each network is built."""
    found = {}
    for name, network in networks.items():
        if isinstance(network, Encoder):
            found[name] = network.layout.to_json()
        if isinstance(network, EncoderClassifier):
            found[name + ".side"] = str(network.side)
        if isinstance(network, LocalClassifier):
            found[name + ".local"] = "yes"
    return found


def compile_for_gpu(network: nn.Module, context: Context) -> None:
    """In place, so that a network which is kept stays compiled. Says where it cannot be: on a CPU it gains nothing."""
    if torch.device(context.device).type != "cuda":
        context.progress.notice("Networks are compiled for a GPU only; this ran as it is.")
    elif find_spec("triton") is None:
        context.progress.notice("The compiler 'triton' is missing; this ran without compiling.")
    else:
        network.compile(dynamic=True)


def network_names(path: Path) -> list[str]:
    """Of the networks in a file. Raises BadInput for another kind of file."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.metadata() or {} if "." not in name and name != "format"]
    if not names:
        raise BadInput(f"'{path.name}' does not say how its networks are built; it was not made by `medgen train`.")
    return names


def load_networks(path: Path, device: str) -> dict[str, nn.Module]:
    """What `joined_state` and `layouts_of` kept, float32, ready to use. Raises BadInput for another kind of file."""
    names = network_names(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a file, not a dict)
    networks: dict[str, nn.Module] = {}
    for name in names:
        layout = Layout.from_json(metadata[name])
        side = metadata.get(name + ".side")
        if side is not None:
            network: nn.Module = EncoderClassifier(layout, int(side))
        else:
            network = LocalClassifier(layout) if name + ".local" in metadata else DiffusionUNet(layout)
        own = {key[len(name) + 1 :]: value.float() for key, value in state.items() if key.startswith(name + ".")}
        network.load_state_dict(own)
        network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks[name] = network.to(device)
    return networks
