"""'Add a trained model...' clicked through: a MONAI bundle after consent, and files that are no model."""

from __future__ import annotations

import pytest


@pytest.fixture
def dialog(driver, tmp_path, monkeypatch):
    from MedGenSlicerLib import import_dialog, jobs

    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path / "data"))
    jobs.controller().restart()  # a process of earlier tests knows the old folder
    segment = driver.open("MedGenSegment").panel
    driver.click(segment.chooser.more)
    made = import_dialog._open[0]
    yield made, segment
    jobs.controller().restart()


@pytest.mark.timeout(400)
def test_a_bundle_is_added_only_after_consent(driver, dialog, tmp_path):
    from medgen.benchmarks.monai_parity import make_bundle

    made, segment = dialog
    bundle = make_bundle(tmp_path, "UNet")
    assert not made.button.isEnabled()
    made.path.setText(str(bundle))
    driver.click(made.button)
    driver.wait(lambda: made.process is None, 60)
    assert made.digest[:8] in made.hash.text() and not made.button.isEnabled()
    made.trust.setChecked(True)
    driver.click(made.button)
    driver.wait(lambda: made.process is None, 60)
    assert made.status.label.text().startswith("Added: "), made.status.label.text()
    assert segment.method is not None and segment.method.id.startswith("monai_")
    segment.state.set_input_nodes(segment.method.inputs[0].name, [driver.head("Head CT")])
    driver.process()
    results = driver.run(segment, 240).results()
    assert results, segment.ticket.error


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_zip_gets_one_sentence(driver, dialog, tmp_path, content):
    made, segment = dialog
    before = dict(segment.chooser.methods)
    (tmp_path / "model.zip").write_bytes(content)
    made.path.setText(str(tmp_path / "model.zip"))
    driver.click(made.button)
    driver.wait(lambda: made.process is None, 60)
    text = made.status.label.text()
    assert text and "Traceback" not in text and "\n" not in text and "Added" not in text
    assert segment.chooser.methods == before


def test_any_other_folder_is_refused_before_it_is_read(driver, dialog, tmp_path):
    made, _segment = dialog
    made.path.setText(str(tmp_path))
    assert not made.button.isEnabled() and "neither" in made.status.label.text()
