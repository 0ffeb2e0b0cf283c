"""Stand-in for slicer.parameterNodeWrapper: the types and the widgets that the module binds, each pair checked; anything else raises.

As in Slicer, a widget's class must be exactly the one of the table: a subclass has no connector.
"""

import enum
import pathlib
import types
import typing

import ctk
import qt
import slicer
import vtk

__all__ = ["Choice", "Decimals", "Default", "Maximum", "Minimum", "SingleStep", "WithinRange", "isParameterNodeWrapper", "parameterNodeWrapper"]

RESERVED = {"allParameters", "default", "isCached", "parameterNode", "getValue", "setValue", "dataType", "connectGui", "disconnectGui"}
RESERVED |= {"connectParametersToGui", "Modified", "StartModify", "EndModify", "AddObserver", "RemoveObserver", "HasObserver"}


class WithinRange:
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def check(self, value):
        if value is not None and not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within [{self.minimum}, {self.maximum}]")


class Minimum(WithinRange):
    def __init__(self, minimum):
        super().__init__(minimum, float("inf"))


class Maximum(WithinRange):
    def __init__(self, maximum):
        super().__init__(float("-inf"), maximum)


class Choice:
    def __init__(self, choices):
        self.choices = list(choices)

    def check(self, value):
        if value not in self.choices:
            raise ValueError(f"{value} is not one of {self.choices}")


class _Value:
    def __init__(self, value):
        self.value = value


class Default(_Value):
    pass


class Decimals(_Value):
    pass


class SingleStep(_Value):
    pass


class _Parameter:
    def __init__(self, name, hint, default):
        self.name, self.hint, self.notes = name, hint, ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *self.notes = typing.get_args(hint)
        members = [hint]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            members = [member for member in typing.get_args(hint) if member is not type(None)]
        self.isNode = all(issubclass(member, slicer.vtkMRMLNode) for member in members)
        if len(members) > 1 and not self.isNode:
            raise NotImplementedError(f"{name}: no stand-in for parameters of type {hint}")
        self.type, self.nodeTypes = members[0], tuple(members)
        if not self.isNode and not (self.type in (bool, int, float, str, pathlib.Path) or issubclass(self.type, enum.Enum)):
            raise NotImplementedError(f"{name}: no stand-in for parameters of type {hint}")
        default = next((note.value for note in self.notes if isinstance(note, Default)), default)
        if default is ...:
            choice = self.note(Choice)
            members = list(self.type) if issubclass(self.type, enum.Enum) else choice.choices if choice else None
            default = None if self.isNode else members[0] if members else self.type()
        self.default = default
        self.check(default)

    def note(self, kind):
        return next((note for note in self.notes if isinstance(note, kind)), None)

    def check(self, value):
        if self.isNode:
            if value is not None and not isinstance(value, self.nodeTypes):
                raise ValueError(f"{self.name}: {value.GetClassName()} is not a {' or '.join(known.__name__ for known in self.nodeTypes)}")
            return value
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.type is pathlib.Path and isinstance(value, pathlib.PurePath):
            value = pathlib.Path(value)
        if not isinstance(value, self.type) or (self.type in (int, float) and isinstance(value, bool)):
            raise TypeError(f"{self.name}: {value!r} is not a {self.type.__name__}")
        for note in self.notes:
            if hasattr(note, "check"):
                note.check(value)
        return value

    def encode(self, value):
        return value.name if isinstance(value, enum.Enum) else str(value)

    def decode(self, text):
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)


class _Wrapper:
    allParameters: typing.ClassVar = {}

    def __init__(self, node, prefix=None):
        object.__setattr__(self, "parameterNode", node)
        object.__setattr__(self, "_state", {"busy": False, "guis": {}, "next": 0})
        for parameter in self.allParameters.values():
            if not parameter.isNode and not node.HasParameter(parameter.name):
                node.SetParameter(parameter.name, parameter.encode(parameter.default))

    def __setattr__(self, name, value):
        if name not in self.allParameters:
            raise AttributeError(f"{type(self).__name__} has no parameter {name!r}")
        self.setValue(name, value)

    def getValue(self, name):
        parameter = self.allParameters[name]
        if parameter.isNode:
            return self.parameterNode.GetNodeReference(name)
        return parameter.decode(self.parameterNode.GetParameter(name))

    def setValue(self, name, value):
        parameter = self.allParameters[name]
        value = parameter.check(value)
        if parameter.isNode:
            self.parameterNode.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        else:
            self.parameterNode.SetParameter(name, parameter.encode(value))

    def default(self, name):
        return Default(self.allParameters[name].default)

    def dataType(self, name):
        return self.allParameters[name].hint

    def AddObserver(self, *arguments):
        return self.parameterNode.AddObserver(*arguments)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def HasObserver(self, *arguments):
        return self.parameterNode.HasObserver(*arguments)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, was):
        return self.parameterNode.EndModify(was)

    def Modified(self):
        self.parameterNode.Modified()

    def connectGui(self, gui):
        widgets = [widget for widget in vars(gui).values() if widget.property("SlicerParameterName")]
        named = {widget.property("SlicerParameterName"): widget for widget in widgets}
        unknown = sorted(set(named) - set(self.allParameters))
        if unknown:
            raise ValueError(f"Cannot find a param with the given name: {unknown}")
        bindings = [(name, *_binding(widget, self.allParameters[name])) for name, widget in named.items()]
        state, connections = self._state, []
        for name, read, write, signal in bindings:
            write(self.getValue(name))

            def changed(*_, name=name, read=read):
                if not state["busy"]:
                    self.setValue(name, read())

            signal.connect(changed)
            connections.append((signal, changed))

        def update(*_):
            if not state["busy"]:
                state["busy"] = True
                try:
                    for name, _, write, _ in bindings:
                        write(self.getValue(name))
                finally:
                    state["busy"] = False

        tag, state["next"] = state["next"], state["next"] + 1
        state["guis"][tag] = (self.AddObserver(vtk.vtkCommand.ModifiedEvent, update), connections)
        return tag

    def disconnectGui(self, tag):
        if tag in self._state["guis"]:
            observer, connections = self._state["guis"].pop(tag)
            self.RemoveObserver(observer)
            for signal, changed in connections:
                signal.disconnect(changed)


