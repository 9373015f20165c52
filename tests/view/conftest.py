"""A page in headless Chromium, where that, its driver and selenium are installed."""

import chromium
import pytest

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 24 dim: 20 } } }
layer {
  name: "conv"
  type: "Convolution"
  bottom: "data"
  top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 pad: 1 stride: 2 }
}
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" } layer { name: "relu" type: "ReLU" bottom: "conv"
  top: "conv" }
layer { name: "left" type: "Convolution" bottom: "conv" top: "left"
        convolution_param { num_output: 7 kernel_size: 1 bias_term: false } }
layer { name: "right" type: "Convolution" bottom: "conv" top: "right"
        convolution_param { num_output: 7 kernel_size: 3 pad: 2 dilation: 2 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "right" top: "sum" }
layer { name: "priors" type: "PriorBox" bottom: "sum" bottom: "data" top: "priors"
        prior_box_param { min_size: 6 max_size: 9 aspect_ratio: 2 flip: true clip: true variance: 0.1 } }
"""


@pytest.fixture
def small(tmp_path):
    """A net file: one box with layers in place, a residual sum, priors."""
    path = tmp_path / "small.prototxt"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not chromium.CHROMIUM or not chromium.DRIVER:
        pytest.skip("chromium or chromedriver is not installed")
    chrome = chromium.start()
    yield chrome
    chrome.quit()


@pytest.fixture
def open_page(browser, tmp_path):
    """Returns a function that writes the page of a net and shows it."""
    from pyscratchdet.cli import main

    def open_page(*arguments, **window):
        page = tmp_path / "page.html"
        assert main(["view", *map(str, arguments), "-o", str(page)]) == 0
        chromium.show(browser, page, **window)
        return browser

    yield open_page
    problems = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert not problems
