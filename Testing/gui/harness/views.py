"""Draws slice and 3D views of the scene offscreen, with slicer-core's displayable managers."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk
import vtkmodules.vtkRenderingFreeType  # noqa: F401 - texts in the views

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
)


def _managers(factory, names, renderer, node):
    factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    return group


def _window(width: int, height: int):
    renderer, window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(width, height)
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    return renderer, window, interactor


def _save(window, path: Path) -> None:
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(grabber.GetOutputPort())
    writer.Write()


def draw_slice(name: str, path: Path, width: int, height: int, offset_mm: float | None = None) -> None:
    """One slice view as the application shows it, fitted to its background."""
    logic = slicer.app.layoutManager().slice_logics[name]
    node = logic.GetSliceNode()
    node.SetDimensions(width, height, 1)
    logic.FitSliceToAll(width, height)
    if offset_mm is not None:
        logic.SetSliceOffset(offset_mm)
    renderer, window, interactor = _window(width, height)
    group = _managers(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, renderer, node)
    renderer.GetActiveCamera().ParallelProjectionOn()
    mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    actor.SetLayerNumber(0)
    renderer.AddViewProp(actor)
    extra = slicer.app.layoutManager().sliceWidget(name).renderWindow().GetRenderers().GetFirstRenderer().GetViewProps()
    props = [extra.GetItemAsObject(i) for i in range(extra.GetNumberOfItems())]
    for prop in props:
        renderer.AddViewProp(prop)
    _save(window, path)
    for prop in props:
        prop.ReleaseGraphicsResources(window)  # or the next window's picture lacks them
    group.SetMRMLDisplayableNode(None)
    del interactor


def draw_3d(path: Path, width: int, height: int) -> None:
    """The 3D view from the front, a little from above."""
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLViewNode")
    if node is None:
        node = slicer.vtkMRMLViewNode()
        node.SetLayoutName("1")
        node.SetName("View1")
        node = slicer.mrmlScene.AddNode(node)
    node.SetBoxVisible(False)
    node.SetAxisLabelsVisible(False)
    renderer, window, interactor = _window(width, height)
    managers = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
    group = _managers(managers, THREE_D_MANAGERS, renderer, node)
    camera = renderer.GetActiveCamera()
    camera.SetPosition(120, 500, 120)
    camera.SetFocalPoint(0, 0, 0)
    camera.SetViewUp(0, 0, 1)
    renderer.AddLight(_headlight(renderer))
    renderer.ResetCamera()
    camera.Zoom(1.4)
    _save(window, path)
    group.SetMRMLDisplayableNode(None)
    del interactor


def _headlight(renderer):
    light = vtk.vtkLight()
    light.SetLightTypeToHeadlight()
    return light