def _binding(widget, parameter):
    """(read, write, signal) of a widget for a parameter; the widget's limits are set as the annotations say."""
    kind, value_type = type(widget), parameter.type
    limits = parameter.note(WithinRange)
    if kind in (qt.QCheckBox,) and value_type is bool:
        return lambda: widget.checked, lambda value: setattr(widget, "checked", value), widget.toggled
    if kind is qt.QPushButton and widget.checkable and value_type is bool:
        return lambda: widget.checked, lambda value: setattr(widget, "checked", value), widget.toggled
    if kind is ctk.ctkSliderWidget and (limits is None or float("inf") in (abs(limits.minimum), abs(limits.maximum))):
        raise RuntimeError(f"{parameter.name}: a ctkSliderWidget needs both limits")
    numeric = {qt.QSpinBox: (int,), qt.QDoubleSpinBox: (float, int), ctk.ctkSliderWidget: (float, int), slicer.qMRMLSliderWidget: (float, int)}
    if value_type in numeric.get(kind, ()):
        if limits is not None:
            widget.minimum, widget.maximum = (value_type(max(min(limit, 1e9), -1e9)) for limit in (limits.minimum, limits.maximum))
        for note, attribute in ((Decimals, "decimals"), (SingleStep, "singleStep")):
            if parameter.note(note):
                setattr(widget, attribute, parameter.note(note).value)
        return lambda: value_type(widget.value), lambda value: setattr(widget, "value", value), widget.valueChanged
    if kind is qt.QComboBox and issubclass(value_type, enum.Enum):
        widget.clear()
        widget.addItems([member.label() if hasattr(member, "label") else member.name for member in value_type])
        members = list(value_type)
        return lambda: members[widget.currentIndex], lambda value: widget.setCurrentIndex(members.index(value)), widget.currentIndexChanged
    if kind is qt.QComboBox and parameter.note(Choice):
        choices = parameter.note(Choice).choices
        widget.clear()
        widget.addItems([str(choice) for choice in choices])
        return lambda: choices[widget.currentIndex], lambda value: widget.setCurrentIndex(choices.index(value)), widget.currentIndexChanged
    if kind is qt.QLineEdit and value_type is str:
        return lambda: widget.text, lambda value: widget.text == value or widget.setText(value), widget.textChanged
    if kind is ctk.ctkPathLineEdit and value_type is pathlib.Path:
        return lambda: pathlib.Path(widget.currentPath), lambda value: setattr(widget, "currentPath", str(value)), widget.currentPathChanged
    if kind is slicer.qMRMLNodeComboBox and parameter.isNode:
        widget.nodeTypes = [known.__name__ for known in parameter.nodeTypes]
        return widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged
    raise RuntimeError(f"{parameter.name}: no connector from {kind.__name__} to {value_type.__name__}")


def _build(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    wrong = sorted(RESERVED & set(hints))
    if wrong:
        raise ValueError(f"reserved parameter names: {wrong}")
    parameters = {name: _Parameter(name, hint, getattr(cls, name, ...)) for name, hint in hints.items()}
    body = {
        name: property(lambda self, name=name: self.getValue(name), lambda self, value, name=name: self.setValue(name, value)) for name in parameters
    }
    kept = {name: value for name, value in vars(cls).items() if name not in parameters and name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (_Wrapper,), {**kept, **body, "allParameters": parameters, "_isParameterNodeWrapper": True})


def parameterNodeWrapper(classtype=None):
    return _build if classtype is None else _build(classtype)


def isParameterNodeWrapper(candidate):
    return getattr(candidate, "_isParameterNodeWrapper", False)
