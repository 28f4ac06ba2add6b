"""What holds for every module: its file imports little, its self test passes, its sample data are registered, its panel
opens, closes and is reloaded without a trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness
import pytest

NAMES = harness.module_names()
GUI = Path(__file__).resolve().parent


@pytest.mark.parametrize("name", NAMES)
def test_self_test_passes(driver, name):
    import slicer

    driver.open(name)
    case = getattr(sys.modules[name], f"{name}Test")()
    case.runTest()
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is not None


@pytest.mark.parametrize("name", NAMES)
def test_module_tells_what_it_is(driver, name):
    import slicer

    driver.open(name)
    module = getattr(slicer.modules, name.lower())
    assert module.title and module.helpText and module.acknowledgementText and module.categories
    assert not module.icon.isNull()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("MedGenSegment", "multiplanar_unet"),
        ("MedGenSyntheticCT", "frequency_mr_to_ct"),
        ("MedGenAnomaly", "diffusion_anomaly"),
    ],
)
def test_module_opens_with_what_most_users_come_for(driver, name, method):
    assert driver.open(name).panel.method.id == method


def test_sample_data_are_registered_once(driver):
    import slicer

    for name in NAMES:
        driver.open(name)
    slicer.app.startupCompleted.emit()
    slicer.app.startupCompleted.emit()
    sources = slicer.modules.sampleDataSources["MedGen"]
    assert [source.sampleName for source in sources] == ["MedGenHead"]
    assert Path(sources[0].thumbnailFileName).is_file()
    (node,) = sources[0].customDownloader(sources[0])
    assert node.GetImageData().GetDimensions()[0] > 50


@pytest.mark.parametrize("name", NAMES)
def test_reload_and_cleanup_leave_no_listener(driver, name):
    import slicer

    from MedGenSlicerLib import jobs

    before = len(jobs.controller().listeners)
    driver.open(name)
    slicer.util.reloadScriptedModule(name)
    getattr(slicer.modules, f"{name}Widget").cleanup()
    assert len(jobs.controller().listeners) == before
    driver.head()
    driver.scene.Clear(False)


def test_importing_all_modules_brings_no_torch_into_slicer():
    code = (
        f"import sys; sys.path.insert(0, {str(GUI)!r}); import harness; harness.start()\n"
        "for name in harness.module_names(): harness.load_module(name)\n"
        "heavy = {'torch', 'monai', 'skimage', 'scipy', 'pydicom', 'threading_pool'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr[-1000:]
