"""Signals as PythonQt offers them: `w.clicked.connect(f)` and `w.connect("clicked(bool)", f)`."""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore
from shiboken6 import getCppPointer

Slot = Callable[..., Any]

# By the sender's address. Qt holds the slots, and with them their targets; they go with the sender.
_slots: dict[int, weakref.WeakSet[Any]] = {}


def _accepted(target: Slot) -> int | None:
    """How many positional arguments the target takes; None: all (as PythonQt counts them)."""
    function = target.__func__ if isinstance(target, types.MethodType) else target
    if not isinstance(function, types.FunctionType):
        return None
    if function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - isinstance(target, types.MethodType)


def make_slot(target: Slot) -> Slot:
    """A plain function that calls `target` with as many arguments as it takes.

    PySide holds bound methods weakly and plain functions strongly; PythonQt holds both.
    """
    if not callable(target):
        raise TypeError(f"A slot must be callable, not {target!r}")
    accepted = _accepted(target)

    def slot(*arguments: Any) -> None:
        target(*(arguments if accepted is None else arguments[:accepted]))

    return slot


def normalized(signature: str) -> str:
    """The signature as Qt writes it: without spaces, const and references."""
    return bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()


def _signal(sender: QtCore.QObject, signature: str) -> Any:
    """What to connect to: the signature known to Qt, or a stand-in's signal object."""
    wanted = normalized(signature)
    name = getattr(type(sender), "SIGNATURES", {}).get(wanted)
    if name is not None:
        return QtCore.QObject.__getattribute__(sender, name).instance
    if QtCore.QObject.metaObject(sender).indexOfSignal(wanted) >= 0:
        return wanted
    known = ", ".join(sorted(signatures(sender)))
    raise ValueError(f"{class_name(sender)} has no signal '{signature}'. It has: {known}")


def class_name(instance: QtCore.QObject) -> str:
    """The name of the object's class, as Qt has it."""
    return str(QtCore.QObject.metaObject(instance).className())


def signatures(sender: QtCore.QObject) -> set[str]:
    """All signals of an object by their signature."""
    meta = QtCore.QObject.metaObject(sender)
    methods = [meta.method(index) for index in range(meta.methodCount())]
    signals = [m for m in methods if m.methodType() == QtCore.QMetaMethod.MethodType.Signal]
    own = {bytes(m.methodSignature().data()).decode() for m in signals}
    stand_ins = set(getattr(type(sender), "SIGNATURES", {}))
    return {s for s in own if "PyObject" not in s} | stand_ins


def _attach(sender: QtCore.QObject, signal: Any, target: Slot) -> None:
    slot: Any = make_slot(target)
    slot.target, slot.signal = target, _key(signal)
    if isinstance(signal, str):
        if not QtCore.QObject.connect(sender, QtCore.SIGNAL(signal), slot):
            raise ValueError(f"Qt refused to connect {class_name(sender)}.{signal}")
    else:
        signal.connect(slot)
    _slots.setdefault(getCppPointer(sender)[0], weakref.WeakSet()).add(slot)


def _detach(sender: QtCore.QObject, signal: Any, target: Slot) -> bool:
    for slot in list(_slots.get(getCppPointer(sender)[0], ())):
        if slot.signal == _key(signal) and slot.target == target:
            if isinstance(signal, str):
                QtCore.QObject.disconnect(sender, QtCore.SIGNAL(signal), slot)
            else:
                signal.disconnect(slot)
            _slots[getCppPointer(sender)[0]].discard(slot)
            return True
    return False


def _key(signal: Any) -> str:
    """The signal's name: `clicked` and `clicked(bool)` may disconnect each other, as in Qt."""
    return (signal if isinstance(signal, str) else str(signal).split(" ")[0]).split("(")[0]


def connect(sender: QtCore.QObject, signature: str, target: Slot, slot: str = "") -> bool:
    """Connects `sender`'s signal to a callable, or to a receiver's method named by `slot`."""
    if slot:
        target = getattr(target, slot.split("(")[0])
    _attach(sender, _signal(sender, signature), target)
    return True


def disconnect(sender: QtCore.QObject, signature: str, target: Slot, slot: str = "") -> bool:
    """Undoes `connect`; False where it was not connected."""
    if slot:
        target = getattr(target, slot.split("(")[0])
    return _detach(sender, _signal(sender, signature), target)


def forget(sender: QtCore.QObject, name: str) -> None:
    """Undoes all connections of a stand-in's signal."""
    signal = QtCore.QObject.__getattribute__(sender, name).instance
    for slot in list(_slots.get(getCppPointer(sender)[0], ())):
        if slot.signal == _key(signal):
            _detach(sender, signal, slot.target)


class Signal:
    """A signal of one object: connect, disconnect, emit; calling it emits."""

    __slots__ = ("_sender", "instance")

    def __init__(self, sender: QtCore.QObject, instance: Any) -> None:
        self._sender = sender
        self.instance = instance

    def connect(self, target: Slot) -> None:
        """Calls `target` at each emission; held strongly."""
        _attach(self._sender, self.instance, target)

    def disconnect(self, target: Slot) -> None:
        """Raises ValueError where `target` was not connected."""
        if not _detach(self._sender, self.instance, target):
            raise ValueError(f"{target!r} is not connected to {self.instance}")

    def emit(self, *arguments: Any) -> None:
        """Emits the signal."""
        self.instance.emit(*arguments)

    __call__ = emit
