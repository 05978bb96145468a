"""The page of a description in a browser, without a network."""

import shutil

import pytest

from medretrieval.commands.inputs.data import VERB

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")
WORDS = (
    "dataset=chest_phantom",
    "dataset.size=32",
    "dataset.n_train=12",
    "dataset.n_val=0",
    "dataset.n_test=6",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_pictures_and_tables_and_asks_for_nothing(tmp_path, scheme):
    out = tmp_path / "data.html"
    assert VERB.main([*WORDS, f"out={out}"]) == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(offline=True, color_scheme=scheme)
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(out.as_uri())
        widths = page.locator(".contact img").evaluate_all("all => all.map(one => one.naturalWidth)")
        rows = page.locator(".sheet-table tbody tr").count()
        headings = page.locator("h2").all_inner_texts()
        wide = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert widths == [32] * 18
    assert rows == 5
    assert headings[:4] == [
        "What needs action",
        "Splits and classes",
        "Contact sheet",
        "Copies and look-alikes",
    ]
    assert wide
    assert complaints == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
