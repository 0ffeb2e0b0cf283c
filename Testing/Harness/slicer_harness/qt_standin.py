"""The `qt` module: PySide6 with the attribute semantics of Slicer's PythonQt.

In PythonQt a Qt property is a plain attribute (`button.text`, never `button.text()`), setters exist beside it (`button.setText("...")`), signals are
connected by their C++ signature, and a misspelt attribute is an error. PySide6 differs in all of these; the classes are patched once, on `install`.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets)

# Virtual getters that C++ looks up on the Python object, and static methods that share a property's name, stay methods.
_STAY_METHODS = frozenset({"sizeHint", "minimumSizeHint", "spacing", "heightForWidth", "layout", "singleShot"})

# What Slicer's Qt 5.15 and Qt 6 do not both have, or PythonQt does not wrap.
_NOT_IN_SLICER = frozenset({"QRegExp", "QDesktopWidget", "QTextCodec", "QColorSpace", "QObjectList"})


class StandInError(NotImplementedError):
    """The harness has no stand-in for this; write one, from the documented behaviour of the real thing."""


def install() -> types.ModuleType:
    """Patch PySide6's classes and make the module importable as `qt`; a second call returns the same module."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    module = types.ModuleType("qt", __doc__)
    for source in (*_MODULES, QtUiTools):
        for name in dir(source):
            if name.startswith("Q") and name not in _NOT_IN_SLICER:
                setattr(module, name, getattr(source, name))
    _add_properties()
    _hook_attribute_access()
    qobject: Any = QtCore.QObject
    qobject.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
    qobject.className = lambda self: self.metaObject().className()
    qobject.delete = lambda self: self.deleteLater()
    sys.modules["qt"] = module
    return module


def _qobject_classes() -> Iterator[type]:
    for source in _MODULES:
        for name in dir(source):
            candidate = getattr(source, name)
            if isinstance(candidate, type) and issubclass(candidate, QtCore.QObject):
                yield candidate


# Properties --------------------------------------------------------------------------------------------------------------------------------------


def _add_properties() -> None:
    made = []
    for cls in sorted(set(_qobject_classes()), key=lambda c: len(c.__mro__)):
        meta = cls.staticMetaObject  # type: ignore[attr-defined]
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            described = meta.property(index)
            name = described.name()
            if name.isidentifier() and name not in _STAY_METHODS:
                made.append((cls, name, _property(cls, name, described.isWritable())))
    for cls, name, descriptor in made:  # all getters were looked up before the first is hidden
        setattr(cls, name, descriptor)


def _property(cls: type, name: str, writable: bool) -> property:
    capital = name[0].upper() + name[1:]
    native = next((getter for prefix in (name, f"is{capital}", f"has{capital}") if callable(getter := getattr(cls, prefix, None))), None)

    def read(self: Any) -> Any:
        return native(self) if native else self.property(name)

    def write(self: Any, value: Any) -> None:
        if not self.setProperty(name, value):
            getattr(self, f"set{capital}")(value)

    return property(read, write if writable else None)


# Signals -----------------------------------------------------------------------------------------------------------------------------------------


def _signal(sender: Any, signature: str) -> Any:
    """The bound signal of a C++ signature, e.g. "clicked(bool)".

    Stand-ins declare the signatures that the real class has in `SIGNALS`; Qt's own classes are asked themselves.

    Raises:
        StandInError: the real class has no such signal.
    """
    name, _, arguments = signature.replace(" ", "").partition("(")
    declared = getattr(type(sender), "SIGNALS", {})
    known = {re.sub(r"\s", "", text) for text in declared}
    if signature.replace(" ", "") in known:
        return getattr(sender, name)
    normalised = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    if sender.metaObject().indexOfSignal(normalised) < 0 or any(text.startswith(f"{name}(") for text in known):
        raise StandInError(f"{type(sender).__name__} has no signal {signature}")
    signal = getattr(sender, name)
    overload = arguments.rstrip(")").replace("QString", "str")
    overloads = {"int": int, "bool": bool, "double": float, "str": str}
    try:
        return signal[overloads[overload]] if overload in overloads else signal
    except KeyError:
        return signal


def _connect(sender: Any, signature: str, *receiver: Any) -> bool:
    signal = _signal(sender, signature)
    if len(receiver) == 2:  # an object and its slot's signature
        signal.connect(getattr(receiver[0], receiver[1].partition("(")[0]))
    else:
        signal.connect(receiver[0])
    return True


def _disconnect(sender: Any, signature: str, *receiver: Any) -> bool:
    signal = _signal(sender, signature)
    try:
        signal.disconnect(*receiver[-1:])
    except (RuntimeError, TypeError):  # was not connected: PythonQt says so by its result
        return False
    return True


# Attribute access --------------------------------------------------------------------------------------------------------------------------------


def _hook_attribute_access() -> None:
    """Shiboken resolves `connect` before it looks at the class, and takes any new attribute: both are hooked in the type slots."""
    by_signature: dict[str, Callable[..., bool]] = {"connect": _connect, "disconnect": _disconnect}

    def reading(original: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def __getattribute__(self: Any, name: str) -> Any:
            value = original(self, name)
            if name not in by_signature:
                return value
            # PySide's own code calls connect(source, signal, slot) too: that goes to the native method
            return lambda *args: by_signature[name](self, *args) if args and isinstance(args[0], str) else value(*args)

        return __getattribute__

    def __setattr__(self: Any, name: str, value: Any) -> None:
        known = getattr(type(self), name, None)
        if isinstance(known, property):
            known.__set__(self, value)
        elif self.metaObject().indexOfProperty(name) >= 0:  # a stand-in's own Qt property
            self.setProperty(name, value)
        elif name.startswith("_") or known is not None:
            self.__dict__[name] = value
        elif isinstance(value, QtCore.QObject) and value.property("objectName") == name:
            return  # PySide's .ui loader leaves the children as attributes of the root; PythonQt has no such thing
        else:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; PythonQt makes no new ones")

    for cls in set(_qobject_classes()):
        patched: Any = cls
        if "__getattribute__" in cls.__dict__ or cls is QtCore.QObject:
            patched.__getattribute__ = reading(cls.__getattribute__)
        patched.__setattr__ = __setattr__
