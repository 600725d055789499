"""What MkDocs adds to the pages: the API from docstrings, and the source files that pages link to.

On GitHub a link such as ../flash_sparse/layout.py leads to the file. The site has no files beside its pages, so that
each linked one becomes a page of its own.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

import flash_sparse
from flash_sparse import huggingface, nn, patterns

ROOT = Path(__file__).parents[1]
SOURCE_LINK = re.compile(r"\]\(\.\./([\w/]+)\.py\)")
API = """\
# API

The public names and their docstrings. [Attention](attention.md) shows them in use.
"""
SECTIONS = (
    ("Attention and layouts", flash_sparse),
    ("Patterns", patterns),
    ("Modules", nn),
    ("Hugging Face", huggingface),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    files.append(File.generated(config, "api.md", content=_api()))
    linked = {path for file in files.documentation_pages() for path in SOURCE_LINK.findall(file.content_string)}
    for path in sorted(linked):
        content = f"# {path}.py\n\n```python\n{(ROOT / f'{path}.py').read_text(encoding='utf-8')}```\n"
        page = File.generated(config, f"source/{path}.md", content=content, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to source files lead to their pages."""
    return SOURCE_LINK.sub(r"](source/\1.md)", markdown)


def _api() -> str:
    parts = [API]
    for title, module in SECTIONS:
        names = getattr(module, "__all__", None) or _functions(module)
        parts.append(f"## {title}\n")
        parts += [f"::: {module.__name__}.{name}\n" for name in names if not inspect.ismodule(getattr(module, name))]
    return "\n".join(parts)


def _functions(module) -> list[str]:
    """Public functions that a module defines, in their order."""
    return [name for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and value.__module__ == module.__name__]  # fmt: skip
