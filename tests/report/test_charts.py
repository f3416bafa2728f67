"""Pictures of the statistics: well-formed, of themselves, and with the numbers in them."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from seqpack.core.errors import ConfigError, DeviceError
from seqpack.report.charts import Box, Label, Stroke, draw, to_svg, write_chart
from tests.report.test_png import read_png
from tests.report.test_statistics import made as made

SVG = "{http://www.w3.org/2000/svg}"


def test_every_shape_lies_inside(made):
    drawing = draw(made)
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            assert shape.x >= 0 and shape.y >= 0 and shape.width > 0 and shape.height > 0
            assert shape.x + shape.width <= drawing.width and shape.y + shape.height <= drawing.height
        elif isinstance(shape, Stroke):
            assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in shape.points)
        else:
            assert 0 < shape.x < drawing.width and 0 < shape.y < drawing.height


def test_bars_are_as_long_as_their_numbers(made):
    boxes = [shape for shape in draw(made).shapes if isinstance(shape, Box)]
    bars, layouts = boxes[:3], boxes[3:]
    assert bars[0].height / bars[1].height == pytest.approx(99 / 2497)
    assert layouts[0].width / layouts[1].width == pytest.approx(5_322_752 / 610_304)
    assert len(layouts) == 2, "what could not be tried has no bar"


def test_svg_is_xml_that_loads_nothing(made, tmp_path):
    assert write_chart(tmp_path / "a.svg", made) == f"wrote {tmp_path / 'a.svg'}"
    text = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    texts = "\n".join(element.text for element in root.iter(f"{SVG}text"))
    assert "[a].jsonl and 1 more" in texts and "--seq-length 2,048" in texts and "298 rows · 99.7 % filled" in texts
    assert not re.search(r"href|url\(|script|@import", text)


def test_html_has_picture_and_numbers_and_loads_nothing(made, tmp_path):
    import dataclasses

    write_chart(tmp_path / "a.html", dataclasses.replace(made, files=("<b>&.jsonl",)))
    text = (tmp_path / "a.html").read_text()
    assert to_svg(draw(made)).splitlines()[0] in text and "<td>610,304" not in text
    assert "<td>pack, best-fit</td><td>298</td><td>0.00 %</td>" in text
    assert "<b>" not in text and "&lt;b&gt;&amp;.jsonl" in text
    assert not re.search(r"href|src=|url\(|<script|@import", text)


def test_png_is_drawn_by_pillow(made, tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    write_chart(tmp_path / "a.png", made)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2 * draw(made).width, 2 * draw(made).height)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    fills = {shape.fill for shape in draw(made).shapes if isinstance(shape, Box)}
    assert {tuple(bytes.fromhex(fill[1:])) for fill in fills} <= colours
    assert read_png  # the mask needs no Pillow


def test_without_pillow_the_way_out_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DeviceError, match="plot") as error:
        write_chart(tmp_path / "a.png", made)
    assert error.value.code == "SP502" and list(tmp_path.iterdir()) == []


def test_other_endings_are_an_error(made, tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg or \.html or \.png"):
        write_chart(tmp_path / "a.pdf", made)


def test_labels_are_text(made):
    assert any(isinstance(shape, Label) and shape.text.startswith("Token lengths of") for shape in draw(made).shapes)
