"""More images of a small cohort, from the panel of MedGenBrainStyle, with the real worker."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk


@pytest.fixture
def panel(driver):
    return driver.open("MedGenBrainStyle").panel


def cohort(driver):
    """A sequence of ten pictures, discs of two sizes, and the table of their classes."""
    from medgen.spec import Image, Table
    from MedGenSlicerLib import frames, result_presenter
    from MedGenSlicerLib.provenance import RunRecord

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    pictures = []
    for number in range(10):
        away = np.hypot(y - rng.uniform(6, 9), x - rng.uniform(6, 9))
        values = 100 / (1 + np.exp(away - (3 if number < 5 else 5)))
        pictures.append(sitk.GetImageFromArray(values[None].astype(np.float32)))
    record = RunRecord("m", "M")
    shown = result_presenter.make_node(Image("images", "Cohort", kind="sequence"), pictures, record)
    labels = result_presenter.make_node(Table("labels", "Labels"), {"label": ["a"] * 5 + ["b"] * 5}, record)
    return frames.sequence_of(shown), labels


def test_a_cohort_gives_synthetic_images_a_map_of_points_and_a_model_for_the_next_run(driver, panel):
    from MedGenSlicerLib import frames, method_catalogue, node_bridge, provenance

    sequence, labels = cohort(driver)
    panel.chooser.choose("rhvae_sampling")
    driver.process()
    for name, node in (("images", sequence), ("labels", labels)):
        panel.inputs.rows[name].selector.setCurrentNode(node)
    for name, value in (("epochs", 3), ("count", 3), ("steps", 20), ("latent", 2), ("frames", 4)):
        panel.state.set_value(method_catalogue.find("rhvae_sampling"), name, value)
    driver.process()
    ticket = driver.run(panel, 120)
    assert ticket.state == "finished", ticket.error
    made = {n.GetAttribute("MedGen.output"): n for n in ticket.results()}
    assert set(made) >= {"synthetic", "codes", "map", "chart", "geodesic", "similarity", "training", "model"}
    assert provenance.is_synthetic(made["synthetic"]) and provenance.is_synthetic(made["geodesic"])
    assert frames.sequence_of(made["synthetic"]).GetNumberOfDataNodes() == 6
    assert node_bridge.table(made["codes"])["label"] == ["a"] * 3 + ["b"] * 3
    chart = made["chart"]
    series = chart.GetNthPlotSeriesNode(1)
    assert chart.GetNumberOfPlotSeriesNodes() == 4
    assert series.GetLineStyle() == series.LineStyleNone and series.GetMarkerStyle() == series.MarkerStyleCircle
    panel.inputs.rows["model"].selector.setCurrentNode(made["model"])
    driver.process()
    again = driver.run(panel, 120)
    assert again.state == "finished", again.error
    assert "training" not in {n.GetAttribute("MedGen.output") for n in again.results()}
