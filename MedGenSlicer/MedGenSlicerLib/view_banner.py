"""A line at the top of every slice view that shows a synthetic image, and of every 3D view beside a surface of one, so
that it cannot be taken for an acquired one; and legends where their colours are."""

from __future__ import annotations

from typing import Any, Optional

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from MedGenSlicerLib import ct_views, provenance, views

COLOUR = (0.95, 0.65, 0.25)
_banner: Optional[ViewBanner] = None


def start() -> None:
    """From now on, for as long as the application runs. Called by every module that can show such an image."""
    global _banner
    if _banner is None:
        _banner = ViewBanner()


class ViewBanner:
    def __init__(self) -> None:
        self.actors: dict[str, Any] = {}  # by the name of the view
        scene = slicer.mrmlScene
        self._observed = [
            scene.AddObserver(scene.NodeAddedEvent, self._added),
            scene.AddObserver(scene.NodeRemovedEvent, lambda *_a: self.update_3d()),
            scene.AddObserver(scene.EndImportEvent, self._imported),
        ]
        for composite in views.composites():
            self._follow(composite)
        for model in slicer.util.getNodesByClass("vtkMRMLModelNode"):
            self._follow_model(model)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _added(self, _scene: Any, _event: Any, node: Any) -> None:
        if node is not None and node.IsA("vtkMRMLSliceCompositeNode"):
            self._follow(node)
        elif node is not None and node.IsA("vtkMRMLModelNode"):
            self._follow_model(node)
        elif node is not None and node.IsA("vtkMRMLViewNode"):
            qt.QTimer.singleShot(0, self.update_3d)  # its window comes after it

    def _imported(self, _scene: Any, _event: Any) -> None:
        """The views of a loaded scene are told what they show before the images are there."""
        for composite in views.composites():
            self.update(composite)
        self.update_3d()

    def _follow_model(self, model: Any) -> None:
        if model.GetHideFromEditors():  # the slices in the 3D view, which change with every scroll
            return
        for event in (vtk.vtkCommand.ModifiedEvent, model.DisplayModifiedEvent):
            self._observed.append(model.AddObserver(event, lambda *_a: self.update_3d()))

    def update_3d(self) -> None:
        """Shows or hides the line in every 3D view."""
        shown = bool(surfaces_shown())
        for number, view in enumerate(_views_3d()):
            name = f"3D {number}"
            if name not in self.actors:
                if not shown:
                    continue
                self.actors[name] = _text_actor()
                self.actors[name].SetVisibility(False)
                view.renderWindow().GetRenderers().GetFirstRenderer().AddViewProp(self.actors[name])
            if bool(self.actors[name].GetVisibility()) != shown:
                self.actors[name].SetVisibility(shown)
                view.scheduleRender()

    def _follow(self, composite: Any) -> None:
        # no closure over the node: the cycle would be garbage to Python while the node lives on in the scene
        self._observed.append(composite.AddObserver(vtk.vtkCommand.ModifiedEvent, self._modified))
        self.update(composite)

    def _modified(self, composite: Any, _event: Any) -> None:
        self.update(composite)
        ct_views.update_legends()

    def update(self, composite: Any) -> None:
        """Shows or hides the line in the view of the composite node."""
        name, shown = composite.GetLayoutName() or "", shows_synthetic(composite)
        if name not in self.actors:
            view = _view(name) if shown else None
            if view is None:
                return
            self.actors[name] = _text_actor()
            view.renderWindow().GetRenderers().GetFirstRenderer().AddViewProp(self.actors[name])
        if bool(self.actors[name].GetVisibility()) != shown:
            self.actors[name].SetVisibility(shown)
            view = _view(name)
            if view is not None:
                view.scheduleRender()


def shows_synthetic(composite: Any) -> bool:
    found = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in views.seen_ids(composite)]
    return any(node is not None and provenance.is_synthetic(node) for node in found)


def surfaces_shown() -> list[Any]:
    """The visible models that were made of a synthetic image."""
    models = slicer.util.getNodesByClass("vtkMRMLModelNode")
    return [m for m in models if provenance.is_synthetic(m) and m.GetDisplayVisibility()]


def _views_3d() -> list[Any]:
    """The widgets of the 3D views, where there are any."""
    manager = slicer.app.layoutManager()
    count = getattr(manager, "threeDViewCount", 0)
    return [manager.threeDWidget(number).threeDView() for number in range(count)]


def _view(name: str) -> Optional[Any]:
    """The view's widget, where there are windows at all."""
    manager = slicer.app.layoutManager()
    widget = manager.sliceWidget(name) if manager is not None and hasattr(manager, "sliceWidget") else None
    return widget.sliceView() if widget is not None else None


def _text_actor() -> Any:
    actor = vtk.vtkTextActor()
    actor.SetInput(_("Synthetic image, not validated for treatment"))
    words = actor.GetTextProperty()
    words.SetFontSize(13)
    words.SetBold(True)
    words.SetShadow(True)
    words.SetColor(*COLOUR)
    words.SetJustificationToCentered()
    words.SetVerticalJustificationToTop()
    actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    actor.SetPosition(0.5, 0.94)
    return actor
