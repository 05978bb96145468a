"""The page of a report in a browser: sorting, filters, pictures, without a network."""

import shutil

import pytest

from medretrieval.commands.many_runs.report import VERB

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def address(finished_sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    words = [str(finished_sweep / "sweeps" / "s1"), str(finished_sweep / "other")]
    assert VERB.main([*words, f"out={out}", "track=false"]) == 0
    return out.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """The page, offline; whatever it complains of or asks the network for fails the test."""
    context = browser.new_context(offline=True)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def column(page, name):
    """Where a column stands in the first table, and its cells' numbers from the top."""
    heads = page.locator("table.runs").first.locator("thead th")
    names = [text.split(" ")[0] for text in heads.all_inner_texts()]
    place = names.index(name)
    rows = page.locator("table.runs").first.locator("tbody tr")
    cells = [row.locator("td").nth(place).get_attribute("data-v") for row in rows.all()]
    return heads.nth(place), [float(cell) for cell in cells if cell]


def test_columns_sort_by_click_and_by_key_and_say_so(page):
    head, values = column(page, "precision_at_3")
    assert values == sorted(values, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "precision_at_3")[1] == sorted(values)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "precision_at_3")[1] == values
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    sorted_by = page.locator("table.runs").first.locator('th[aria-sort="ascending"]')
    assert sorted_by.count() == 1


def test_filters_hide_runs_everywhere_and_the_page_says_how_many_are_left(page):
    status, rows = page.get_by_role("status"), page.locator("table.runs tbody tr:visible")
    assert status.inner_text() == "5 of 5 runs shown"
    page.get_by_label("encoder").select_option("random")
    assert status.inner_text() == "2 of 5 runs shown"
    assert rows.count() == 2
    assert page.locator("details.run:visible").count() == 2
    assert page.locator("svg.chart g.mark:visible").count() == 4
    page.get_by_label("protocol").select_option("leave_one_out")
    assert status.inner_text() == "0 of 5 runs shown"
    assert page.locator("section.group:visible").count() == 0
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('table.runs tbody tr.gone').length === 0")
    assert status.inner_text() == "5 of 5 runs shown"
    assert rows.count() == 5


def test_pictures_load_and_those_of_closed_runs_wait(page):
    images = "() => [...document.querySelectorAll('img[data-thumb]')]"
    page.wait_for_function(f"({images})().some(i => i.naturalWidth > 0)")
    assert page.evaluate(f"({images})().filter(i => i.src && !i.naturalWidth).length") == 0
    closed = page.locator("details.run:not([open])").first
    assert closed.locator("img[data-thumb][src]").count() == 0
    closed.locator("summary").first.click()
    opened = page.locator("details.run").nth(1)
    assert opened.locator("img[data-thumb]").count() > 0
    page.wait_for_function(
        "() => [...document.querySelectorAll('details.run')[1].querySelectorAll('img[data-thumb]')]"
        ".every(i => i.naturalWidth > 0)"
    )


def test_a_runs_number_leads_to_its_section(page):
    page.locator("table.runs tbody a").nth(2).click()
    page.wait_for_function("() => document.querySelectorAll('details.run')[2].open")
    assert page.locator("details.run").nth(3).get_attribute("open") is None


def test_no_table_is_cut_on_a_laptop(page):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    cut = page.evaluate(
        "() => [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.getAttribute('aria-label'))"
    )
    assert cut == []


def test_the_score_is_seen_without_scrolling_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    box = page.locator("table.runs tbody td.score").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_only_tables_are_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, scheme):
    """WCAG 2 AA: 4.5 to 1 for text."""
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim();
            const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
              .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const found = {};
          for (const ink of ["--ink", "--quiet", "--link"])
            for (const paper of ["--paper", "--wash"]) {
              const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
              found[ink + " on " + paper] = (a + 0.05) / (b + 0.05);
            }
          return found;
        }"""
    )
    assert {pair: ratio for pair, ratio in ratios.items() if not ratio >= 4.5} == {}


def test_without_a_script_the_page_still_says_everything(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("table.runs tbody tr").count() == 5
    assert page.locator("#filters").is_hidden()
    page.locator("details.run summary").nth(1).click()
    assert page.locator("details.run").nth(1).get_by_text("The images need JavaScript").is_visible()
    context.close()


def test_print_has_no_controls_and_light_colors(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#filters").is_hidden()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(prefer_css_page_size=True)) > 10_000
