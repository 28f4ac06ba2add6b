"""A cohort in, new images of each class out: one RHVAE a class, trained within the run or taken from an earlier one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medgen.errors import BadInput
from medgen.method import Context
from medgen.methods.rhvae_sampling.cohort import Cohort, classes_of, read_cohort
from medgen.methods.rhvae_sampling.learning import Fitted, Settings, fit
from medgen.methods.rhvae_sampling.sampling import Drawn, hamiltonian_samples, prior_samples, walk_samples
from medgen.methods.rhvae_sampling.saving import from_bytes, to_bytes
from medgen.methods.rhvae_sampling.tables import LatentMap, closest_pairs

LARGEST_RESULT = 2**29  # values, 2 GB
TRAINED, DRAWN = 0.75, 0.9  # of the progress bar, when that is done


@dataclass(frozen=True)
class Class:
    """members: numbers of its images, from 0."""

    label: str
    members: list[int]
    model: Fitted
    drawn: Drawn


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: see `spec`. Raises BadInput for a cohort, table, region, model or geodesic that cannot be used."""
    context.progress.report("Preparing the cohort", 0.0)
    cohort = read_cohort(inputs["images"], inputs.get("mask"), parameters)
    labels, names = classes_of(inputs.get("labels"), parameters["class_column"], len(cohort.values))
    members = {label: [n for n, found in enumerate(labels) if found == label] for label in sorted(set(labels))}
    if parameters["count"] * len(members) * cohort.values[0].numel() > LARGEST_RESULT:
        raise BadInput(
            "So many images of that size do not fit in memory; ask for fewer, or for a smaller working size."
        )
    ends = geodesic_ends(members, parameters["from_image"] - 1, parameters["to_image"] - 1)
    losses: list[float] = []
    if "model" in inputs:
        models = _kept_models(inputs["model"], members, cohort, context.device)
    else:
        models = _train(members, cohort, parameters, context, losses)
    classes = [
        Class(label, members[label], models[label], _draw(number, models[label], parameters, context, len(members)))
        for number, label in enumerate(members)
    ]
    outputs = _describe(classes, cohort, names, ends, parameters, context)
    outputs["model"] = to_bytes(models)
    if losses:
        outputs["training"] = {"epoch": list(range(1, len(losses) + 1)), "loss": losses}
    return outputs


def _reporter(context: Context, stage: str, start: float, end: float) -> Callable[[float], None]:
    def report(share: float) -> None:
        context.progress.raise_if_cancelled()
        context.progress.report(stage, start + (end - start) * share)

    return report


# ------------------------------------------------------------------------------------------------------------ training


def settings_of(parameters: dict[str, Any]) -> Settings:
    names = ("latent", "temperature", "floor", "epochs")
    return Settings(**{name: parameters[name] for name in names})


def _train(
    members: dict[str, list[int]], cohort: Cohort, parameters: dict[str, Any], context: Context, losses: list[float]
) -> dict[str, Fitted]:
    """losses: filled with the mean over the classes, epoch after epoch."""
    models, rows = {}, []
    for number, (label, own) in enumerate(members.items()):
        row = [0.0] * parameters["epochs"]
        share = TRAINED / len(members)
        bar = _reporter(context, f"Learning class {label}", number * share, (number + 1) * share)

        def report(done: float, loss: float, bar: Callable[[float], None] = bar, row: list[float] = row) -> None:
            bar(done)
            row[math.ceil(done * len(row) - 1e-6) - 1] = loss  # of an epoch its last update

        models[label] = fit(cohort.values[own], settings_of(parameters), context.seed, context.device, report)
        rows.append(row)
    losses += torch.tensor(rows).mean(0).tolist()
    return models


def _kept_models(content: bytes, members: dict[str, list[int]], cohort: Cohort, device: str) -> dict[str, Fitted]:
    models = from_bytes(content, device)
    fits = set(models) == set(members) and all(
        len(models[label].codes) == len(own) and models[label].network.centre.shape == cohort.values.shape[1:]
        for label, own in members.items()
    )
    if not fits:
        raise BadInput("The trained model is of another cohort: other classes, other images or another working size.")
    return models


# ------------------------------------------------------------------------------------------------------------ sampling


