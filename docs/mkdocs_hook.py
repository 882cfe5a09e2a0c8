"""MkDocs hooks: take pages from outside ``docs`` into the site, and mend the links between the two.

Links in the repository are relative to the file that contains them, so that they work wherever it is browsed. Those to
source files, which the site does not have, become plain text. A link to a file that does not exist is left as it is and
fails the strict build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
HOME, DOCS = "README.md", "docs/"
OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "benchmarks/results/*.md",
    "benchmarks/results/*.svg",
)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:attr|class|func|meth|mod):<code>~?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page and the pages outside ``docs``, under their path in the repository."""
    outside = [path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))]
    sources = {"index.md": ROOT / HOME} | {path.relative_to(ROOT).as_posix(): path for path in outside}
    for uri, path in sources.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where their targets are in the site."""
    here = _in_repository(page.file)
    if here == HOME:
        page.meta["hide"] = ["navigation"]  # it has no siblings

    def mend(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link["target"]))
        uri = "index.md" if target == HOME else target.removeprefix(DOCS)
        if files.get_file_from_path(uri) is None:
            return link["text"] if (ROOT / target).exists() else link[0]
        mended = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link['image']}[{link['text']}]({mended}{link['anchor'] or ''})"

    return _LINK.sub(mend, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show names in docstrings, such as :func:`localvit.fuse`, without their role."""
    return _ROLE.sub("<code>", html)


def _in_repository(file: File) -> str:
    """The path of a page's source below the root of the repository."""
    return Path(file.abs_src_path or "").resolve().relative_to(ROOT.resolve()).as_posix()
