"""MkDocs hook: pages that lie elsewhere in the repository, and links as they are written there."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def _pages() -> dict[str, str]:
    """Pages of the site by their place in the repository, those in docs/ aside."""
    pages = {
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "benchmarks/README.md": "benchmarks.md",
    }
    studies = sorted(ROOT.glob("fa_lightning/studies/*/README.md"))
    return pages | {path.relative_to(ROOT).as_posix(): f"studies/{path.parent.name}.md" for path in studies}


PAGES = _pages()


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the site's pages; what has none there, such as CITATION.cff, keeps its name alone."""
    own = page.file.src_uri
    source = next((place for place, target in PAGES.items() if target == own), f"docs/{own}")

    def site_link(match: re.Match[str]) -> str:
        place = os.path.normpath(PurePosixPath(source).parent / match["path"]).replace(os.sep, "/")
        target = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if target is None and (ROOT / place).exists():
            return match["text"]
        if target is None:
            return match[0]
        path = os.path.relpath(target, PurePosixPath(own).parent).replace(os.sep, "/")
        return f"[{match['text']}]({path}{match['anchor'] or ''})"

    return LINK.sub(site_link, markdown)
