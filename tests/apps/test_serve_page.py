"""The page in a real browser: Debian's Chromium, without a window."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from served import LABELS, make_model, serving

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
]
TOKEN = "correct-horse"
HARMFUL = "<script>document.title='broken'</script>"
TEXTS = {
    "a.txt": "\U0001f600 " + "word1 " * 200 + "keyapple " + "word2 " * 300 + HARMFUL,
    "b & <i>c.txt": "word1 word2",
    "long.txt": "keyfig " + "word1 " * 1500,
    "scan.pdf": "%PDF-1.4",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "tiny"
    make_model().save(run / "model", "")
    with serving(run, "--token", TOKEN) as address:
        yield address


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / name for name in TEXTS]
    for path, text in zip(paths, TEXTS.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.fixture
def browser(server, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,900",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser.set_page_load_timeout(60)
        browser.get(server)
        yield browser
        log = [line["message"] for line in browser.get_log("browser")]
        assert not [line for line in log if "Content Security Policy" in line or "Uncaught" in line], log
    finally:
        browser.quit()


def wait(browser, condition, what: str):
    return WebDriverWait(browser, 60, 0.1).until(lambda _: condition(), what)


def one(browser, selector: str):
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser, selector: str) -> list:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def enter(browser):
    wait(browser, lambda: one(browser, "#token").is_displayed(), "the field for the token")
    one(browser, "#token").send_keys(TOKEN, Keys.ENTER)
    wait(browser, lambda: one(browser, "#main").is_displayed(), "the page behind the token")


def add(browser, files):
    one(browser, "#files").send_keys("\n".join(map(str, files)))
    done = f"{len(files) - 1} of {len(files)} labelled, 1 refused"
    wait(browser, lambda: done in one(browser, "#status").text, done)


def open_document(browser, place: int):
    browser.execute_script("arguments[0].click()", every(browser, "#list button")[place])


def test_a_wrong_token_is_said(browser):
    wait(browser, lambda: one(browser, "#token").is_displayed(), "the field for the token")
    one(browser, "#token").send_keys("wrong-token", Keys.ENTER)
    wait(browser, lambda: "not the token" in one(browser, "#token-wrong").text, "that it is wrong")
    enter(browser)


def test_many_files_their_labels_and_the_way_to_a_passage(browser, files):
    enter(browser)
    add(browser, files)
    items = [item.text for item in every(browser, "#list li")]
    assert "apple" in items[0]
    assert items[1].startswith("b & <i>c.txt")
    assert "review" in items[1]  # no label reaches its threshold
    assert LABELS[1] in items[2]
    assert "damaged PDF, or none" in items[3]

    open_document(browser, 0)
    wait(browser, lambda: every(browser, "#labels .passages button"), "evidence")
    assert one(browser, "#content").get_property("textContent") == TEXTS["a.txt"]
    assert every(browser, "#content script, #content i, #labels img") == []
    assert "broken" not in browser.title
    (given,) = every(browser, "#labels .given")
    assert "apple" in given.text
    assert "≥ 0.500" in given.text
    button = one(browser, "#labels .passages button")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    mark = browser.switch_to.active_element
    assert mark.tag_name == "mark"
    assert "keyapple" in mark.get_property("textContent")
    assert "current" in mark.get_attribute("class")
    place, size = mark.location_once_scrolled_into_view, one(browser, "#content").rect
    assert place["y"] >= 0
    assert size["width"] > 300

    open_document(browser, 2)
    wait(browser, lambda: "were cut" in one(browser, "#facts").text, "what was cut")
    assert "1,502 tokens; the last 478 were cut" in one(browser, "#facts").text
    assert "Only 1,024 tokens" in one(browser, "#notes").text


def test_the_least_sure_come_first(browser, files):
    enter(browser)
    assert not one(browser, "#sort").is_displayed()
    add(browser, files)
    open_document(browser, 2)
    assert re.search(r"confidence [01]\.\d{3}$", one(browser, "#facts").text)
    one(browser, "#sort").click()
    items = [item.text for item in every(browser, "#list li")]
    found = [float(number) for item in items for number in re.findall(r"confidence ([01]\.\d\d)", item)]
    assert len(found) == 3
    assert found == sorted(found)
    assert items[3].startswith("scan.pdf")  # refused
    (current,) = every(browser, "#list [aria-current=true]")
    assert current.text.startswith("long.txt")


def test_arrow_keys_move_through_the_list(browser, files):
    enter(browser)
    add(browser, files)
    browser.execute_script("arguments[0].focus()", every(browser, "#list button")[0])
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    wait(browser, lambda: one(browser, "#name").text == "b & <i>c.txt", "the second document")
    assert browser.switch_to.active_element == every(browser, "#list button")[1]
    assert every(browser, "#list button")[1].get_attribute("aria-current") == "true"


def test_a_pasted_text_by_keyboard_alone(browser):
    enter(browser)
    one(browser, "#text").send_keys("word1 keypear word2", Keys.TAB, Keys.ENTER)
    wait(browser, lambda: "1 of 1 labelled" in one(browser, "#status").text, "its labels")
    assert one(browser, "#name").text == "pasted text 1"
    assert "pear" in one(browser, "#labels .given").text


def test_downloads(browser, files, tmp_path):
    enter(browser)
    add(browser, files)
    for name in ("csv", "jsonl"):
        one(browser, f"#{name}").click()
        target = tmp_path / f"labels.{name}"
        wait(browser, target.exists, f"labels.{name}")
    time.sleep(0.2)  # Chromium renames it when it is whole
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == list(TEXTS)[:3]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "labels.csv").read_text(encoding="utf-8-sig"))))
    assert len(lines) == 9
    for line in lines:
        row = next(row for row in rows if row["id"] == line["id"])
        assert float(line["probability"]) == row["probabilities"][line["label"]]
        assert (line["predicted"] == "true") == (line["label"] in row["labels"])
        assert float(line["confidence"]) == row["confidence"]


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_shows_everything_without_scrolling_aside(browser, files, dark):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": 320, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    enter(browser)
    add(browser, files)
    open_document(browser, 0)
    wait(browser, lambda: every(browser, "#labels .passages button"), "evidence")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
    for selector in ("#name", "#labels", "#content"):
        assert one(browser, selector).rect["width"] > 200

    def brightness(selector: str, what: str) -> int:
        colour = browser.execute_script(f"return getComputedStyle(arguments[0]).{what}", one(browser, selector))
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    ink, paper = brightness("#name", "color"), brightness("#document", "backgroundColor")
    assert (ink > paper + 300) if dark else (paper > ink + 300)


def test_everything_that_is_pressed_or_filled_has_a_name(browser, files):
    enter(browser)
    add(browser, files)
    open_document(browser, 0)
    wait(browser, lambda: every(browser, "#labels .passages button"), "evidence")
    for part in every(browser, "button, textarea, input:not([hidden])"):
        if part.is_displayed():
            assert part.accessible_name.strip(), part.get_attribute("outerHTML")
    assert [part.aria_role for part in every(browser, "h1, main, article")] == ["heading", "main", "article"]
    assert one(browser, "html").get_attribute("lang") == "en"
    assert one(browser, "#labels .passages button").accessible_name.startswith("apple, passage 1")


def test_the_page_about_the_api(browser, server):
    browser.get(f"{server}/docs")
    wait(browser, lambda: "POST /predict/files" in one(browser, "main").text, "the routes")
    assert "truncation_direction" in one(browser, "main").text
    size = {"width": 320, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
