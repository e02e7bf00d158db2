"""The documentation: what it links to exists, and its pictures are small."""

import re
from pathlib import Path

import pytest

from deployments import apply

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [link for link in found if "://" not in link and not link.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    missing = [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()]

    assert missing == []


def test_pictures_are_small():
    large = [picture.name for picture in (ROOT / "docs" / "images").glob("*.png") if picture.stat().st_size > 100_000]

    assert large == []


def test_each_deployment_has_a_page_that_tells_of_it():
    for entry in apply.declared():
        page = ROOT / entry["description"].rpartition(" See ")[2].removesuffix(".")
        assert f"`{entry['name']}`" in page.read_text(), entry["name"]
