"""The CT that was made ready for rendering, and whether it still is what the scene holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Key(NamedTuple):
    """What a prepared CT depends on; changes with the voxels and with where they lie."""

    ct: Any
    labels_node: Any
    labels: Any
    device: str
    attenuation: Any


@dataclass(frozen=True, eq=False)
class Prepared:
    """A CT ready for rendering (`registration.pipeline.prepare`), and what it was made from."""

    key: Key
    pyramid: Any


def key(ct: Any, labels_node: Any, labels: Iterable[int | str] | None, device: str, options: Any) -> Key:
    """Of a CT's node with its chosen parts; `options` None are the library's.

    Raises:
        InputError: see `mrml.parts.state_in`.
    """
    from SphericalRegLib.imaging.attenuation import AttenuationModel
    from SphericalRegLib.mrml.parts import state_in, state_of

    chosen = None if labels is None else tuple(sorted(map(str, labels)))
    model = AttenuationModel() if options is None else options.attenuation
    return Key(state_of(ct), None if labels_node is None else state_in(ct, labels_node), chosen, device, model)


def keep(pyramid: Any, made_from: Key) -> Prepared:
    """A CT that a registration prepared; `made_from` is its `key` of when it was read from the scene, for CT and parts may have changed since."""
    return Prepared(made_from._replace(device=str(pyramid.device)), pyramid)


def prepared(known: Prepared | None, ct: Any, labels_node: Any, labels: Iterable[int | str] | None, device: str, options: Any) -> Prepared:
    """What is known, if it is still right, or the CT prepared anew; "auto" is the GPU where there is one.

    Raises:
        InputError: the CT or its parts cannot be used.
    """
    from SphericalRegLib.devices import resolve_device
    from SphericalRegLib.mrml.session import read_ct
    from SphericalRegLib.registration.pipeline import prepare

    chosen = None if labels is None else tuple(labels)
    wanted = key(ct, labels_node, chosen, resolve_device(device), options)
    if known is not None and known.key == wanted:
        return known
    volume, chosen_options = read_ct(ct, labels_node, chosen, options)
    return Prepared(wanted, prepare(volume, chosen_options, wanted.device))
