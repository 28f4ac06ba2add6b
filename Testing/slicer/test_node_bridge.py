"""World-space exactness of the way between MRML nodes and the values of methods, on every kind of grid and parent."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def volume(scene, voxels, ijk_to_ras, name="Image", cls="vtkMRMLScalarVolumeNode"):
    import slicer

    from MedGenSlicerLib.geometry import to_vtk

    node = scene.AddNewNodeByClass(cls, name)
    slicer.util.updateVolumeFromArray(node, voxels)
    node.SetIJKToRASMatrix(to_vtk(ijk_to_ras))
    return node


def grid(seed: int = 1, flip: bool = False, spacing=(0.7, 1.1, 2.5)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(seed) * np.array(spacing)
    if flip:
        matrix[:3, 0] *= -1
    matrix[:3, 3] = (12.3, -45.6, 78.9)
    return matrix


def linear_parent(scene, matrix):
    from MedGenSlicerLib.geometry import to_vtk

    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(to_vtk(matrix))
    return node


def bent_parent(scene):
    """A smooth deformable transform, some millimetres."""
    import vtk

    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in np.random.default_rng(5).uniform(-60, 60, size=(12, 3)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + 3 * np.sin(point / 20))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node.SetAndObserveTransformToParent(spline)
    return node


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    flip=st.booleans(),
    size=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 9)] * 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64, np.int32]),
)
def test_volume_round_trip_is_exact(scene, seed, flip, size, spacing, dtype):
    """Node to image to node: voxels identical, geometry within 1e-6 mm; sizes down to 1, oblique and left-handed."""
    import slicer

    from MedGenSlicerLib import node_bridge

    voxels = (np.random.default_rng(seed).uniform(0, 200, size=size[::-1])).astype(dtype)
    matrix = grid(seed, flip, spacing)
    node = volume(scene, voxels, matrix)
    image = node_bridge.volume_image(node)
    index = [n - 1 for n in size]
    ras = (matrix @ [*index, 1])[:3]
    assert np.allclose(image.TransformIndexToPhysicalPoint(index), ras * [-1, -1, 1], rtol=0, atol=1e-6)
    back = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node_bridge.fill_volume(back, image)
    assert np.abs(node_bridge.volume_grid(back) - matrix).max() < 1e-6
    assert np.array_equal(slicer.util.arrayFromVolume(back), voxels)
    assert slicer.util.arrayFromVolume(back).dtype == voxels.dtype
    scene.RemoveNode(node)
    scene.RemoveNode(back)


def test_colour_volume_keeps_its_channels(scene):
    import slicer

    from MedGenSlicerLib import node_bridge

    voxels = np.random.default_rng(0).integers(0, 255, size=(2, 4, 5, 3)).astype(np.uint8)
    node = volume(scene, voxels, grid(), cls="vtkMRMLVectorVolumeNode")
    image = node_bridge.volume_image(node)
    assert image.GetNumberOfComponentsPerPixel() == 3
    back = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    node_bridge.fill_volume(back, image)
    assert np.array_equal(slicer.util.arrayFromVolume(back), voxels)


@pytest.mark.parametrize("flip", [False, True])
def test_second_input_under_another_linear_transform_keeps_its_place_without_resampling(scene, flip):
    from MedGenSlicerLib import node_bridge

    voxels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    reference = volume(scene, voxels, grid(1))
    other = volume(scene, voxels[::-1].copy(), grid(2, flip))
    to_world = np.eye(4)
    to_world[:3, :3], to_world[:3, 3] = rotation(3), (5, 6, 7)
    shear = np.eye(4)
    shear[0, 1], shear[1, 1], shear[2, 3] = 0.2, 1.3, -4
    reference.SetAndObserveTransformNodeID(linear_parent(scene, to_world).GetID())
    other.SetAndObserveTransformNodeID(linear_parent(scene, shear).GetID())
    image = node_bridge.volume_image(other, reference)
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels[::-1])
    for index in [(0, 0, 0), (5, 4, 3), (2, 3, 1)]:
        world = shear @ grid(2, flip) @ [*index, 1]
        in_reference = np.linalg.inv(to_world) @ world
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), in_reference[:3] * [-1, -1, 1], atol=1e-6)


def test_second_input_under_a_deformable_transform_is_drawn_where_the_world_shows_it(scene):
    """Against moving each voxel's centre by the transform itself."""
    from MedGenSlicerLib import node_bridge

    k, j, i = np.mgrid[:24, :26, :28].astype(float)
    voxels = (i + 2 * j - 0.5 * k).astype(np.float32)  # linear in space, so interpolation is exact
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = (-28, -26, -24)
    reference, other = volume(scene, voxels, matrix), volume(scene, voxels, matrix)
    parent = bent_parent(scene)
    other.SetAndObserveTransformNodeID(parent.GetID())
    drawn = sitk.GetArrayFromImage(node_bridge.volume_image(other, reference))
    to_other = parent.GetTransformFromParent()
    for index in [(10, 12, 9), (14, 13, 12), (6, 15, 8)]:
        local = to_other.TransformPoint((matrix @ [*index, 1])[:3])
        at = (np.linalg.inv(matrix) @ [*local, 1])[:3]
        expected = at[0] + 2 * at[1] - 0.5 * at[2]
        assert abs(drawn[index[2], index[1], index[0]] - expected) < 1e-2


def segmentation(scene, labels, matrix):
    from medgen.spec import LabelMap
    from MedGenSlicerLib import node_bridge, result_presenter
    from MedGenSlicerLib.geometry import set_grid
    from MedGenSlicerLib.provenance import RunRecord

    image = sitk.GetImageFromArray(labels)
    set_grid(image, matrix)
    node = result_presenter.make_node(LabelMap("labels", "labels"), image, RunRecord("m", "M"))
    assert node_bridge.label_image(node) is not None
    return node


