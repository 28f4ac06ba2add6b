"""Pictures of every panel, and of results in slice and 3D views: `python Testing/gui/screenshots.py [FOLDER [NAME]]`.

Run by `medgen screenshots`; without a folder they go to Resources/Screenshots, where README and Extensions Index look.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import harness  # noqa: E402

DRIVER = None
PANEL_WIDTH, VIEW = 400, 340


def grab(widget, path: Path, height: int = 860) -> Path:
    """The panel at the width that it has in Slicer, as tall as its content."""
    widget.resize(PANEL_WIDTH, height)
    widget.show()
    DRIVER.process(200)
    widget.resize(PANEL_WIDTH, max(400, widget.minimumSizeHint().height(), widget.sizeHint().height()))
    DRIVER.process(200)
    widget.grab().save(str(path))
    return path


def beside(panel: Path, views: list[Path], path: Path) -> None:
    """The panel left, the views right, two by two: the application's window."""
    from PySide6 import QtCore, QtGui

    left = QtGui.QImage(str(panel))
    pictures = [QtGui.QImage(str(view)) for view in views]
    gap, rows = 4, (len(pictures) + 1) // 2
    columns = 2 if len(pictures) > 1 else 1
    cell = pictures[0].size()
    width = left.width() + columns * (cell.width() + gap)
    height = max(left.height(), rows * (cell.height() + gap))
    canvas = QtGui.QImage(width, height, QtGui.QImage.Format_RGB32)
    canvas.fill(QtGui.QColor("#efefef"))
    painter = QtGui.QPainter(canvas)
    painter.drawImage(0, 0, left)
    for number, picture in enumerate(pictures):
        x = left.width() + gap + (number % columns) * (cell.width() + gap)
        painter.drawImage(QtCore.QPoint(x, (number // columns) * (cell.height() + gap)), picture)
    painter.end()
    canvas.save(str(path))


def four_views(folder: Path, stem: str) -> list[Path]:
    from harness import views

    paths = []
    for name in ("Red", "Yellow", "Green"):
        paths.append(folder / f".{stem}-{name}.png")
        views.draw_slice(name, paths[-1], VIEW, VIEW)
    paths.insert(1, folder / f".{stem}-3d.png")
    views.draw_3d(paths[1], VIEW, VIEW)
    return paths


def ready_method(panel, wanted: str, instead: str) -> str:
    """`wanted` if its weights are here, else another method, so that pictures can be made in every checkout."""
    from medgen import weights

    method = panel.chooser.methods.get(wanted)
    here = method is not None and (not method.weights or weights.list_weights(wanted))
    return wanted if here else instead


def head_image():
    """A real T1 (MNI152, which nilearn ships), or the drawn sample where nilearn is missing."""
    import slicer

    from medgen.demo import mni152_file
    from medgen.errors import MedGenError
    from MedGenSlicerLib import sample_data

    try:
        volume = slicer.util.loadVolume(str(mni152_file("t1")))
    except MedGenError:
        return sample_data.load_head()
    volume.SetName("MNI152 T1")
    return volume


def whole_head():
    """A real T1 with skull (Colin27 of the shared data), or the drawn sample where that is missing."""
    import slicer

    from medgen.shared_data import shared_folder
    from MedGenSlicerLib import sample_data

    shared = shared_folder()
    path = None if shared is None else shared / "mr_heads" / "colin27_ch2_T1_1mm.nii.gz"
    if path is None or not path.is_file():
        return sample_data.load_head()
    volume = slicer.util.loadVolume(str(path))
    volume.SetName("Colin27 T1")
    return volume


def segment(folder: Path) -> None:
    """Load a head, run, correct nothing yet: the tutorial's first picture."""
    from MedGenSlicerLib import result_presenter, views

    volume = head_image()
    views.show_background(volume)
    widget = DRIVER.open("MedGenSegment")
    panel = widget.panel
    panel.chooser.choose(ready_method(panel, "multiplanar_unet", "gui_threshold"))
    DRIVER.process(200)
    grab(widget.parent, folder / "MedGenSegment-start.png")
    if panel.method.id == "multiplanar_unet":
        panel.state.set_value(panel.method, "orientations", "1")  # a third of the time, next to the same picture
    ticket = DRIVER.run(panel, 1200)
    assert ticket.state == "finished", ticket.error
    result = next(n for n in ticket.results() if n.IsA("vtkMRMLSegmentationNode"))
    result_presenter.set_three_d_shown(result, True)
    pictures = four_views(folder, "segment")
    shot = grab(widget.parent, folder / ".segment-panel.png")
    beside(shot, pictures, folder / "MedGenSegment.png")


def few_planes(folder: Path) -> None:
    widget = DRIVER.open("MedGenSegment")
    if "multiplanar_unet_few_planes" in widget.panel.chooser.methods:
        widget.panel.chooser.choose("multiplanar_unet_few_planes")
        DRIVER.process(200)
        for view in ("Red", "Green"):
            widget.panel.extra.view.setCurrentText(view)
            widget.panel.extra.add_slice()
        DRIVER.process(200)
        grab(widget.parent, folder / "MedGenSegment-few-planes.png")


def synthetic_ct(folder: Path) -> None:
    """A head becomes a CT; a line through it; the check against a reference."""
    import slicer
    import vtk
    from harness import views as drawn

    from MedGenSlicerLib import method_catalogue, settings, views

    if not method_catalogue.has_weights("frequency_mr_to_ct"):
        settings.put("method_folders", str(HERE / "methods"))
    volume = whole_head()
    views.show_background(volume)
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.SetDisplayVisibility(False)
    widget = DRIVER.open("MedGenSyntheticCT")
    panel = widget.panel
    panel.chooser.choose(ready_method(panel, "frequency_mr_to_ct", "gui_synthetic_ct"))
    next(iter(panel.inputs.rows.values())).selector.setCurrentNode(volume)
    if panel.method.id == "frequency_mr_to_ct":
        for name, value in (("overlap", "0.25"), ("remove_bias", False)):  # quicker
            panel.state.set_value(panel.method, name, value)
    DRIVER.process(200)
    ticket = DRIVER.run(panel, 1200)
    assert ticket.state == "finished", ticket.error
    tools = panel.tools
    tools.look.windows["bone"].click()
    tools.look.surface.click()
    shown = [views.slice_node(name) for name in ("MedGenLeft", "MedGenRight")]
    pictures = []
    for node in shown:
        pictures.append(folder / f".ct-{node.GetName()}.png")
        drawn.draw_slice(node.GetName(), pictures[-1], VIEW, VIEW)
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.SetDisplayVisibility(False)
    pictures.append(folder / ".ct-3d.png")
    drawn.draw_3d(pictures[-1], VIEW, VIEW)
    views.blend(volume, tools.image())
    pictures.append(folder / ".ct-blend.png")
    drawn.draw_slice("Yellow", pictures[-1], VIEW, VIEW)
    for button in tools.sections[:2]:
        button.setProperty("collapsed", False)
    beside(grab(widget.parent, folder / ".ct-panel.png"), pictures, folder / "MedGenSyntheticCT.png")
    line = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Beam")
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    middle = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
    for x in (bounds[0] + 2, bounds[1] - 2):
        line.AddControlPoint(vtk.vtkVector3d(x, middle[1], middle[2] + 10))
    tools.form.rows["lines"].selector.setCurrentNode(line)
    for index, button in enumerate(tools.sections):
        button.setProperty("collapsed", index < 2)
    ticket = tools.start_check()
    DRIVER.wait(lambda: ticket.ended, 300)
    assert ticket.state == "finished", ticket.error
    grab(widget.parent, folder / "MedGenSyntheticCT-check.png")


def sonosite_cine(count: int = 6):
    """A sequence of real frames, which the pydicom package carries, played by a browser; the volume that shows them."""
    import SimpleITK as sitk
    import slicer

    from medgen.training.ultrasound_frames import pydicom_example
    from MedGenSlicerLib import node_bridge

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cardiac US frames")
    for number, image in enumerate(pydicom_example("examples_ybr_color.dcm")[:count]):
        node = slicer.vtkMRMLScalarVolumeNode()
        grey = sitk.Cast(sitk.VectorMagnitude(sitk.Cast(image, sitk.sitkVectorFloat32)) / 3**0.5, sitk.sitkUInt8)
        node_bridge.fill_volume(node, sitk.JoinSeries([grey]))
        sequence.SetDataNodeAtValue(node, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Cardiac US")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence)
    proxy.SetName("Cardiac US")
    proxy.CreateDefaultDisplayNodes()
    return proxy


def ultrasound(folder: Path) -> None:
    """A real cine, a strip of it filled in every frame; then the panel of the style transfer with its map."""
    import numpy as np
    import slicer
    from harness import views as drawn

    from MedGenSlicerLib import method_catalogue, settings

    if not method_catalogue.has_weights("us_inpainting"):
        settings.put("method_folders", str(HERE / "methods"))
    volume = sonosite_cine()
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "strip")
    strip = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    strip[0, 105:130, 130:175] = 1
    slicer.util.updateVolumeFromArray(labels, strip)
    labels.CopyOrientation(volume)
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "What to fill")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, mask)
    slicer.mrmlScene.RemoveNode(labels)
    mask.SetDisplayVisibility(False)
    widget = DRIVER.open("MedGenUltrasound")
    panel = widget.panel
    panel.chooser.choose(ready_method(panel, "us_inpainting", "gui_fill"))
    panel.inputs.rows["frames"].selector.setCurrentNode(volume)
    panel.inputs.rows["mask"].selector.setCurrentNode(mask)
    DRIVER.process(200)
    ticket = DRIVER.run(panel, 600)
    assert ticket.state == "finished", ticket.error
    pictures = []
    for name in ("MedGenLeft", "MedGenRight"):
        pictures.append(folder / f".us-{name}.png")
        drawn.draw_slice(name, pictures[-1], VIEW, VIEW)
    panel.tools.show_spread()
    pictures.append(folder / ".us-spread.png")
    drawn.draw_slice("Red", pictures[-1], VIEW, VIEW)
    panel.tools.wipe_slider.setValue(45)
    DRIVER.process(100)
    pictures.append(folder / ".us-wipe.png")
    drawn.draw_slice("Red", pictures[-1], VIEW, VIEW)
    beside(grab(widget.parent, folder / ".us-panel.png"), pictures, folder / "MedGenUltrasound.png")
    panel.chooser.choose("us_style_transfer")
    DRIVER.process(200)
    grab(widget.parent, folder / "MedGenUltrasound-style.png")


def brain_style(folder: Path) -> None:
    """Two drawn brains, the matrix of their like, the mix beside them; then a real brain being projected."""
    from harness import views as drawn

    from MedGenSlicerLib import method_catalogue, views

    if not method_catalogue.has_weights("brain_stylegan"):
        print("brain_stylegan has no weights here: MedGenBrainStyle is drawn as it opens")
        grab(DRIVER.open("MedGenBrainStyle").parent, folder / "MedGenBrainStyle.png")
        return
    widget = DRIVER.open("MedGenBrainStyle")
    panel = widget.panel
    panel.chooser.choose("brain_stylegan")
    DRIVER.process(200)
    panel.extra.seed.setValue(7)
    DRIVER.wait(lambda: not panel.extra.picture.empty(), 300)
    panel.chooser.choose("brain_stylegan_mix")
    DRIVER.process(100)
    extra = panel.extra
    extra.draw_donors()
    DRIVER.wait(lambda: len(extra.grid.donors[0]) == 5, 300)
    extra.fill_or_stop()
    DRIVER.wait(lambda: not extra.filling(), 600)
    extra.pick(0, 2)
    DRIVER.wait(lambda: not extra.picture.empty() and not panel.controller.quick, 300)
    ticket = DRIVER.run(panel, 600)
    assert ticket.state == "finished", ticket.error
    pictures = []
    for place in views.PLACES:
        pictures.append(folder / f".brain-{place}.png")
        drawn.draw_slice(f"MedGen{place}", pictures[-1], VIEW, VIEW)
    panel.tools.look.difference("a")
    DRIVER.wait(lambda: panel.tools.made("difference") is not None, 60)
    pictures.append(folder / ".brain-difference.png")
    drawn.draw_slice("MedGenRight", pictures[-1], VIEW, VIEW)
    beside(grab(widget.parent, folder / ".brain-panel.png"), pictures, folder / "MedGenBrainStyle.png")
    volume = stripped_brain()
    panel.chooser.choose("brain_stylegan_project")
    panel.inputs.rows["image"].selector.setCurrentNode(volume)
    DRIVER.wait(lambda: not panel.extra.target.empty(), 60)
    ticket = DRIVER.apply(panel)
    DRIVER.wait(lambda: ticket.ended or ticket.fraction > 0.6, 1200)
    assert not ticket.error, ticket.error
    grab(widget.parent, folder / "MedGenBrainStyle-project.png")
    DRIVER.wait(lambda: ticket.ended, 1200)


def stripped_brain():
    """The skull-stripped MNI152 T1 that nilearn ships."""
    import slicer
    from nilearn import datasets

    path = Path(slicer.app.temporaryPath) / "MNI152.nii.gz"
    datasets.load_mni152_template(resolution=2).to_filename(path)
    volume = slicer.util.loadVolume(str(path))
    volume.SetName("MNI152 T1")
    return volume


def anomaly(folder: Path) -> None:
    """Multiple sclerosis (Lesjak et al. 2017, CC BY), where the shared data are: three views, the plot, one slice
    redrawn with another guidance, a threshold."""
    from harness import views as drawn

    from medgen.diffusion.real_cases import ms_cases
    from MedGenSlicerLib import live_slice, method_catalogue, node_bridge

    cases = list(ms_cases())
    if not cases or not method_catalogue.has_weights("diffusion_anomaly"):
        return
    case = cases[-1]
    widget = DRIVER.open("MedGenAnomaly")
    panel = widget.panel
    panel.chooser.choose("diffusion_anomaly")
    for name, image in case.images.items():
        node = DRIVER.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"MS {name}")
        node_bridge.fill_volume(node, image)
        node.CreateDefaultDisplayNodes()
        panel.inputs.rows[name].selector.setCurrentNode(node)
    panel.inputs.rows["T1c"].selector.setCurrentNode(None)
    for name, value in (("from_mm", 70.0), ("to_mm", 95.0)):  # quicker
        panel.state.set_value(panel.method, name, value)
    DRIVER.process(200)
    ticket = DRIVER.run(panel, 900)
    assert ticket.state == "finished", ticket.error
    tools = panel.tools
    DRIVER.process(200)
    middle = [number for number, at in enumerate(tools.slices()["position_mm"]) if 70 <= at <= 95]
    tools.go_to(max(middle, key=lambda number: tools.slices()["p_diseased"][number]))
    tools.flair.setChecked(True)
    tools.live_section.setProperty("collapsed", False)
    tools.live.setChecked(True)
    DRIVER.wait(lambda: tools.live_slice.node(live_slice.MAP) is not None, 120)
    DRIVER.process(300)
    pictures = []
    for place in ("Left", "Middle", "Right"):
        node = drawn.slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNodeMedGen{place}")
        offset = node.GetSliceOffset()
        pictures.append(folder / f".anomaly-{place}.png")
        drawn.draw_slice(f"MedGen{place}", pictures[-1], VIEW, VIEW, offset)
    beside(grab(widget.parent, folder / ".anomaly-panel.png"), pictures, folder / "MedGenAnomaly.png")
    tools.live.setChecked(False)


