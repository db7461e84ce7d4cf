"""The module `ctk`: the widgets of the Common Toolkit that modules use."""

from __future__ import annotations

import types
from typing import Any

from PySide6.QtCore import Property, QEvent, QObject, QRect, Qt, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)


class ctkCollapsibleButton(QAbstractButton):
    """A section with a header; a click on the header shows and hides what is in it."""

    STAND_IN = True
    contentsCollapsed = Signal(bool)

    def __init__(self, text: Any = "", parent: QWidget | None = None) -> None:
        if isinstance(text, QWidget):
            text, parent = "", text
        super().__init__(parent)
        self._closed = False
        self._hidden_by_me: list[QWidget] = []
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header().height(), 0, 0)
        QAbstractButton.__dict__["toggled"].__get__(self).connect(self._on_toggled)

    def _header(self) -> QRect:
        return QRect(0, 0, QWidget.width(self), self.fontMetrics().height() + 10)

    def _on_toggled(self, is_open: bool) -> None:
        self._closed = not is_open
        if self._closed:
            shown = [w for w in self.children() if isinstance(w, QWidget) and not w.isHidden()]
            self._hidden_by_me = shown
            for widget in shown:
                widget.hide()
            self.setMaximumHeight(self._header().height())
        else:
            for widget in self._hidden_by_me:
                widget.show()
            self._hidden_by_me = []
            self.setMaximumHeight(16777215)
        self.updateGeometry()
        self.contentsCollapsed.emit(self._closed)

    def childEvent(self, event: Any) -> None:
        """Qt: a widget put into a closed section waits for its opening."""
        child = event.child()
        if event.type() == QEvent.Type.ChildAdded and child.isWidgetType():
            child.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Qt: what is shown while the section is closed stays hidden until it opens."""
        if self._closed and event.type() == QEvent.Type.ShowToParent:
            self._hidden_by_me.append(watched)
            watched.hide()
        return False

    def paintEvent(self, event: Any) -> None:
        """Qt: draws the header as a flat button with an arrow."""
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect = self._header()
        option.state |= QStyle.StateFlag.State_Raised
        style, painter = self.style(), QPainter(self)
        style.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        element = QStyle.PrimitiveElement
        arrow = element.PE_IndicatorArrowRight if self._closed else element.PE_IndicatorArrowDown
        option.rect = QRect(6, (self._header().height() - 12) // 2, 12, 12)
        style.drawPrimitive(arrow, option, painter, self)
        area = self._header().adjusted(24, 0, 0, 0)
        left = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
        painter.drawText(area, left | Qt.TextFlag.TextShowMnemonic, self.text)
        painter.end()

    def hitButton(self, position: Any) -> bool:
        """Qt: only the header can be clicked."""
        return self._header().contains(position)

    def sizeHint(self) -> Any:
        """Qt: the header, and what is below it while open."""
        hint = QWidget.sizeHint(self)
        header = self._header().height()
        hint.setHeight(header if self._closed else max(hint.height(), header))
        text = self.fontMetrics().horizontalAdvance(QAbstractButton.text(self))
        hint.setWidth(max(hint.width(), text + 40))
        return hint

    def minimumSizeHint(self) -> Any:
        """Qt: a closed section needs its header only."""
        hint = QWidget.minimumSizeHint(self)
        header = self._header().height()
        hint.setHeight(header if self._closed else max(hint.height(), header))
        return hint

    def _is_collapsed(self) -> bool:
        return self._closed

    def setCollapsed(self, collapsed: bool) -> None:
        """Closes or opens the section."""
        self.setChecked(not collapsed)

    collapsed = Property(bool, _is_collapsed, setCollapsed)


class ctkSliderWidget(QWidget):
    """A slider with a spin box for a float."""

    STAND_IN = True
    STEPS = 10000
    valueChanged = Signal(float)
    valueChanging = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._value, self._tracking = 0.0, True
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, self.STEPS)
        self._box = QDoubleSpinBox()
        self._box.setRange(0, 99)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(self._on_slider)
        self._slider.sliderReleased.connect(self._on_released)
        self._box.valueChanged.connect(self.setValue)

    def _on_slider(self, position: int) -> None:
        low, high = self._box.minimum, self._box.maximum
        value = round(low + (high - low) * position / self.STEPS, self._box.decimals)
        self.valueChanging.emit(value)
        if self._tracking or not self._slider.isSliderDown():
            self.setValue(value)

    def _on_released(self) -> None:
        self._on_slider(self._slider.value)

    def setValue(self, value: float) -> None:
        """Sets the value, rounded to the decimals and within the range; reports a new one."""
        value = round(float(value), self._box.decimals)
        value = min(max(value, self._box.minimum), self._box.maximum)
        span = self._box.maximum - self._box.minimum
        if not self._slider.isSliderDown():
            self._slider.blockSignals(True)
            share = (value - self._box.minimum) / span if span else 0
            self._slider.setValue(round(share * self.STEPS))
            self._slider.blockSignals(False)
        self._box.blockSignals(True)
        self._box.setValue(value)
        self._box.blockSignals(False)
        if value != self._value:
            self._value = value
            self.valueChanged.emit(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        """Sets both ends; the value is moved into them."""
        self._box.blockSignals(True)
        self._box.setRange(minimum, maximum)
        self._box.blockSignals(False)
        self.setValue(self._value)

    def slider(self) -> QSlider:
        """The slider in it."""
        return self._slider

    def spinBox(self) -> QDoubleSpinBox:
        """The spin box in it."""
        return self._box

    def reset(self) -> None:
        """Back to zero, or the end of the range that is nearest to it."""
        self.setValue(0.0)

    def _set_tracking(self, tracking: bool) -> None:
        self._tracking = tracking

    def _of_box(name: str, kind: type) -> Property:
        def write(self: Any, value: Any) -> None:
            self._box.blockSignals(True)
            setattr(self._box, name, value)
            self._box.blockSignals(False)
            self.setValue(self._value)

        return Property(kind, lambda self: getattr(self._box, name), write)

    value = Property(float, lambda self: self._value, setValue)
    minimum, maximum = _of_box("minimum", float), _of_box("maximum", float)
    singleStep, decimals = _of_box("singleStep", float), _of_box("decimals", int)
    prefix, suffix = _of_box("prefix", str), _of_box("suffix", str)
    tracking = Property(bool, lambda self: self._tracking, _set_tracking)
    pageStep = Property(float, lambda self: self._slider.pageStep)
    spinBoxVisible = Property(
        bool, lambda self: not self._box.isHidden(), lambda self, on: self._box.setVisible(on)
    )

    def _setter(name: str) -> Any:
        def write(self: Any, value: Any) -> None:
            setattr(self, name, value)

        return write

    setMinimum, setMaximum = _setter("minimum"), _setter("maximum")
    setSingleStep, setDecimals = _setter("singleStep"), _setter("decimals")
    setPrefix, setSuffix, setTracking = _setter("prefix"), _setter("suffix"), _setter("tracking")
    setSpinBoxVisible = _setter("spinBoxVisible")


class ctkPathLineEdit(QWidget):
    """A line for a path, with a button that opens a file dialog."""

    STAND_IN = True
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    validInputChanged = Signal(bool)
    Files, Dirs = 2, 1

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._line, self._button = QLineEdit(), QToolButton()
        self._filters, self._name_filters, self._key = self.Files | self.Dirs, [], ""
        self._button.setText("...")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(self._button)
        self._valid = False
        self._line.textChanged.connect(self._on_text)
        self._button.clicked.connect(self.browse)

    def _on_text(self, text: str) -> None:
        """An empty path is no valid input: only validInputChanged reports it."""
        was_valid, self._valid = self._valid, bool(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != was_valid:
            self.validInputChanged.emit(self._valid)

    def browse(self) -> None:
        """Asks for a file, or for a folder where only folders are wanted."""
        if self._filters & self.Files:
            path = QFileDialog.getOpenFileName(self, "Select a file", self._line.text)
        else:
            path = QFileDialog.getExistingDirectory(self, "Select a folder", self._line.text)
        if path:
            self._line.setText(path)

    def setCurrentPath(self, path: str) -> None:
        """Writes the path into the line."""
        self._line.setText(path)

    def addCurrentPathToHistory(self) -> None:
        """The host keeps no history."""

    def _write_filters(self, filters: int) -> None:
        self._filters = int(filters)

    def _write_names(self, names: list[str]) -> None:
        self._name_filters = list(names)

    def _write_key(self, key: str) -> None:
        self._key = key

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)
    filters = Property(int, lambda self: self._filters, _write_filters)
    nameFilters = Property("QStringList", lambda self: self._name_filters, _write_names)
    settingKey = Property(str, lambda self: self._key, _write_key)


class ctkDirectoryButton(QPushButton):
    """A button that shows a folder and selects another."""

    STAND_IN = True
    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = ""
        self.clicked.connect(self.browse)

    def browse(self) -> None:
        """Asks for a folder."""
        folder = QFileDialog.getExistingDirectory(self, "Select a folder", self._folder)
        if folder:
            self.setDirectory(folder)
            self.directorySelected.emit(folder)

    def setDirectory(self, folder: str) -> None:
        """Shows the folder; emits directoryChanged where it is new."""
        if folder != self._folder:
            self._folder = folder
            QPushButton.setText(self, folder)
            self.directoryChanged.emit(folder)

    directory = Property(str, lambda self: self._folder, setDirectory)


class ctkComboBox(QComboBox):
    """A combo box; the host draws it as Qt's."""

    STAND_IN = True


class ctkMessageBox(QMessageBox):
    """A message box that can remember the answer; the host remembers none."""

    STAND_IN = True
    dontShowAgainSettingsKey = Property(str, lambda self: "", lambda self, key: None)
    dontShowAgainVisible = Property(bool, lambda self: False, lambda self, visible: None)


WIDGETS = (
    ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit, ctkDirectoryButton, ctkComboBox,
    ctkMessageBox,
)


class CtkModule(types.ModuleType):
    """The widgets above; other names raise."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"The host's ctk has no '{name}' (Testing/Host/ctk_widgets.py)")


def make_ctk() -> CtkModule:
    """The module `ctk`."""
    module = CtkModule("ctk")
    for widget in WIDGETS:
        setattr(module, widget.__name__, widget)
    return module


