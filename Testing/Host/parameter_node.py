"""`slicer.parameterNodeWrapper`: a class whose attributes live in a parameter node.

Offered: bool, int, float, str, pathlib.Path, enums (stored by name), MRML nodes, and
typing.Optional of these; other types raise when the class is made, as in Slicer.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

from .parameter_gui import Connector, connector_for

SlicerParameterNamePropertyName = "SlicerParameterName"


class Validator:
    """A rule for the values of a parameter."""

    def validate(self, value: Any) -> None:
        """Raises ValueError where the value breaks the rule."""
        raise NotImplementedError


@dataclass
class WithinRange(Validator):
    """From minimum to maximum, both allowed."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within [{self.minimum}, {self.maximum}]")


@dataclass
class Minimum(Validator):
    """At least the minimum."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is below {self.minimum}")


@dataclass
class Maximum(Validator):
    """At most the maximum."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is above {self.maximum}")


@dataclass
class Choice(Validator):
    """One of some values."""

    choices: list[Any]

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is not one of {self.choices}")


@dataclass
class Default:
    """The value of a parameter that nobody has set."""

    value: Any


@dataclass
class Decimals:
    """How many decimals the widget shows."""

    value: int


@dataclass
class SingleStep:
    """The step of the widget."""

    value: float


@dataclass
class Parameter:
    """One attribute: how it is checked, written and read."""

    name: str
    kind: Any
    annotations: list[Any]
    default: Any
    optional: bool

    def check(self, value: Any) -> None:
        """Raises TypeError or ValueError where the value does not fit."""
        if value is None:
            if not self.optional and not _is_node(self.kind):
                raise ValueError(f"{self.name} must not be None")
            return
        allowed = (int, float) if self.kind is float else self.kind
        if not isinstance(value, allowed):
            raise TypeError(f"{self.name} must be {self.kind.__name__}, not {value!r}")
        for rule in self.annotations:
            if isinstance(rule, Validator):
                rule.validate(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        """Writes a value that fits."""
        self.check(value)
        if _is_node(self.kind):
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        elif self.optional and value is None:
            node.UnsetParameter(name)
            node.SetParameter(f"{name}_none", "True")
        else:
            node.UnsetParameter(f"{name}_none")
            node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: Any, name: str) -> Any:
        """The value in the node."""
        if _is_node(self.kind):
            return node.GetNodeReference(name)
        if self.optional and node.GetParameter(f"{name}_none") == "True":
            return None
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        if issubclass(self.kind, enum.Enum):
            try:
                return self.kind[text]
            except KeyError:
                raise ValueError(f"{text!r} is no name in {self.kind}") from None
        return self.kind(text)

    def is_in(self, node: Any, name: str) -> bool:
        """Whether the node has a value for it."""
        return bool(node.HasParameter(name) or node.HasParameter(f"{name}_none"))


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


def _parameter(name: str, annotated: Any, given: dict[str, Any]) -> Parameter:
    annotations = list(getattr(annotated, "__metadata__", ()))
    kind = annotated.__origin__ if annotations else annotated
    optional = False
    if isinstance(kind, types.UnionType):
        raise TypeError(f"{name}: Slicer knows typing.Optional[X], not X | None")
    if typing.get_origin(kind) is typing.Union:
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"{name}: the host offers Optional only, not {kind}")
        kind, optional = inner[0], True
    plain = (bool, int, float, str)
    if not (isinstance(kind, type) and (
        kind in plain or issubclass(kind, (enum.Enum, pathlib.PurePath)) or _is_node(kind)
    )):
        raise TypeError(f"{name}: no serializer for {kind}")
    default = given.get(name, next((a.value for a in annotations if isinstance(a, Default)), ...))
    if default is ...:
        default = _first_value(kind, optional)
    return Parameter(name, kind, annotations, default, optional)


def _first_value(kind: Any, optional: bool) -> Any:
    if optional or _is_node(kind):
        return None
    if issubclass(kind, enum.Enum):
        return next(iter(kind))
    return kind()


