"""The camera that a model is trained with: square, of the encoder's size, and seeing what a C-arm sees."""

from __future__ import annotations

from SphericalRegLib.geometry.camera import Camera


def training_camera(camera: Camera, size_px: int) -> Camera:
    """`size_px` x `size_px` square pixels that cover the whole detector of `camera`, at its distance and about its middle; the same rays."""
    longer = max(count * spacing for count, spacing in zip(camera.size_px, camera.pixel_spacing_mm))
    pixel = longer / size_px
    middle = [
        (size_px - 1) / 2 + (point - (count - 1) / 2) * spacing / pixel
        for point, count, spacing in zip(camera.principal_point_px, camera.size_px, camera.pixel_spacing_mm)
    ]
    return Camera(camera.sdd_mm, (pixel, pixel), (size_px, size_px), (middle[0], middle[1]))
