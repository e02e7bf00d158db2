"""Prefect's UI in a real browser, as a person uses it: by what is written on the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
_PATIENCE = 60_000.0


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
        """Choose from the list of a field, by clicks."""
        self._property(title).locator(".p-select-button").click()
        for name in names:
            self.page.locator(".p-select-option").get_by_text(name, exact=True).click()
        self.page.keyboard.press("Escape")

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

    def open_artifact(self, key: str) -> str:
        """Go from the run's page to an artifact; the text that it shows."""
        self.page.get_by_text("Artifacts", exact=True).last.click()
        self.page.locator("a[href*='/artifacts/']").filter(has_text=key).first.click()
        self.page.wait_for_url("**/artifacts/**")
        self.page.get_by_text("time", exact=True).first.wait_for()
        return self.page.inner_text("main, body")


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