@pytest.mark.parametrize("flip", [False, True])
def test_segments_become_labels_on_the_reference_grid(scene, flip):
    from MedGenSlicerLib import node_bridge

    labels = np.random.default_rng(3).integers(0, 4, size=(5, 6, 7)).astype(np.uint8)
    reference = volume(scene, labels.astype(np.int16), grid(4, flip))
    node = segmentation(scene, labels, grid(4, flip))
    assert node.GetSegmentation().GetNumberOfSegments() == 3
    image = node_bridge.label_image(node, reference)
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    assert np.allclose(image.GetOrigin(), node_bridge.volume_image(reference).GetOrigin(), atol=1e-6)
    second = list(node.GetSegmentation().GetSegmentIDs())[1]
    alone = sitk.GetArrayFromImage(node_bridge.label_image(node, reference, [second]))
    assert np.array_equal(alone, labels == 2)


def test_segments_follow_their_own_transform(scene):
    from MedGenSlicerLib import node_bridge

    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    reference = volume(scene, labels.astype(np.int16), np.eye(4))
    node = segmentation(scene, labels, np.eye(4))
    shift = np.eye(4)
    shift[0, 3] = 2
    node.SetAndObserveTransformNodeID(linear_parent(scene, shift).GetID())
    found = sitk.GetArrayFromImage(node_bridge.label_image(node, reference))
    assert np.array_equal(found, np.roll(labels, 2, axis=2))


def test_segments_alone_lie_in_the_first_one_s_frame(scene):
    """A method that takes masks only has a segmentation for its reference."""
    from MedGenSlicerLib import node_bridge

    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    first, second = segmentation(scene, labels, grid(4)), segmentation(scene, labels, grid(4))
    own = node_bridge.label_image(first)
    shift = np.eye(4)
    shift[:3, 3] = (2, -3, 5)
    second.SetAndObserveTransformNodeID(linear_parent(scene, shift).GetID())
    for node, moved in ((first, (0, 0, 0)), (second, (-2, 3, 5))):  # LPS
        image = node_bridge.label_image(node, first)
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(own))
        assert np.allclose(np.subtract(image.GetOrigin(), own.GetOrigin()), moved, atol=1e-6)


def test_points_planes_boxes_go_there_and_back(scene):
    from MedGenSlicerLib import node_bridge

    reference = volume(scene, np.zeros((3, 3, 3), np.int16), grid(1))
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation(9), (1, 2, 3)
    reference.SetAndObserveTransformNodeID(linear_parent(scene, moved).GetID())
    inverse = np.linalg.inv(moved)

    fiducials = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    node_bridge.fill_points(fiducials, [[-1.0, -2.0, 3.0]])
    expected = (inverse @ [1, 2, 3, 1])[:3] * [-1, -1, 1]
    assert np.allclose(node_bridge.points(fiducials, reference), [expected], atol=1e-9)

    plane = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode")
    normal = np.array([0.36, 0.48, 0.8])
    node_bridge.fill_plane(plane, {"origin": [4.0, 5.0, 6.0], "normal": normal.tolist()})
    same = node_bridge.plane(plane)
    assert np.allclose(same["origin"], [4, 5, 6]) and np.allclose(same["normal"], normal)
    turned = node_bridge.plane(plane, reference)
    assert np.allclose(turned["normal"], (inverse[:3, :3] @ (normal * [-1, -1, 1])) * [-1, -1, 1])

    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    value = {"center": [7.0, 8.0, 9.0], "axes": rotation(4).tolist(), "size_mm": [10.0, 20.0, 30.0]}
    node_bridge.fill_roi(box, value)
    back = node_bridge.roi(box)
    assert np.allclose(back["center"], value["center"]) and np.allclose(back["size_mm"], value["size_mm"])
    assert np.allclose(np.abs(np.sum(np.array(back["axes"]) * value["axes"], axis=0)), 1)


def test_tables_transforms_and_bytes_go_there_and_back(scene):
    from medgen import spec
    from MedGenSlicerLib import node_bridge, steps

    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    node_bridge.fill_table(table, {"x": [1.5, 2.5], "name": ["a", "b"]})
    assert node_bridge.table(table) == {"x": [1.5, 2.5], "name": ["a", "b"]}
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(2), (1, 2, 3)
    node_bridge.fill_transform(transform, matrix.tolist())
    assert np.allclose(steps.finish(node_bridge.value_steps(spec.Transform("t", "T"), [transform], None)), matrix)
    text = scene.AddNewNodeByClass("vtkMRMLTextNode")
    node_bridge.fill_blob(text, bytes(range(256)))
    assert node_bridge.blob(text) == bytes(range(256))


def test_result_transform_moves_points_as_the_value_says(scene):
    """The value maps output points to input points; a node under the transform goes from the input to the output."""
    from MedGenSlicerLib import node_bridge

    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node_bridge.fill_transform(transform, [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    moved = transform.GetTransformToParent().TransformPoint([0.0, 0.0, 0.0])
    assert np.allclose(moved, [5, 0, 0])  # LPS -5 is RAS +5


def test_empty_nodes_are_refused_in_plain_words(scene):
    from medgen.errors import BadInput
    from MedGenSlicerLib import node_bridge

    with pytest.raises(BadInput, match="is empty"):
        node_bridge.volume_image(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Void"))
    with pytest.raises(BadInput, match="no segment"):
        node_bridge.label_image(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Void"))
    text = scene.AddNewNodeByClass("vtkMRMLTextNode", "Note")
    text.SetText("hello!")
    with pytest.raises(BadInput, match="no saved model"):
        node_bridge.blob(text)
