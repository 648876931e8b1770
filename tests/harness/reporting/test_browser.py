"""index.html of the committed results in headless Chromium: at a desk, on a phone, script-less."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from harness.reporting import figures, html
from harness.reporting.figure_cache import FigureCache, stored_digest
from harness.reporting.publish import read_boards, write_tables
from harness.storage.records import Store
from tests.harness.conftest import failed_record, made_record, save_finished
from tests.harness.reporting.test_figure_cache import stand_in

webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium here")

RESULTS = Path(__file__).parents[3] / "results"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking",
)  # fmt: skip
ESCAPE = "\ue00c"  # As WebDriver writes the key.
DESK, PHONE = 1280, 390
MAIN = "document.querySelector('.board table.main')"
"""The first table of the first board."""
NAMES = "return [...document.querySelectorAll('table.main tbody tr:not([hidden]) a')]"
NAMES += ".filter(a => a.closest('.board') === document.querySelector('.board'))"
NAMES += ".map(a => a.textContent)"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    boards = sorted(read_boards(RESULTS), key=lambda board: -len(board.rows))
    figures = FigureCache(RESULTS, boards)
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html.html(boards, figures.pictures()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def hostile_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a folder whose every text and figure would load something, if it could."""
    load = "http://127.0.0.1:9/x"
    text = f"<img src={load}><script src={load}></script><link rel=stylesheet href={load}>"
    results = tmp_path_factory.mktemp("hostile") / "results"
    for recipe in ("vgg16", "lite0", "resnet50"):
        save_finished(Store(results), made_record(recipe))
    Store(results).save(failed_record(reason=text))
    for path in results.glob("records/*.json"):
        content = json.loads(path.read_text())
        content |= {"note": text, "data": content["data"] | {"name": text}}
        if "cost" in content["result"]:
            content["result"]["cost"]["throughput"]["device"] = f'" style="background:url({load})'
            content["result"]["environment"]["platform"] = f"![x]({load}) {text}"
        path.write_text(json.dumps(content))
    with patch.object(figures, "render", stand_in):
        write_tables(results)
    for path in results.glob("figures/*/*.svg"):  # As somebody would who knows the checksum.
        svg = f'<svg><image href="{load}"/><style>@import "{load}";</style></svg>'.encode()
        digest = stored_digest(path)
        mark = f"<!-- wbc-bench-data: {digest} {hashlib.sha256(svg).hexdigest()} -->\n"
        path.write_bytes(mark.encode() + svg)
        assert stored_digest(path) == digest
    with patch.object(figures, "render", stand_in):
        write_tables(results)
    return (results / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page at a width; afterwards: nothing was loaded, nothing was complained of."""

    def at(width: int, *, scripts: bool = True, dark: bool = False, part: str = "") -> Any:
        metrics: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1}
        metrics["mobile"] = width == PHONE
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get("about:blank")
        browser.get(address + part)
        return browser

    browser.get_log("performance")
    browser.get_log("browser")
    yield at
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in sent
        if event["method"] == "Network.requestWillBeSent"
    }
    assert address in requested, "the log saw the page itself"
    assert {url for url in requested if not url.startswith(("data:", "about:"))} == {address}
    assert browser.get_log("browser") == []
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def select(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def heads(browser: Any) -> list[Any]:
    found: list[Any] = browser.execute_script(f"return [...{MAIN}.querySelectorAll('th')]")
    return found


def column(browser: Any, place: int) -> list[str]:
    script = f"return [...{MAIN}.tBodies[0].rows].map(row => row.cells[{place}].textContent)"
    found: list[str] = browser.execute_script(script)
    return found


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_the_table_scrolls_and_the_page_does_not(
    visit: Callable[..., Any], width: int, dark: bool
) -> None:
    browser = visit(width, dark=dark)
    script = "return document.documentElement.scrollWidth"
    assert browser.execute_script(script) <= width
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script(script) <= width
    script = "const box = document.querySelector('.main').parentElement; box.scrollLeft = 9e3;"
    moved = browser.execute_script(script + "return box.scrollLeft")
    assert moved > 0 or width == DESK
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_a_phone_shows_name_and_macro_f1_on_its_first_screen(visit: Callable[..., Any]) -> None:
    browser = visit(PHONE)
    script = "const box = arguments[0].getBoundingClientRect(); return [box.right, box.bottom]"
    for cell in (".main td:nth-child(2) a", ".main td:nth-child(3)"):
        right, bottom = browser.execute_script(script, select(browser, cell))
        assert right <= PHONE
        assert bottom <= 844


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_heads_sort(visit: Callable[..., Any], width: int) -> None:
    browser = visit(width)
    place = [head.text.split("\n")[0] for head in heads(browser)].index("Images/s")
    button = heads(browser)[place].find_element("css selector", "button")
    for order, sign in (("descending", -1), ("ascending", 1), ("descending", -1)):
        button.send_keys("\n")  # By the keyboard.
        assert heads(browser)[place].get_attribute("aria-sort") == order
        words_of_cells = [text.replace(",", "").split() for text in column(browser, place)]
        numbers = [sign * float(words[0]) for words in words_of_cells if words != ["–"]]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) > 5
        assert all(words == ["–"] for words in words_of_cells[len(numbers) :])
    heads(browser)[1].find_element("css selector", "button").click()
    names = [name.lower() for name in column(browser, 1)]
    assert names[0] < names[-1]
    assert heads(browser)[place].get_attribute("aria-sort") is None


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_rows_are_filtered_by_text_and_kind(visit: Callable[..., Any], width: int) -> None:
    browser = visit(width)
    best = browser.execute_script(NAMES)
    assert len(best) < len(browser.find_elements("css selector", ".main tbody tr"))
    select(browser, '.controls option[value=""]').click()
    every = browser.execute_script(NAMES)
    assert set(best) < set(every)
    select(browser, '.controls option[value="best"]').click()
    field = select(browser, ".controls input")
    member = next(name for name in best if "vote" in name).lower().split()[-1]
    field.send_keys(f"{member} vote")
    some = browser.execute_script(NAMES)
    assert some
    assert all(member in name.lower() and "vote" in name.lower() for name in some)
    assert select(browser, ".controls output").text == f"{len(some)} of {len(every)} rows"
    field.clear()
    field.send_keys("no such thing")
    assert browser.execute_script(NAMES) == []
    field.clear()
    field.send_keys(" ")
    assert browser.execute_script(NAMES) == every
    select(browser, '.controls option[value="ensemble"]').click()
    ensembles = browser.execute_script(NAMES)
    assert 0 < len(ensembles) < len(every)
    assert all(":" in name for name in ensembles)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_row_opens_and_closes(visit: Callable[..., Any], width: int) -> None:
    browser = visit(width)
    articles = len(browser.find_elements("css selector", ".details article"))
    link = select(browser, "table.main a.network")
    link.send_keys("\n")
    dialog = select(browser, "dialog")
    assert dialog.get_attribute("open") is not None
    assert select(browser, "dialog h3").text == link.text
    for part in ("Classes", "Confusion matrix", "Costs", "Calibration", "Learning curve"):
        assert part in dialog.text
    assert select(browser, "dialog .confusion td[style]").text.isdigit()
    wide = "const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth"
    assert browser.execute_script(wide) <= 0
    select(browser, "dialog").send_keys(ESCAPE)
    assert dialog.get_attribute("open") is None
    WebDriverWait(browser, 10).until(  # The event of closing comes later.
        lambda _: len(browser.find_elements("css selector", ".details article")) == articles
    )
    assert browser.switch_to.active_element == link, "the focus comes back"
    select(browser, "table.main tr[data-kind=ensemble]:not([hidden]) td:nth-child(1)").click()
    assert "Members" in dialog.text
    select(browser, "dialog button").click()
    assert dialog.get_attribute("open") is None


def test_an_address_with_a_row_opens_it(visit: Callable[..., Any], browser: Any) -> None:
    row = select(visit(DESK), "article").get_attribute("id")
    browser = visit(DESK, part=f"#{row}")
    assert select(browser, "dialog").get_attribute("open") is not None


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_without_scripts_everything_can_be_read(visit: Callable[..., Any], width: int) -> None:
    browser = visit(width, scripts=False)
    assert not select(browser, ".controls").is_displayed()
    assert not select(browser, "dialog").is_displayed()
    assert not browser.find_elements("css selector", "th button")
    assert select(browser, ".pictures img").is_displayed()
    link = select(browser, "table.main a.network")
    browser.execute_cdp_cmd(
        "Page.navigate", {"url": link.get_attribute("href")}
    )  # As a click would; a click of the driver needs scripts.
    row = link.get_attribute("href").partition("#")[2]
    article = browser.find_element("id", row)
    assert article.is_displayed(), "the section opens when its link is followed"
    assert "Confusion matrix" in article.text


def test_a_foreign_folder_loads_nothing(
    visit: Callable[..., Any], browser: Any, hostile_address: str
) -> None:
    visit(DESK)
    browser.get(hostile_address)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    select(browser, "table.main a.network").send_keys("\n")
    assert "<script src=" in select(browser, "body").text, "markup is shown as text"
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    urls = [
        e["params"]["request"]["url"] for e in sent if e["method"] == "Network.requestWillBeSent"
    ]
    assert hostile_address in urls
    assert not [url for url in urls if url.startswith("http")]
    browser.get_log("browser")
    visit(DESK)
