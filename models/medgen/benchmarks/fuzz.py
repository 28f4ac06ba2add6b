"""2,000 mutated DICOM, NIfTI, checkpoint and zip files: no crash, no hang, nothing executed, nothing written outside.

A child process reads the files one after the other, so that a crash of a decoder shows as its death; each file must end
in an image, a model or one BadInput sentence.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

SECONDS_ALLOWED = 5.0
FILES, QUICK_FILES = 2000, 200


class Payload:
    """Leaves a mark if anything unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


# ---------------------------------------------------------------------------------------------------------------- seeds


def _dicom_seeds(folder: Path) -> list[bytes]:
    from pydicom.uid import JPEG2000Lossless, RLELossless

    from medgen.benchmarks.exchange_sources import GEOMETRIES, Geometry, write_source, write_ultrasound

    write_source(Geometry("small", size=(24, 20, 2)), folder / "ct")
    enhanced = next(g for g in GEOMETRIES if g.enhanced)
    write_source(enhanced, folder / "enhanced")
    for number, syntax in enumerate(("", RLELossless, JPEG2000Lossless)):
        write_ultrasound(folder / f"us{number}.dcm", 2, True, syntax)
    return [path.read_bytes() for path in sorted(folder.rglob("*.dcm"))]


def _nifti_seeds(folder: Path) -> list[bytes]:
    image = sitk.GetImageFromArray(np.arange(4000, dtype=np.int16).reshape(10, 20, 20))
    seeds = []
    for name in ("a.nii", "a.nii.gz"):
        sitk.WriteImage(image, str(folder / name))
        seeds.append((folder / name).read_bytes())
    return seeds


def _checkpoint_seeds(mark: Path) -> list[bytes]:
    import torch

    seeds = []
    for content in ({"network_weights": {"a": torch.zeros(40)}, "init_args": {}}, {"x": Payload(mark)}):
        stream = io.BytesIO()
        torch.save(content, stream)
        seeds.append(stream.getvalue())
    return [*seeds, pickle.dumps(Payload(mark), 2)]


def _zip_seeds(outside: Path) -> list[bytes]:
    files = {"configs/metadata.json": b"{}", "configs/inference.json": b"{}", "models/model.pt": b"0" * 500}
    seeds = []
    for extra in ({}, {"../outside.txt": b"x"}, {str(outside): b"x"}):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**files, **extra}.items():
                archive.writestr(name, data)
        seeds.append(stream.getvalue())
    return seeds


def mutate(data: bytes, random_source: random.Random) -> bytes:
    """Bits turned, pieces cut, doubled, set to extremes, or the end torn off; most of it near the header."""
    made = bytearray(data)
    for _ in range(random_source.choice((1, 1, 2, 4, 16))):
        if not made:
            break
        reach = len(made) if random_source.random() < 0.4 else min(len(made), 1500)
        at = random_source.randrange(reach)
        way = random_source.randrange(5)
        if way == 0:
            made[at] ^= 1 << random_source.randrange(8)
        elif way == 1:
            made[at : at + 4] = random_source.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
        elif way == 2:
            del made[at : at + random_source.randrange(1, 64)]
        elif way == 3:
            made[at:at] = made[at : at + random_source.randrange(1, 64)]
        elif random_source.random() < 0.3:
            del made[at:]
    return bytes(made)


def write_files(folder: Path, count: int, mark: Path, outside: Path) -> list[Path]:
    """`count` files, a quarter of each kind; the first of each kind are the seeds unchanged."""
    random_source = random.Random(0)
    (folder / "seeds").mkdir(parents=True)
    kinds = {
        ".dcm": _dicom_seeds(folder / "seeds"),
        ".nii": _nifti_seeds(folder / "seeds"),
        ".pth": _checkpoint_seeds(mark),
        ".zip": _zip_seeds(outside),
    }
    files = []
    for number in range(count):
        suffix = list(kinds)[number % 4]
        seeds, turn = kinds[suffix], number // 4
        data = seeds[turn % len(seeds)]
        zipped = suffix == ".nii" and data[:2] == b"\x1f\x8b"
        path = folder / f"{number:04d}{suffix}{'.gz' if zipped else ''}"
        path.write_bytes(data if turn < len(seeds) else mutate(data, random_source))
        files.append(path)
    return files


# ---------------------------------------------------------------------------------------------------------------- child


def read_one(path: Path) -> None:
    """Opens a file the way the program does. Raises BadInput for one that cannot be used."""
    if path.suffix == ".dcm":
        from medgen.exchange.reading import read_dicom_files

        for series in read_dicom_files([path]):
            _ = series.image
    elif path.suffix in (".nii", ".gz"):
        from medgen.io import read_image

        read_image(path)
    elif path.suffix == ".pth":
        from medgen.exchange.nnunet_import import load_checkpoint

        load_checkpoint(path)
    else:
        from medgen.exchange.monai_import import import_monai

        import_monai(path, None)


def serve() -> None:
    """Reads paths on stdin; answers each with 'ok', 'refused' or what escaped."""
    from medgen.errors import BadInput

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what decoders print must not look like an answer
    for line in sys.stdin:
        try:
            read_one(Path(line.strip()))
            answer = "ok"
        except BadInput:
            answer = "refused"
        except BaseException as error:
            answer = f"escaped: {type(error).__name__}: {str(error)[:150]}"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Child:
    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "medgen.benchmarks.fuzz"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=folder,
        )  # fmt: skip

    def ask(self, path: Path) -> tuple[str, float]:
        """The answer and the wait in seconds; 'hang' or 'crash' where none came."""
        assert self.process.stdin and self.process.stdout
        start = time.monotonic()
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        waited = time.monotonic() - start
        if line:
            return str(json.loads(line)), waited
        self.process.kill()
        return ("hang" if not ready else f"crash {self.process.wait()}"), waited

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# ------------------------------------------------------------------------------------------------------------------ run


def run(quick: bool) -> dict[str, Any]:
    """quick: a tenth of the files."""
    count = QUICK_FILES if quick else FILES
    tally: dict[str, int] = {"ok": 0, "refused": 0}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        mark, outside, work = root / "executed", root / "outside.txt", root / "work"
        files = write_files(root / "files", count, mark, outside)
        work.mkdir()
        before = {path for path in root.rglob("*") if work not in path.parents}
        environment = {**os.environ, "MEDGEN_DATA": str(work / "data"), "OMP_NUM_THREADS": "1", "TMPDIR": str(work)}
        child, slowest, warm = Child(environment, work), 0.0, set[str]()
        for path in files:
            answer, waited = child.ask(path)
            if path.suffix in warm:  # the first of a kind pays for its imports
                slowest = max(slowest, waited)
                if waited > SECONDS_ALLOWED:
                    faults.append(f"{path.name}: took {waited:.1f} s")
            warm.add(path.suffix)
            if answer in tally:
                tally[answer] += 1
            else:
                faults.append(f"{path.name}: {answer}")
                if not answer.startswith("escaped"):
                    child, warm = Child(environment, work), set()
        child.close()
        strays = sorted(str(p.relative_to(root)) for p in set(root.rglob("*")) - before if work not in p.parents)
        executed = mark.exists()
    details = {"files": count, **tally, "slowest_s": round(slowest, 2), "faults": faults[:40], "n_faults": len(faults),
               "executed": executed, "files_outside": [s for s in strays if s != "work"]}  # fmt: skip
    passed = not faults and not executed and not details["files_outside"]
    return {"name": "fuzz", "passed": passed, "details": details}


if __name__ == "__main__":
    serve()
