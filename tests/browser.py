"""Prefect's UI in a real browser, as a person uses it: by what is written on the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
_PATIENCE = 60_000.0
_SOON = 10_000.0


class Browser:
    """A page of the UI at `url`, logged in."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def log_in(self, password: str) -> None:
        """Give the password, as the UI asks for it once."""
        self.page.goto(self.url)
        self.page.get_by_placeholder("admin:pass").fill(password)
        self.page.get_by_role("button", name="Login").click()
        self.page.wait_for_url("**/dashboard")

    def open_form(self, flow: str) -> None:
        """Find the deployment of a flow, and ask for a custom run."""
        self.page.goto(f"{self.url}/deployments")
        self.page.get_by_placeholder("Search deployments").fill(flow)
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(flow, exact=True))
        link = row.locator("a[href*='/deployments/deployment/']").first
        self.page.goto(self.url + str(link.get_attribute("href")))  # the list may be drawn anew under a click
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        self.page.get_by_text("Validate parameters").wait_for()

    def field(self, title: str) -> Locator:
        """The input of the form's field with this title."""
        return self._property(title).locator("textarea, input").first

    def choose(self, title: str, *names: str) -> None:
        """Choose names from the list of a field, by clicks; without a name the list is left open."""
        self._property(title).locator(".p-select-button").click()
        for name in names:
            self.page.locator(".p-select-option").get_by_text(name, exact=True).click()

    def write(self, title: str, text: str) -> None:
        """Write into a field what its list may not have."""
        self._property(title).get_by_role("button", name="Write").click()
        self.field(title).fill(text)

    def _property(self, title: str) -> Locator:
        label = re.compile(rf"^\s*{re.escape(title)}(\s*\(Optional\))?\s*$")
        named = self.page.locator(".schema-form-property__label", has_text=label)
        return self.page.locator(".schema-form-property", has=named).last

    def submit(self) -> str:
        """Ask for the run, and go to its page; the run's id."""
        with self.page.expect_response("**/create_flow_run") as asked:
            self.page.get_by_role("button", name="Submit").click()
        run = str(asked.value.json()["id"])
        self.page.goto(f"{self.url}/runs/flow-run/{run}")
        return run

    def wait_for_state(self, state: str) -> None:
        """Wait until the run's page says so."""
        self.page.locator(".state-badge, .p-tag").get_by_text(state, exact=True).first.wait_for()

    def open_artifact(self, key: str, shows: str = "text=time") -> str:
        """Go from the run's page to an artifact, and wait until it shows something; its text."""
        named = self.page.get_by_text(key, exact=True)
        link = self.page.locator("a[href*='/artifacts/']").filter(has=named).first
        while True:  # until the test's time is up: a list that is empty, since the server was busy, may stay so
            self.page.locator(".p-tab-navigation").get_by_text("Artifacts", exact=True).click()
            try:
                path = link.get_attribute("href", timeout=_SOON)
                break
            except PlaywrightTimeout:
                self.page.reload()
        self.page.goto(f"{self.url}{path}")  # the list may be drawn anew under a click
        self.page.locator(shows).first.wait_for()
        return self.page.inner_text("main, body")

    def progress(self, step: str) -> list[int]:
        """Two shares of a step, in percent, as the log on the run's page tells them while it runs."""
        told = self.page.get_by_text(re.compile(rf"^\s*{step}: \d+ %"))
        told.nth(1).wait_for()
        return [int(line.split()[1]) for line in told.all_inner_texts()[:2]]

    def picture(self) -> tuple[int, int]:
        """Width and height of the picture that the page shows, as the browser has decoded it."""
        size = "found => [found.naturalWidth, found.naturalHeight]"
        width, height = self.page.locator("img[src^='data:image/png']").first.evaluate(size)
        return int(width), int(height)


@contextmanager
def opened(url: str, password: str, **viewport: Any) -> Iterator[Browser]:
    """A browser that is logged in at `url`."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        page = chromium.new_page(viewport={"width": 1200, "height": 900, **viewport})
        page.set_default_timeout(_PATIENCE)
        browser = Browser(page, url)
        browser.log_in(password)
        yield browser
        chromium.close()