def edit(folder: Path) -> None:
    """A series of lesion sizes in a rendered head, where the shared data are: the panel, the three views at 20 %."""
    import numpy as np
    import SimpleITK as sitk
    from harness import views as drawn

    from medgen.imaging.phantoms.anatomy import load_head
    from medgen.imaging.phantoms.brain_set import brain_box, render_study
    from medgen.shared_data import shared_folder
    from MedGenSlicerLib import method_catalogue, node_bridge

    if shared_folder() is None or not method_catalogue.has_weights("diffusion_edit"):
        return
    images, lesion, _brain = render_study(brain_box(load_head(15)), "tumour", np.random.default_rng(15))
    worst = int((lesion > 0).sum((1, 2)).argmax())
    panel = (widget := DRIVER.open("MedGenAnomaly")).panel
    panel.chooser.choose("diffusion_edit")
    for name, channel in (("FLAIR", 3), ("T2", 2), ("T1", 0), ("T1c", 1)):
        image = sitk.GetImageFromArray(images[worst - 6 : worst + 7, channel] * 1000)
        image.SetSpacing((1.5, 1.5, 1.5))
        node = DRIVER.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"Rendered {name}")
        node_bridge.fill_volume(node, image)
        node.CreateDefaultDisplayNodes()
        panel.inputs.rows[name].selector.setCurrentNode(node)
    series = {"edit": "size", "size": 0.0, "sizes": 5, "last_size": 20.0, "from_mm": 9.0, "to_mm": 9.0}
    for name, value in series.items():
        panel.state.set_value(panel.method, name, value)
    DRIVER.process(200)
    ticket = DRIVER.run(panel, 900)
    assert ticket.state == "finished", ticket.error
    DRIVER.process(500)
    pictures = [folder / f".edit-{place}.png" for place in ("Left", "Middle", "Right")]
    for place, picture in zip(("Left", "Middle", "Right"), pictures):
        offset = drawn.slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNodeMedGen{place}").GetSliceOffset()
        drawn.draw_slice(f"MedGen{place}", picture, VIEW, VIEW, offset)
    beside(grab(widget.parent, folder / ".edit-panel.png"), pictures, folder / "MedGenAnomaly-edit.png")


