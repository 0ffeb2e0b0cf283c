"""The Warp kernel: one pass along a ray gives its line integral and the sums its pose Jacobian is made of. One source for CPU and CUDA."""

from __future__ import annotations

import warp as wp

wp.config.log_level = wp.LOG_WARNING  # Warp's banner goes to stdout, where a command's result belongs


@wp.struct
class Scene:
    """What all rays share: the padded volume and the camera."""

    volume: wp.array(dtype=wp.float32)
    stride_i: wp.int32
    stride_j: wp.int32
    upper: wp.vec3  # largest padded voxel index a sample may have, per axis
    centre_voxel: wp.vec3  # the CT's centre c in padded voxel indices
    voxel_from_world_transposed: wp.mat33
    spacing: wp.vec2
    principal_point: wp.vec2
    sdd: wp.float32
    columns: wp.int32
    pixels: wp.int32
    step: wp.float32


@wp.struct
class Sums:
    """Over the samples of one ray: mu, its gradient (voxel axes) and the gradient weighted by the sample's index from the reference sample."""

    value: wp.float32
    gradient: wp.vec3
    moment: wp.vec3


@wp.func
def clip(x: wp.float32, d: wp.float32, upper: wp.float32, bounds: wp.vec2):
    """Shrink the index interval `bounds` to where 0 <= x + index d <= upper."""
    if wp.abs(d) > 1.0e-8:
        a = -x / d
        b = (upper - x) / d
        return wp.vec2(wp.max(bounds[0], wp.min(a, b)), wp.min(bounds[1], wp.max(a, b)))
    if x < 0.0 or x > upper:
        return wp.vec2(1.0, 0.0)
    return bounds


@wp.func
def march(scene: Scene, x: wp.vec3, d: wp.vec3, first: wp.int32, last: wp.int32):
    sums = Sums()
    value = wp.float32(0.0)
    gradient = wp.vec3(0.0)
    moment = wp.vec3(0.0)
    for index in range(first, last + 1):
        p = x + wp.float32(index) * d
        i = wp.int32(p[0])
        j = wp.int32(p[1])
        k = wp.int32(p[2])
        a = p[0] - wp.float32(i)
        b = p[1] - wp.float32(j)
        c = p[2] - wp.float32(k)
        at = i * scene.stride_i + j * scene.stride_j + k
        v000 = scene.volume[at]
        v001 = scene.volume[at + 1]
        v010 = scene.volume[at + scene.stride_j]
        v011 = scene.volume[at + scene.stride_j + 1]
        at += scene.stride_i
        v100 = scene.volume[at]
        v101 = scene.volume[at + 1]
        v110 = scene.volume[at + scene.stride_j]
        v111 = scene.volume[at + scene.stride_j + 1]
        k00 = v001 - v000
        k01 = v011 - v010
        k10 = v101 - v100
        k11 = v111 - v110
        u00 = v000 + c * k00
        u01 = v010 + c * k01
        u10 = v100 + c * k10
        u11 = v110 + c * k11
        j0 = u01 - u00
        j1 = u11 - u10
        w0 = u00 + b * j0
        w1 = u10 + b * j1
        gi = w1 - w0
        value += w0 + a * gi
        g = wp.vec3(gi, j0 + a * (j1 - j0), (k00 + b * (k01 - k00)) + a * ((k10 + b * (k11 - k10)) - (k00 + b * (k01 - k00))))
        gradient += g
        moment += wp.float32(index) * g
    sums.value = value
    sums.gradient = gradient
    sums.moment = moment
    return sums


@wp.kernel(enable_backward=False)
def render(
    scene: Scene,
    camera_from_world: wp.array(dtype=wp.mat33),
    centre_camera: wp.array(dtype=wp.vec3),
    start: wp.int32,
    image: wp.array(dtype=wp.float32),
    jacobian: wp.array2d(dtype=wp.float32),
):
    ray = wp.tid() + start
    pose = ray / scene.pixels
    pixel = ray - pose * scene.pixels
    row = pixel / scene.columns
    column = pixel - row * scene.columns

    world_from_camera = wp.transpose(camera_from_world[pose])
    target = wp.vec3(
        (wp.float32(column) - scene.principal_point[0]) * scene.spacing[0],
        (wp.float32(row) - scene.principal_point[1]) * scene.spacing[1],
        scene.sdd,
    )
    length = wp.length(target)
    direction = target / length
    centre = centre_camera[pose]
    # Samples lie at (n + 1/2) step from the source. The one nearest to the CT's centre is the reference that positions and moments count from:
    # both stay small, so that float32 is enough.
    reference = wp.int32(wp.floor(wp.dot(direction, centre) / scene.step))
    offset = world_from_camera * (direction * ((wp.float32(reference) + 0.5) * scene.step) - centre)
    voxel_from_world = wp.transpose(scene.voxel_from_world_transposed)
    direction = world_from_camera * direction
    x = scene.centre_voxel + voxel_from_world * offset
    d = voxel_from_world * direction * scene.step

    bounds = wp.vec2(wp.float32(-reference), wp.floor(length / scene.step - 0.5) - wp.float32(reference))
    bounds = clip(x[0], d[0], scene.upper[0], bounds)
    bounds = clip(x[1], d[1], scene.upper[1], bounds)
    bounds = clip(x[2], d[2], scene.upper[2], bounds)
    sums = march(scene, x, d, wp.int32(wp.ceil(bounds[0])), wp.int32(wp.floor(bounds[1])))

    image[ray] = sums.value * scene.step
    if jacobian.shape[0] > 0:
        gradient = scene.voxel_from_world_transposed * sums.gradient * scene.step
        moment = scene.voxel_from_world_transposed * sums.moment * (scene.step * scene.step)
        rotation = wp.cross(gradient, offset) + wp.cross(moment, direction)
        for axis in range(3):
            jacobian[ray, axis] = rotation[axis]
            jacobian[ray, axis + 3] = -gradient[axis]
