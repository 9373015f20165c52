"""The page: one file that needs nothing else, and what happens in a browser when it is used."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import BlobComparison, Comparison, Difference
from pyscratchdet.runtime import build_net, save_weights

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>"


def test_the_page_needs_nothing_from_anywhere(small, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["view", small, "-o", str(page)]) == 0
    text = page.read_text()
    assert capsys.readouterr().out == f"{page}\n"
    assert "default-src 'none'" in text  # so that a browser keeps to it, too
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text)
    assert "Copyright (c) 2012-2014 Chris Pettitt" in text
    assert "Permission is hereby granted" in text
    assert len(text) < 200_000


def test_the_page_has_a_name_of_its_own(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view", small]) == 0
    assert (tmp_path / "small.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.prototxt"], "cannot read none.prototxt"),
        (["NET", "--weights", "none.caffemodel"], "none.caffemodel"),
        (["NET", "--picture", "none.png"], "none.png"),
        (["NET", "--labels", "none"], "none"),
        (["NET", "--rgb"], "--mean, --scale and --rgb are for a picture"),
        (["BARE", "--labels", "kit"], "the net has no priors"),
    ],
)
def test_what_is_missing_or_useless_is_one_message(small, arguments, message, tmp_path, capsys):
    page, bare = tmp_path / "page.html", tmp_path / "bare.prototxt"
    bare.write_text(Path(small).read_text().split('layer { name: "priors"')[0])
    files = {"NET": small, "BARE": str(bare)}
    assert main(["view", *(files.get(word, word) for word in arguments), "-o", str(page)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not page.exists()


# --- in the browser ---


def panel(chrome):
    """Returns the panel's text, with the signs that shapes are written with as they are typed."""
    return chrome.find_element("id", "panel").text.replace("\u00a0", " ").replace("\u00d7", "x")


def box(chrome, layer):
    return chrome.find_element("css selector", f'.box[data-layer="{layer}"]')


