"""A small, strict stand-in for the Python of 3D Slicer, for the tests of the panel.

Real Qt (PySide6) and the real MRML library (slicer-core), so that the module's own .py and .ui
files run unchanged. What the host does not offer raises: an attribute, a signal, a function, a
widget class or a dialog that nobody answers. It proves nothing about the packaged application.

    from Host.boot import boot
    host = boot()
    widget = host.load_module("DiffuGTS", Path("DiffuGTS/DiffuGTS.py"))
    host.until(lambda: widget.ui.runButton.enabled, seconds=5)
"""
