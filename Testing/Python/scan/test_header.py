"""Silence while image files are read and written, also from several threads at once."""

from __future__ import annotations

import os
import threading

import SimpleITK as sitk

from DiffuGTSLib.scan.header import quiet


def test_stderr_comes_back_after_threads_were_quiet_at_the_same_time(capfd):
    inside, leave = threading.Barrier(2), threading.Event()

    def hold() -> None:
        with quiet():
            inside.wait()
            leave.wait()

    other = threading.Thread(target=hold)
    other.start()
    with quiet():
        inside.wait()
        os.write(2, b"hidden")
    os.write(2, b"hidden too, the other one is still inside")
    leave.set()
    other.join()
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
