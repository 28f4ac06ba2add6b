"""The README's tables are in step with the code. `python Testing/unit/test_readme.py` writes the methods anew."""

from __future__ import annotations

import re
from pathlib import Path

from medgen.catalogue import load_catalogue
from medgen.spec import MethodSpec
from medgen.weights import STARTER_WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- methods -->\n).*?(?=\n<!-- /methods -->)", re.DOTALL)


def own_methods() -> list[MethodSpec]:
    own = [s for s in load_catalogue().values() if s.run.startswith("medgen.methods.")]
    return [s for s in own if s.family not in ("test", "preview")]


def method_table() -> str:
    rows = ["| method | what it does | inputs | weights | paper |", "|---|---|---|---|---|"]
    for spec in own_methods():
        inputs = ", ".join(port.title + ("" if port.required else " (optional)") for port in spec.inputs)
        shipped = (STARTER_WEIGHTS / spec.weights_id / "card.json").is_file()
        weights = "yes" if shipped else "to be trained" if spec.weights else "none needed"
        authors = spec.paper.authors.split(",")[0]
        paper = f"[{authors} {spec.paper.year}](https://doi.org/{spec.paper.doi})"
        rows.append(f"| `{spec.id}` | {spec.summary} | {inputs} | {weights} | {paper} |")
    return "\n".join(rows)


def test_the_table_of_methods_is_the_catalogue() -> None:
    found = TABLE.search(README.read_text("utf-8"))
    assert found is not None
    assert found.group() == method_table()


def test_every_slicer_module_is_in_the_table_of_modules() -> None:
    modules = {path.stem for path in ROOT.glob("MedGenSlicer/MedGen*/MedGen*.py") if path.stem == path.parent.name}
    assert modules == set(re.findall(r"^\| \[?\*{0,2}(MedGen\w+)", README.read_text("utf-8"), re.MULTILINE))


def test_links_lead_to_files_of_this_project() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8"))
    lost = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not lost


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda _: method_table(), README.read_text("utf-8")), "utf-8")