def click(chrome, layer):
    """Clicks the middle of a layer's box as a user would; what lies over it gets the click."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(chrome).move_to_element(box(chrome, layer).find_element("tag name", "rect")).click().perform()


def zoom(chrome):
    return chrome.execute_script("return panes[0].zoom")


def test_a_click_shows_the_layer(open_page, small):
    chrome = open_page(small)
    assert "small" in panel(chrome)
    assert len(chrome.find_elements("class name", "box")) == 6
    assert len(chrome.find_elements("class name", "edge")) == 6
    click(chrome, "conv")
    text = panel(chrome)
    for wanted in (
        "2 x 3 x 24 x 20", "2 x 5 x 12 x 10", "140", "3 x 3, every 2 x 2 pixels", "norm", "relu", "line 4",
        "num_output: 5",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "chosen" in box(chrome, "conv").get_attribute("class")
    assert chrome.execute_script("return location.hash") == "#conv"
    click(chrome, "priors")
    assert "480 priors, 4 at each of 12 x 10 places" in panel(chrome)


def test_search_finds_layers_blobs_and_types(open_page, small):
    from selenium.webdriver.common.keys import Keys

    chrome = open_page(small)
    field = chrome.find_element("id", "search")
    for wanted, number, first in (("eltw", 1, "sum"), ("norm", 1, "norm"), ("conv", 5, "conv"), ("nothing", 0, None)):
        field.clear()
        field.send_keys(wanted)
        assert chrome.find_element("id", "count").text == f"{number} layer{'' if number == 1 else 's'}"
        found = chrome.find_elements("css selector", "#found li")
        if first:
            assert found[0].text.startswith(first)
    field.clear()
    field.send_keys("batchnorm")
    assert "hit" in box(chrome, "conv").get_attribute("class")
    assert "dull" in box(chrome, "left").get_attribute("class")
    field.send_keys(Keys.ENTER)
    assert "chosen" in box(chrome, "conv").get_attribute("class")
    assert chrome.execute_script("return location.hash") == "#norm"
    field.send_keys(Keys.ESCAPE)
    assert "dull" not in box(chrome, "left").get_attribute("class")


def test_zoom_by_buttons_keys_and_wheel(open_page, small):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    chrome = open_page(small)
    start = zoom(chrome)
    chrome.find_element("id", "in").click()
    assert zoom(chrome) == pytest.approx(start * 1.25)  # the button's factor
    chrome.find_element("tag name", "body").send_keys("-")
    assert zoom(chrome) == pytest.approx(start)
    graph = chrome.find_element("css selector", ".pane svg")
    ActionChains(chrome).scroll_from_origin(ScrollOrigin.from_element(graph), 0, -300).perform()
    assert zoom(chrome) > start
    before = chrome.execute_script("return [panes[0].x, panes[0].y]")
    ActionChains(chrome).drag_and_drop_by_offset(graph, 60, 35).perform()
    after = chrome.execute_script("return [panes[0].x, panes[0].y]")
    assert np.subtract(after, before).tolist() == [60, 35]
    chrome.find_element("id", "fit").click()
    inside = chrome.execute_script(
        "const pane = document.querySelector('.pane').getBoundingClientRect();"
        "return [...document.querySelectorAll('.box')].every((box) => { const at = box.getBoundingClientRect();"
        "return at.top >= pane.top && at.bottom <= pane.bottom && at.left >= pane.left && at.right <= pane.right; });"
    )
    assert inside


def overlaps(chrome):
    """Returns how many pairs of boxes lie on each other, and how many texts are wider than their box."""
    return chrome.execute_script(
        "const boxes = panes[0].layout.nodes; let pairs = 0;"
        "for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {"
        "  const a = boxes[i], b = boxes[j];"
        "  if (Math.abs(a.x - b.x) < (a.width + b.width) / 2"
        "    && Math.abs(a.y - b.y) < (a.height + b.height) / 2) pairs++;"
        "}"
        "const wide = panes[0].boxes.filter((box, i) => [...box.querySelectorAll('text')].some("
        "  (text) => text.getComputedTextLength() > boxes[i].width)).length;"
        "return [pairs, wide];"
    )


def repeated_net(number):
    """Returns the text of a residual net of about `number` layers."""
    lines = ['layer { name: "data" type: "Input" top: "b0" input_param { shape { dim: 1 dim: 3 dim: 64 dim: 64 } } }',
             'layer { name: "root" type: "Convolution" bottom: "b0" top: "s0"'
             " convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }"]  # fmt: skip
    for k in range(number // 9):
        for part, bottom in (("a", f"s{k}"), ("b", f"s{k}a")):
            top = f"s{k}{part}"
            lines.append(
                f'layer {{ name: "conv{k}{part}" type: "Convolution" bottom: "{bottom}" top: "{top}"'
                f" convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 bias_term: false }} }}"
            )
            lines += [f'layer {{ name: "{kind}{k}{part}" type: "{kind}" bottom: "{top}" top: "{top}" }}'
                      for kind in ("BatchNorm", "Scale", "ReLU")]  # fmt: skip
        lines.append(f'layer {{ name: "sum{k}" type: "Eltwise" bottom: "s{k}" bottom: "s{k}b" top: "s{k + 1}" }}')
    return "\n".join(lines)


def test_a_thousand_layers(open_page, tmp_path):
    """A deep net opens in seconds, however busy the machine, and no box covers another."""
    path = tmp_path / "deep.prototxt"
    path.write_text(repeated_net(1000))
    chrome = open_page(path)
    assert chrome.execute_script("return data.nets[0].layers.length") > 990
    # As many as 20 s for a machine with other work; SSD300-ResNet-101 took 1.9 to 2.9 s on such a one.
    assert chrome.execute_script("return performance.now()") < 20_000
    assert overlaps(chrome) == [0, 0]
    assert zoom(chrome) >= 0.6  # what shows first can be read
    began = time.monotonic()
    chrome.find_element("id", "search").send_keys("sum99")
    chrome.execute_script("go(0)")
    assert "chosen" in box(chrome, "sum99").get_attribute("class")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (480, False)])
def test_nothing_is_cut_off(open_page, width, dark):
    """At two widths, in light and dark: no box on another, no text out of its box, no page wider than the window."""
    chrome = open_page("prototxt/models/ssd300_vgg16_voc0712/deploy.prototxt", width=width, dark=dark)
    assert overlaps(chrome) == [0, 0]
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    ground = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == dark
    panes, side = (chrome.find_element("id", name).rect for name in ("panes", "panel"))
    beside = panes["x"] + panes["width"] <= side["x"] + 1
    assert beside == (width > 820)


def test_weights_and_maps(open_page, block_model, tmp_path):
    import cv2

    deploy, weights, _ = block_model
    image = np.zeros((32, 48, 3), np.uint8)
    image[8:16, 16:24] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "picture.png"), image)
    options = ("--picture", tmp_path / "picture.png", "--mean", "0", "--scale", 1 / 255)
    chrome = open_page(deploy, "--weights", weights, *options)
    assert "1 detections" in panel(chrome) or "1 detection" in panel(chrome)
    click(chrome, "conf")
    assert "Dead channels, 1: 0" in panel(chrome)
    assert len(chrome.find_elements("css selector", "#panel .chart")) == 2
    maps = chrome.find_elements("css selector", ".maps canvas")
    assert len(maps) == 3
    colours = chrome.execute_script(
        "const pen = document.querySelectorAll('.maps canvas')[1].getContext('2d');"
        "const { width, height } = pen.canvas; return new Set(pen.getImageData(0, 0, width, height).data).size;"
    )
    assert colours > 5


def test_the_first_layer_that_parts_is_red(open_page, small, tmp_path):
    def blob(layer, drift, own):
        return BlobComparison(layer, layer, "X", (1,), Difference(1, drift, 1), Difference(1, own, 1), 1e-5)

    report = tmp_path / "report.json"
    blobs = [blob("conv", 1e-8, 1e-8), blob("right", 1e-2, 1e-2), blob("sum", 1e-2, 1e-8)]
    report.write_text(json.dumps([Comparison("small", "ours", "theirs", blobs).as_dict()]))
    chrome = open_page(small, "--verify", report)
    assert [each.get_attribute("data-layer") for each in chrome.find_elements("css selector", ".box.parts")] == [
        "right"
    ]
    stroke = chrome.execute_script("return getComputedStyle(document.querySelector('.box.parts rect')).stroke")
    assert stroke == "rgb(217, 45, 32)"
    assert "First that parts: right" in panel(chrome)
    fills = {name: box(chrome, name).find_element("tag name", "rect").value_of_css_property("fill")
             for name in ("conv", "right", "sum", "left")}  # fmt: skip
    assert fills["right"] == fills["sum"] != fills["conv"]
    assert fills["left"] not in (fills["right"], fills["conv"])


def test_two_nets_are_joined_by_a_click(open_page, small, tmp_path):
    other = tmp_path / "other.prototxt"
    other.write_text(Path(small).read_text().replace("num_output: 5", "num_output: 6").replace('"left"', '"links"'))
    chrome = open_page(small, "--against", other)
    assert len(chrome.find_elements("class name", "pane")) == 2
    assert "Only in small: 1\nleft" in panel(chrome)
    click(chrome, "conv")
    assert len(chrome.find_elements("css selector", ".box.chosen")) == 2
    assert "convolution_param.num_output 5 6" in panel(chrome)
    assert chrome.execute_script("return panel.scrollWidth <= panel.clientWidth")


def test_names_from_files_run_nothing(open_page, tmp_path):
    path = tmp_path / "hostile.prototxt"
    name = HOSTILE.replace('"', '\\"')
    path.write_text(f"name: \"{name}\"\nlayer {{ name: \"{name}\" type: \"Input\" top: \"{name}\""
                    " input_param { shape { dim: 1 } } }")  # fmt: skip
    chrome = open_page(path)
    assert chrome.title == HOSTILE
    assert HOSTILE in panel(chrome)
    assert not chrome.find_elements("css selector", "img")
    save = chrome.execute_script("return document.querySelectorAll('script').length")
    assert save == 3


def test_a_net_that_overflows_is_shown(small, tmp_path, open_page):
    import cv2

    cv2.imwrite(str(tmp_path / "grey.png"), np.full((24, 20, 3), 90, np.uint8))
    net = build_net(small)
    net.params["conv"][1].detach().fill_(1)
    net.params["right"][0].detach().fill_(3e38)
    save_weights(net, tmp_path / "net.caffemodel")
    chrome = open_page(small, "--picture", tmp_path / "grey.png", "--weights", tmp_path / "net.caffemodel")
    click(chrome, "right")
    assert "values are not finite" in panel(chrome)


def test_untrained_maps_are_said_to_be_so(small, tmp_path, open_page):
    import cv2

    cv2.imwrite(str(tmp_path / "grey.png"), np.full((24, 20, 3), 90, np.uint8))
    save_weights(build_net(small), tmp_path / "net.caffemodel")
    chrome = open_page(small, "--picture", tmp_path / "grey.png")
    click(chrome, "sum")
    assert "Fillers' values, not trained weights" in panel(chrome)
