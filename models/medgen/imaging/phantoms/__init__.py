"""Phantoms whose truth is known: whole heads (real label maps or analytic) rendered as any modality.

    head = load_head(1)                                   # or analytic_head(rng): needs no data
    mr = render_mr(head, "T1", rng)                       # or T1c, T1se, T2, PD, FLAIR, random
    sick, lesion_mask = insert_lesions(head, "wmh", rng)  # then render_mr(sick, "FLAIR", rng)
    other = deform_labels(head, random_deformation(head, rng))
    ct, spr, (water, fat) = render_ct(head, rng), render_spr(head, rng), render_dixon(head, rng)

Label maps and images are SimpleITK images (arrays [z, y, x], LPS, spacing in mm); every draw comes from the
numpy.random.Generator that the caller passes, so that the same generator state gives the same voxels.
"""

from medgen.imaging.phantoms.analytic import analytic_head
from medgen.imaging.phantoms.anatomy import (
    TEST_HEADS,
    TRAIN_HEADS,
    VALIDATION_HEADS,
    crop_to_head,
    deface,
    load_head,
    numbered_maps,
    part_fat,
    read_head,
    resample_labels,
    strip_skull,
)
from medgen.imaging.phantoms.deformation import deform_labels, random_deformation
from medgen.imaging.phantoms.lesions import insert_lesions
from medgen.imaging.phantoms.render import (
    Scan,
    random_contrast,
    random_scan,
    render_ct,
    render_dixon,
    render_mr,
    render_spr,
)

__all__ = [
    "TEST_HEADS",
    "TRAIN_HEADS",
    "VALIDATION_HEADS",
    "Scan",
    "analytic_head",
    "crop_to_head",
    "deface",
    "deform_labels",
    "insert_lesions",
    "load_head",
    "numbered_maps",
    "part_fat",
    "random_contrast",
    "random_deformation",
    "random_scan",
    "read_head",
    "render_ct",
    "render_dixon",
    "render_mr",
    "render_spr",
    "resample_labels",
    "strip_skull",
]