def _make_property(name: str) -> property:
    return property(
        lambda self: self.getValue(name), lambda self, value: self.setValue(name, value)
    )


class Wrapper:
    """What the decorated class gains: values, defaults, and widgets that follow them."""

    allParameters: typing.ClassVar[dict[str, Parameter]] = {}
    _RESERVED = ("default", "isCached", "dataType", "getValue", "setValue", "connectGui")

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._guis: dict[int, tuple[int, dict[str, Connector]]] = {}
        self._next_tag = 0
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode, self._prefix + parameter.name):
                self.setValue(parameter.name, parameter.default)

    def __setattr__(self, name: str, value: Any) -> None:
        known = name in self.allParameters or name.startswith("_") or name == "parameterNode"
        if not known and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no parameter '{name}'")
        object.__setattr__(self, name, value)

    def _parameter(self, name: str) -> Parameter:
        if name not in self.allParameters:
            raise ValueError(f"No parameter '{name}'; there are {sorted(self.allParameters)}")
        return self.allParameters[name]

    def getValue(self, name: str) -> Any:
        """The value of a parameter."""
        return self._parameter(name).read(self.parameterNode, self._prefix + name)

    def setValue(self, name: str, value: Any) -> None:
        """Sets a parameter; raises TypeError or ValueError where the value does not fit."""
        with slicer.util.NodeModify(self.parameterNode):
            self._parameter(name).write(self.parameterNode, self._prefix + name, value)

    def default(self, name: str) -> Default:
        """The default of a parameter, as Default."""
        return Default(self._parameter(name).default)

    def dataType(self, name: str) -> Any:
        """The type of a parameter."""
        return self._parameter(name).kind

    def connectGui(self, gui: Any) -> int:
        """Ties widgets with the property SlicerParameterName to their parameters, both ways."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = slicer.util.findChildren(gui) if is_widget else gui.__dict__.values()
        named = {w.property(SlicerParameterNamePropertyName): w for w in widgets}
        return self.connectParametersToGui({n: w for n, w in named.items() if n})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Ties each widget to the parameter of that name; raises where no connector fits."""
        connectors = {
            name: connector_for(widget, self._parameter(name)) for name, widget in mapping.items()
        }
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.listen(self._taker(name, connector))
        tag = self._next_tag
        self._next_tag += 1
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, self._show)
        self._guis[tag] = (observer, connectors)
        return tag

    def _taker(self, name: str, connector: Connector) -> Callable[[], None]:
        def take() -> None:
            if not self._updating:
                self.setValue(name, connector.read())

        return take

    def _show(self, _caller: Any, _event: str) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for _, connectors in list(self._guis.values()):
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag: int) -> None:
        """Unties the widgets of that connectGui."""
        if tag in self._guis:
            observer, connectors = self._guis.pop(tag)
            self.RemoveObserver(observer)
            for connector in connectors.values():
                connector.deafen()

    def StartModify(self) -> Any:
        """Of the parameter node."""
        return self.parameterNode.StartModify()

    def EndModify(self, was: Any) -> Any:
        """Of the parameter node."""
        return self.parameterNode.EndModify(was)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Of the parameter node."""
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        """Of the parameter node."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Of the parameter node."""
        self.parameterNode.Modified()


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator: the annotated attributes live in a parameter node."""
    if cls is None:
        return parameterNodeWrapper
    if cls.__bases__ != (object,):
        raise TypeError(f"{cls.__name__}: the host offers wrappers without base classes only")
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {n: _parameter(n, hint, dict(vars(cls))) for n, hint in hints.items()}
    for name in parameters:
        if hasattr(Wrapper, name):
            raise ValueError(f"'{name}' is reserved in a parameterNodeWrapper")
    kept = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    kept |= {name: _make_property(name) for name in parameters}
    kept["allParameters"] = parameters
    return type(cls.__name__, (Wrapper,), kept)


def isParameterNodeWrapper(thing: Any) -> bool:
    """Whether it is such a class or an instance of one."""
    return issubclass(thing if isinstance(thing, type) else type(thing), Wrapper)
