"""The report in a real browser, where one is installed: it loads without errors and its filter works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from helpers_miniatures import write_cityscapes, write_png

from mtaclip_core import evaluate
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.labels import CAMVID

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell", "headless_shell")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    return found


CAR = 'Car | "or"  <b>van</b> & $\\frac$'
"""A class name that HTML, scripts, separators of lists and formulas of figures could each take for their own."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of four images: Road is in all of them, CAR in the first two alone."""
    root = tmp_path_factory.mktemp("report")
    for i in range(4):
        label = np.full((40, 60), 1, np.uint8)
        label[10:20, 10:30] = 2 if i < 2 else 3
        write_png(root / "val" / f"a_{i}.png", CAMVID.palette[label])
        write_png(root / "labels" / f"a_{i}.png", label)
        write_png(root / "mine" / f"a_{i}.png", np.roll(label, i, 1))
    names = ["Fence", "Road", CAR, "Tree"]
    described = {"images": "{split}/{name}.png", "labels": "labels/{name}.png", "classes": names}
    (root / "set.yaml").write_text(yaml.safe_dump(described))
    arguments = ["--predictions", root / "mine", "--data", root / "set.yaml", "--split", "val", "--processes", 1]
    evaluate.main([*map(str, arguments), "--boundary", "--report", str(root / "report")])
    return root / "report" / "index.html"


def loaded(browser: str, page: Path, folder: Path, fragment: str = "") -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the page wrote to the console."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{page}{fragment}"], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0 or "<html" not in done.stdout:
        pytest.skip(f"{browser} does not start here: {done.stderr.strip()[-200:]}")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def figures(document: str) -> dict[str, bool]:
    """Frame -> whether its picture is hidden."""
    found = re.findall(r"<figure data-classes=\"[^\"]*\"([^>]*)>.*?<figcaption>(\w+):", document, re.S)
    return {name: "hidden" in attributes for attributes, name in found}


def test_the_page_shows_boundary_scores(page):
    text = page.read_text()
    assert "boundary mIoU" in text and "<th>boundary IoU</th>" in text


def test_the_page_of_cityscapes_shows_instance_scores_by_class(tmp_path):
    root = write_cityscapes(tmp_path / "city", "val", (60, 90))
    data = Cityscapes(root, "val")
    for i, name in enumerate(data.names):  # every class is there; predicted are all but trains
        write_png(tmp_path / "mine" / f"{name}.png", np.where(data.label_ids(i) == 31, 26, data.label_ids(i)))
    arguments = ["--predictions", tmp_path / "mine", "--data", f"cityscapes:{root}", "--split", "val"]
    evaluate.main([*map(str, arguments), "--report", str(tmp_path / "report")])
    text = (tmp_path / "report" / "index.html").read_text()
    assert "8 of 8 classes" in text and "19 of 19 classes" in text and "7 of 7 categories" in text
    head = re.findall(r"<th>([^<]*)</th>", text)
    rows = {
        name: re.findall(r"<td>([^<]*)</td>", row) for name, row in re.findall(r'<tr data-name="(\w+)">(.*)</tr>', text)
    }
    assert rows["train"][head.index("iIoU")] == "0.0" and rows["person"][head.index("iIoU")] == "100.0"
    assert rows["road"][head.index("iIoU")] == "–"


def test_the_page_loads_without_errors_and_shows_all_images(browser, page, tmp_path):
    document, console = loaded(browser, page, tmp_path)
    assert console == []
    assert figures(document) == {f"a_{i}": False for i in range(4)}
    assert ">Road</option>" in document and ">Fence</option>" not in document
    assert "<b>van</b>" not in document


CHOOSE = f"""<script>
const list = document.querySelector("select");
list.value = {json.dumps(CAR)};
list.dispatchEvent(new Event("change"));
</script>"""


@pytest.mark.parametrize("way", ["by hand", "in the address"])
def test_the_filter_leaves_the_images_with_the_class(browser, page, tmp_path, way):
    if way == "by hand":
        chosen = tmp_path / "chosen.html"
        chosen.write_text(page.read_text().replace("</html>", f"{CHOOSE}</html>"))
        document, console = loaded(browser, chosen, tmp_path)
    else:
        document, console = loaded(browser, page, tmp_path, f"#class={quote(CAR)}")
    assert console == []
    assert figures(document) == {"a_0": False, "a_1": False, "a_2": True, "a_3": True}
    assert "2 of 4 images shown" in document
    chosen_rows = re.findall(r'<tr data-name="([^"]*)" class="chosen">', document)
    assert [html.unescape(name) for name in chosen_rows] == [CAR]
