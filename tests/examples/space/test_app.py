"""The page in a real browser: what is clicked, and what is shown then.

FAIR_SCREENSHOT=runs/demo shows that checkpoint instead of the small one and writes the README's picture of it:

    FAIR_SCREENSHOT=runs/demo pytest tests/examples/space/test_app.py
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from app import EXAMPLE_LENGTH, TOP_K, serve
from attention import attention_of_last_item
from recommender import Recommender
from views import number
from visit import Visit

ROOT = Path(__file__).parents[3]
SCREENSHOT_OF = os.environ.get("FAIR_SCREENSHOT")
# Chromium of its own accord asks its maker's hosts for much; here it asks for the page alone.
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Text on one opaque ground, as WCAG counts it: (contrast, text) of all that is below 4.5.
CONTRAST = """() => {
  const light = (color) => color.map((c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.querySelector(".gradio-container"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({visibilityProperty: true}) || element.closest(":disabled, style, script"))
      continue;
    const [a, b] = [light(parse(getComputedStyle(element).color).slice(0, 3)), light(ground(element))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) low.push([contrast, text]);
  }
  return low;
}"""


expect.set_options(timeout=120_000)  # a busy machine is no failure


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: `make browser` installs one, as root on Debian")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def started():
    """Starts apps of other checkpoints in this process, and stops them when their pages are closed."""
    apps = []

    def start(checkpoint: Path) -> str:
        apps.append(serve(str(checkpoint), prevent_thread_lock=True, quiet=True))
        return apps[-1].local_url.rstrip("/")

    yield start
    for app in apps:
        app.close()


@pytest.fixture
def visit_page(browser, started):
    """Opens pages; afterwards, none of them has written an error to the console or asked another host."""
    problems, contexts = [], []

    def visit(url: str, **settings) -> Page:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        own = (url, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(own) or problems.append(request.url))
        page.goto(url, wait_until="domcontentloaded")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def shown(shop, recommender) -> tuple[str, Recommender]:
    """The checkpoint's name and, for what to expect, the checkpoint itself."""
    return (SCREENSHOT_OF, Recommender.load(str(ROOT / SCREENSHOT_OF))) if SCREENSHOT_OF else (str(shop), recommender)


@pytest.fixture(scope="module")
def url(shown, browser, tmp_path_factory):
    """The address of the app, run in a process of its own as a user runs it."""
    log = tmp_path_factory.mktemp("app") / "log.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "examples/space/app.py", shown[0], "--port", str(port)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    assert process.poll() is None, log.read_text()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def opened(page: Page) -> Page:
    expect(page.locator("#recommended li")).to_have_count(TOP_K)
    return page


def ids(page: Page, part: str) -> list[str]:
    return page.locator(f"#{part} li").evaluate_all("rows => rows.map(row => row.dataset.id)")


def with_example(page: Page, recommender: Recommender, injections: int) -> Visit:
    """Clicks; returns the visit that the page then has."""
    page.get_by_role("button", name="Example").click()
    expect(page.locator("#history li")).to_have_count(EXAMPLE_LENGTH)
    visit = Visit().start(recommender.example(0, EXAMPLE_LENGTH))
    for count in range(1, injections + 1):
        page.get_by_role("button", name="Inject a random item").click()
        expect(page.locator("#history li")).to_have_count(EXAMPLE_LENGTH + count)
        visit = visit.inject(recommender.item_ids)
    expect(page.locator("#why .tag.injected")).to_have_count(injections)
    return visit


def test_loading_is_shown_first(shown, visit_page, url):
    page = visit_page(url)
    expect(page.get_by_role("status").first).to_contain_text(f"Loading {shown[0]}")
    expect(page.locator("#search")).to_be_hidden()
    opened(page)
    expect(page.locator("#status")).to_contain_text(f"{len(shown[1].item_ids)} items")
    expect(page.get_by_text("Loading")).to_have_count(0)


def test_search_add_and_remove(shown, visit_page, url):
    recommender, page = shown[1], opened(visit_page(url))
    expect(page.locator("#history")).to_contain_text("No items yet")
    expect(page.locator("#why")).to_contain_text("Add an item")
    expect(page.get_by_role("button", name="Inject a random item")).to_be_disabled()
    assert ids(page, "results") == ids(page, "recommended") == recommender.popular(TOP_K)

    search = page.get_by_label("Words of a title, or an id")
    search.fill("no such thing")
    expect(page.locator("#results")).to_contain_text("No item has “no such thing”")
    search.fill("p0007")
    expect(page.locator("#results li")).to_have_count(1)
    title = recommender.titles(["p0007"])[0]
    page.get_by_role("button", name=f"Add {title}").first.click()
    expect(page.locator("#history li")).to_have_text([f"1{title}p0007×"])
    expect(page.locator("#results .tag")).to_have_text("in history")

    answers = recommender.recommend(["p0007"], True, TOP_K)
    expect(page.locator("#recommended .title")).to_have_text([answer["title"] for answer in answers])
    page.locator("#recommended button").first.click()
    expect(page.locator("#history li")).to_have_count(2)
    after = recommender.recommend(["p0007", answers[0]["item_id"]], True, TOP_K)
    expect(page.locator("#recommended .title")).to_have_text([answer["title"] for answer in after])
    assert after != answers

    page.locator("#history button").first.press("Enter")
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#history button")).to_be_focused()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history")).to_contain_text("No items yet")
    expect(page.locator("#recommended .sentence")).to_contain_text("Without a history")


def test_seen_items_come_and_go(shown, visit_page, url):
    recommender, page = shown[1], opened(visit_page(url))
    history = with_example(page, recommender, 0).item_ids
    for remove_seen in (True, False, True):
        page.get_by_label("Leave out items of the history").set_checked(remove_seen)
        answers = recommender.recommend(history, remove_seen, TOP_K)
        expect(page.locator("#recommended .title")).to_have_text([answer["title"] for answer in answers])
        seen = sum(answer["item_id"] in history for answer in answers)
        expect(page.locator("#recommended .tag")).to_have_count(seen)
        assert bool(seen) != remove_seen or SCREENSHOT_OF, "the demo's prior holds them back anyway"


def test_attention_is_the_models_with_injected_items_marked(shown, visit_page, url):
    recommender, page = shown[1], opened(visit_page(url))
    visit = with_example(page, recommender, 2)
    assert ids(page, "history") == visit.item_ids
    injected = [entry.item_id for entry in visit.history if entry.injected]
    for part in ("#history li", "#why [role=row]"):
        marked = page.locator(part).filter(has=page.locator(".tag.injected"))
        assert marked.evaluate_all("rows => rows.map(row => row.dataset.id)") == injected
    expect(page.locator(".shares")).to_contain_text("The 2 injected items are")

    attention = attention_of_last_item(recommender.model, recommender.tokenizer, visit.item_ids)
    layers = len(attention.used)

    def check(layer: int, head: int | None) -> None:
        columns = attention.columns(layer, head)
        cells = [number(weight, 2) for row in zip(*(c.weights for c in columns), strict=True) for weight in row]
        expect(page.get_by_role("table").get_by_role("cell")).to_have_text(cells)
        expect(page.get_by_role("columnheader")).to_contain_text(["Item", *(column.name for column in columns)])

    check(layers - 1, None)
    page.locator("#head").get_by_role("radio", name="2").check()
    check(layers - 1, 1)
    page.locator("#layer").get_by_role("radio", name="1").check()
    check(0, 1)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_look(shown, visit_page, url, width, scheme):
    """Nothing is wider than the screen, all text is readable, and the README's picture can be taken."""
    page = opened(visit_page(url, viewport={"width": width, "height": 900}, color_scheme=scheme))
    with_example(page, shown[1], 1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CONTRAST) == []
    page.mouse.move(0, 0)
    picture = page.screenshot(full_page=True, animations="disabled")
    if SCREENSHOT_OF and (width, scheme) == (1280, "light"):
        few = Image.open(BytesIO(picture)).quantize(128)  # colours: a third of the bytes
        few.save(ROOT / "images/space.png", optimize=True)


def test_a_folder_that_is_no_checkpoint(started, visit_page, tmp_path):
    page = visit_page(started(tmp_path))
    expect(page.get_by_role("alert")).to_contain_text("has no config.json")
    expect(page.get_by_role("alert")).to_contain_text("make demo")
    expect(page.locator("#search")).to_be_hidden()


def test_one_branch_no_titles_and_a_history_longer_than_the_model_reads(plain, started, visit_page):
    page = opened(visit_page(started(plain)))
    expect(page.locator("#status")).to_contain_text("no titles")
    assert page.locator("#results .title").all_inner_texts() == ids(page, "results")
    with_example(page, Recommender.load(str(plain)), 0)
    expect(page.locator("#history .tag")).to_have_text(["not read"] * (EXAMPLE_LENGTH - 3))
    expect(page.locator("#history .sentence")).to_contain_text("reads the last 3 items")
    expect(page.locator("#why [role=rowheader]")).to_have_count(3)
    expect(page.get_by_role("columnheader")).to_contain_text(["Item", "Attention"])
    expect(page.locator("#why .notes")).to_contain_text("one branch")