def _draw(number: int, model: Fitted, parameters: dict[str, Any], context: Context, classes: int) -> Drawn:
    share = (DRAWN - TRAINED) / classes
    report = _reporter(context, "Drawing codes", TRAINED + number * share, TRAINED + (number + 1) * share)
    count, seed, steps = parameters["count"], context.seed + number, parameters["steps"]
    if parameters["sampler"] == "prior":
        return prior_samples(model.metric, count, seed)
    if parameters["sampler"] == "walk":
        return walk_samples(model.metric, count, steps, parameters["spread"], seed, report)
    drawn = hamiltonian_samples(model.metric, count, steps, parameters["step_size"], seed, report)
    if drawn.accepted < 0.5:
        context.progress.notice(f"The sampler accepted only {drawn.accepted:.0%} of its moves; take more steps.")
    return drawn


def geodesic_ends(members: dict[str, list[int]], start: int, end: int) -> tuple[str, int, int]:
    """Class and numbers of the two images, from 0 and -1 for one that is not chosen. Raises BadInput for images that
    are not there or of two classes."""
    owner = {number: label for label, own in members.items() for number in own}
    for number in (start, end):
        if number >= len(owner):
            raise BadInput(f"There is no image {number + 1} for the geodesic: the cohort has {len(owner)}.")
    chosen = [owner[number] for number in (start, end) if number >= 0]
    if len(set(chosen)) > 1:
        raise BadInput("The geodesic's images are of two classes; every class has a latent space of its own.")
    return (chosen[0] if chosen else next(iter(members))), start, end


def geodesic_codes(group: Class, start: int, end: int, frames: int) -> Tensor:
    """(frames, d); where an image is not chosen, the one farthest from the other, or the two farthest apart."""
    codes = group.model.codes
    apart = torch.cdist(codes, codes)
    first, last = (group.members.index(number) if number >= 0 else -1 for number in (start, end))
    if first < 0 and last < 0:
        first, last = divmod(int(apart.argmax()), len(codes))
    first = int(apart[last].argmax()) if first < 0 else first
    last = int(apart[first].argmax()) if last < 0 else last
    return group.model.metric.geodesic(codes[first], codes[last], frames)


# ------------------------------------------------------------------------------------------------------------- results


def _describe(
    classes: list[Class], cohort: Cohort, names: list[str], ends: tuple[str, int, int], parameters: dict[str, Any],
    context: Context,
) -> dict[str, Any]:  # fmt: skip
    made: list[Tensor] = []
    owners: list[str] = []
    rows: dict[str, list[Any]] = {}
    spread: dict[str, list[Any]] = {}
    outputs: dict[str, Any] = {}
    for group in classes:
        here = LatentMap(group.label, group.model)
        here.add("cohort", group.model.codes, [names[number] for number in group.members])
        numbers = range(len(owners) + 1, len(owners) + 1 + len(group.drawn.codes))
        here.add("synthetic", group.drawn.codes, [str(number) for number in numbers])
        if group.label == ends[0]:
            along = geodesic_codes(group, ends[1], ends[2], parameters["frames"])
            here.add("geodesic", along, [str(number + 1) for number in range(len(along))])
            outputs["chart"] = here.chart()
            outputs["geodesic"] = [cohort.image(image) for image in group.model.images(along)]
        made.append(group.model.images(group.drawn.codes))
        owners += [group.label] * len(group.drawn.codes)
        _extend(rows, _codes(group, list(numbers), parameters["sampler"], context.seed))
        _extend(spread, here.rows)
    images = torch.cat(made)
    bar = _reporter(context, "Looking for copies", DRAWN, 1.0)
    pairs = closest_pairs(images, cohort.values, names, owners, bar)
    copies = pairs["nearly a copy"].count("yes")
    if copies:
        context.progress.notice(f"{copies} of {len(images)} synthetic images are nearly copies of one of the cohort.")
    return {
        "synthetic": [cohort.image(image) for image in images],
        "codes": rows,
        "map": spread,
        "similarity": pairs,
        **outputs,
    }


def _extend(table: dict[str, list[Any]], more: dict[str, list[Any]]) -> None:
    for name, values in more.items():
        table.setdefault(name, []).extend(values)


def _codes(group: Class, numbers: list[int], sampler: str, seed: int) -> dict[str, list[Any]]:
    codes = group.drawn.codes
    count = len(codes)
    return {
        "image": numbers,
        "label": [group.label] * count,
        "synthetic": ["yes"] * count,
        "sampler": [sampler] * count,
        "seed": [seed] * count,
        "accepted": [round(group.drawn.accepted, 3)] * count,
        "log volume": [round(v, 4) for v in group.model.metric.log_volume(codes).tolist()],
        **{f"z{n + 1}": codes[:, n].tolist() for n in range(codes.shape[1])},
    }
