"""Pages from templates: what is inserted is escaped, and nothing is left out silently."""

from __future__ import annotations

import jinja2
import pytest

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.files import resource
from DiffuGTSLib.output.html_page import data_uri, number, write_page

PAGES = ["batch_report.html", "evaluation_report.html"]


@pytest.mark.parametrize("template", PAGES)
def test_a_value_that_is_missing_is_an_error_and_no_gap(template, tmp_path):
    with pytest.raises(jinja2.UndefinedError):
        write_page(tmp_path / "report.html", template, title="", facts={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", PAGES)
def test_no_template_switches_escaping_off(template):
    text = resource(f"Templates/{template}").read_text(encoding="utf-8")
    assert "|safe" not in text
    assert "autoescape" not in text


def test_a_page_that_cannot_be_written_is_reported(tmp_path):
    values = {"title": "t", "facts": {}, "tiles": [], "rows": [], "pages": ["a"], "page": "a",
              "kind_of": None, "picture": None, "nothing_found": None, "max_lesions": 1}
    with pytest.raises(OutputNotWritten):
        write_page(tmp_path / "absent" / "report.html", "batch_report.html", **values)
    write_page(tmp_path / "report.html", "batch_report.html", **values)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_picture_is_its_own_address():
    assert data_uri(b"\x00\xff", "png") == "data:image/png;base64,AP8="


@pytest.mark.parametrize(("value", "digits", "scale", "text"), [
    (None, 2, 1, "\N{EN DASH}"), (1.005, 1, 1, "1.0"), (0.6323, 2, 100, "63.23"), (7, 0, 1, "7")])
def test_numbers_have_so_many_digits(value, digits, scale, text):
    assert number(value, digits, scale) == text
