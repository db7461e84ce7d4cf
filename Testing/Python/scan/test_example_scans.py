"""The scans that come with the program: whole, with their outline, named so that they are read."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.files import resource
from DiffuGTSLib.scan import as_scan
from DiffuGTSLib.scan.example_scans import ExampleScan, example_scans
from DiffuGTSLib.scan.modality import guess_sequence, guess_skull_stripped

SCANS = example_scans()


def test_the_list_fits_its_schema():
    jsonschema.validate(*(json.loads(resource(f"Samples/{name}.json").read_text("utf-8"))
                          for name in ("scans", "scans.schema")))


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.image)
def test_a_scan_has_an_outline_on_its_grid(scan: ExampleScan):
    image, outline = sitk.ReadImage(str(scan.path)), scan.read_outline()
    assert outline.GetSize() == image.GetSize()
    np.testing.assert_allclose(outline.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert set(np.unique(sitk.GetArrayFromImage(outline))) == {0, 1}
    assert scan.path.stat().st_size < 500_000


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.image)
def test_a_scan_is_taken_for_what_it_is(scan: ExampleScan):
    read = as_scan(scan.path)
    assert read.modality == scan.modality
    assert read.skull_stripped == (scan.modality == "MR")
    assert read.sequence == ("flair" if scan.modality == "MR" else "")
    # In Slicer the node's name is all that there is.
    assert guess_sequence(scan.name) == read.sequence
    assert guess_skull_stripped(scan.name) == read.skull_stripped


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.image)
def test_its_patient_is_of_the_validation(scan: ExampleScan, shared_tumors):
    entries = json.loads((shared_tumors / "manifest.json").read_text("utf-8"))
    ours = scan.path.read_bytes()
    same = [e for e in entries if (shared_tumors / e["group"] / e["case"] / "image.nii.gz")
            .stat().st_size == len(ours)]
    found = [e for e in same if (shared_tumors / e["group"] / e["case"] / "image.nii.gz")
             .read_bytes() == ours]
    assert [e["split"] for e in found] == ["validation"]


def test_the_licences_are_stated():
    readme = resource("Samples/README.md").read_text("utf-8")
    for scan in SCANS:
        assert scan.image in readme
        assert "CC BY" in scan.source