def other_panels(folder: Path) -> None:
    """Every other module, as it opens."""
    for name in harness.module_names():
        if name not in ("MedGenSegment", "MedGenSyntheticCT", "MedGenUltrasound", "MedGenBrainStyle"):
            widget = DRIVER.open(name)
            if hasattr(widget, "environment"):
                widget.environment.folders.setText("")
                DRIVER.wait(lambda shown=widget: shown.environment.status, 60)
            grab(widget.parent, folder / f"{name}.png")


def cards_and_dialogs(folder: Path) -> None:
    from MedGenSlicerLib import export_dialog, model_card

    panel = DRIVER.open("MedGenSegment").panel
    model_card.show(panel.method)
    dialog = export_dialog.show(next(n for n in panel.state.results() if n.IsA("vtkMRMLSegmentationNode")))
    DRIVER.process(200)
    model_card._open[0].grab().save(str(folder / "card.png"))
    dialog.dialog.grab().save(str(folder / "export.png"))


def main() -> None:
    global DRIVER
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="medgen-screenshots-"))  # no folder of this machine in a picture
    os.environ.update(HOME=str(home), MEDGEN_DATA=str(home / "medgen"))
    (home / "medgen").mkdir()
    (home / "medgen" / "environment").symlink_to(sys.prefix)
    harness.start()
    from driver import Driver

    from MedGenSlicerLib import jobs, method_catalogue, settings

    if not method_catalogue.has_weights("multiplanar_unet"):
        settings.put("method_folders", str(HERE / "methods"))
    DRIVER = Driver()
    DRIVER.reset()
    for take in [globals()[name] for name in sys.argv[2:]] or [
        segment,
        few_planes,
        cards_and_dialogs,
        other_panels,
        synthetic_ct,
        ultrasound,
        brain_style,
        anomaly,
        edit,
    ]:
        take(folder)
    jobs.controller().shut_down()
    for part in folder.glob(".*.png"):
        part.unlink()
    print(json.dumps(sorted(path.name for path in folder.glob("*.png"))))


if __name__ == "__main__":
    main()
