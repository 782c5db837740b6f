"""The documents as GitHub shows them: in a column of 830 px no table and no picture is wider than the column."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt
from playwright.async_api import Browser

from tests.browser.chat import ARTEFACTS
from tests.test_docs import PAGES, ROOT

# The rules of GitHub's style sheet that decide how wide things are.
FRAME = """<!doctype html><meta charset="utf-8"><base href="{base}/"><style>
body {{ margin: 0; font: 16px/1.5 "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328; }}
main {{ width: 830px; margin: 0 auto; }}
table {{ display: block; width: max-content; max-width: 100%; overflow: auto; border-spacing: 0; border-collapse: collapse; }}
th, td {{ padding: 6px 13px; border: 1px solid #d1d9e0; }}
img {{ max-width: 100%; }}
code {{ font: 85% ui-monospace, monospace; padding: .2em .4em; white-space: break-spaces; background: #818b981f; }}
pre {{ padding: 16px; overflow: auto; font-size: 85%; background: #f6f8fa; }}
pre code {{ font-size: 100%; padding: 0; white-space: pre; background: none; }}
</style><main>{body}</main>"""
TOO_WIDE = """[...document.querySelectorAll("table, img")]
    .filter((one) => one.scrollWidth > one.clientWidth || one.naturalWidth === 0)
    .map((one) => `${one.scrollWidth} px: ${(one.alt ?? one.textContent).trim().slice(0, 60)}`)"""


async def test_tables_and_pictures_fit_the_width_that_github_gives(browser: Browser, tmp_path: Path) -> None:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = await browser.new_page(viewport={"width": 1012, "height": 900})
    shown = tmp_path / "page.html"
    wrong = []
    for name in (*PAGES, "compare/ATLAS.md", "compare/RESULTS.md", "compare/two_runs/README.md"):
        source = ROOT / name
        body = markdown.render(source.read_text(encoding="utf-8"))
        shown.write_text(FRAME.format(base=source.parent.as_uri(), body=body), encoding="utf-8")
        await page.goto(shown.as_uri())
        wrong += [f"{name}: {found}" for found in await page.evaluate(TOO_WIDE)]
        if name in ("README.md", "compare/RESULTS.md"):
            ARTEFACTS.mkdir(exist_ok=True)
            await page.screenshot(path=ARTEFACTS / f"{source.stem.lower()}-830px.png", full_page=True)
    assert wrong == []
