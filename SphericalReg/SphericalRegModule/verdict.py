"""What is said of a result, whether the CT still stands where it was put, and back there."""

from __future__ import annotations

from typing import Any

import numpy as np
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.matrices import scene_from_node, scene_from_transform
from SphericalRegLib.mrml.poses import is_above, move_ct, pose_of, set_scene_matrix
from SphericalRegLib.mrml.provenance import mark_moved, moved_since

STILL_MM, STILL_DEG = 0.01, 0.01
"""Less is no motion: a matrix that was saved and read again."""

DOUBTFUL_NOTE = "The result is doubtful"  # so begins the note that says the same as `RegistrationResult.doubt`


def in_words(result: Any) -> str:
    """A result in some sentences: similarity, what is known of the error, what to do. What speaks against it is said elsewhere, and first."""
    from SphericalRegLib.registration.spread import spread

    off = spread(result)
    words = [
        _("Similarity {score:.3f} after {seconds:.1f} s.").format(score=result.score, seconds=result.seconds),
        _(
            "Error estimate, not calibrated: {turn:.2f} degrees, {across:.2f} mm across the beam, {along:.2f} mm along it; it does not know of a "
            "wrong minimum."
        ).format(turn=off.rotation_deg, across=off.across_beam_mm, along=off.along_beam_mm),
    ]
    if result.predicted_target_error_mm is not None:
        words.append(_("Predicted target error {error:.1f} mm.").format(error=result.predicted_target_error_mm))
    notes = [note for note in result.notes if not note.startswith(DOUBTFUL_NOTE)]
    return " ".join([*words, _("Verdict: {verdict}; look at the overlay.").format(verdict=result.verdict), *notes])


def moved_off(result: Any, transform: Any, ct: Any, detector: Any, drr: Any = None) -> str:
    """How far the CT stands from its result now, in a sentence, or an empty text where it stands there; transform and DRR are marked accordingly.

    Args:
        result: what the transform carries.
        transform: the node that a registration made.
        ct: the CT's node.
        detector: the X-ray on its detector.
        drr: the DRR of the same registration, or None.
    """
    placed_on = ct.GetParentTransformNode(), detector.GetParentTransformNode()
    try:
        placed = placed_camera(detector)
        if placed is None:
            return ""
        if not any(is_above(transform, parent) for parent in placed_on):
            return _("The CT does not stand under {transform} any more.").format(transform=transform.GetName())
        mm, deg = moved_since(result, pose_of(ct, placed.world_from_camera))
    except InputError as error:  # warped or scaled since
        return str(error)
    off = mm > STILL_MM or deg > STILL_DEG
    for node in (transform, drr):
        if node is not None:
            mark_moved(node, off)
    return _("Moved since the registration: {mm:.1f} mm, {deg:.1f} degrees.").format(mm=mm, deg=deg) if off else ""


def back_to(result: Any, transform: Any, ct: Any, detector: Any) -> None:
    """Put the CT, or the X-ray where that hangs under the transform, back to where its result says; arguments as of `moved_off`.

    Raises:
        InputError: a parent transform that is not linear.
    """
    placed = placed_camera(detector)
    if placed is None:
        return
    if is_above(transform, detector.GetParentTransformNode()):
        step = scene_from_node(ct) @ np.linalg.inv(result.camera_from_world) @ np.linalg.inv(placed.world_from_camera)
        set_scene_matrix(transform, step @ scene_from_transform(transform))
    else:
        move_ct(ct, transform, placed.world_from_camera @ result.camera_from_world)
