"""MRML nodes and the objects of this package.

Needs VTK and MRML nodes that somebody else made: 3D Slicer's scene, or slicer-core's without an application. Nothing here imports ``slicer`` or Qt.

The CT's own RAS frame is the registration's world (docs/architecture.md); a CT node's *parent transform* places that frame in the scene. The X-ray's
camera stands still in the scene at `world_from_camera_reference`, so a registered CT has the toParent transform
``world_from_camera_reference @ camera_from_world``.
"""
