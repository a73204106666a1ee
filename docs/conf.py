"""Sphinx: `./dev docs` makes pages of README, the guides and the docstrings.

The project's root is the source folder, so that the links of the pages hold there as on a forge.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import sphinx.ext.napoleon as napoleon
from sphinx.ext.napoleon.docstring import GoogleDocstring

import gnutls_cookie

project = "gnutls-cookie"
author = "the contributors of gnutls-cookie"
copyright = "the contributors, LGPL-2.1-or-later"
version = release = gnutls_cookie.__version__

root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/api/*.md"]
exclude_patterns = [".*", "build", "dist", "tests", "checks", "benchmarks", "gnutls_cookie"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = True

html_theme = "furo"
html_title = f"gnutls-cookie {release}"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Configurations that no lexer of Pygments reads whole.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "literal"  # a word in back quotes, in a docstring
napoleon_preprocess_types = False

# Names of others have no page here: their reference would need the network at each build.
nitpick_ignore_regex = [
    ("py:.*", r"(asyncio|collections|concurrent|contextlib|pathlib|socket|types|typing)\..*"),
    ("py:.*", r"(typing_extensions|_typeshed|cffi|_cffi_backend|ctypes|hypothesis|pytest)\..*"),
    (
        "py:.*",
        r"(Any|Buffer|Callable|Coroutine|Iterable|Iterator|Mapping|Sequence|infinity|Metric|Unpack)",
    ),
    ("py:.*", r"(os\.PathLike|.*vector_file\.Test|list\[.*|_pytest\..*|(.*\.)?(T|_Transport))"),
]

# Where "Connection" is the one of gnutls_cookie.server.
CORE = ("gnutls_cookie._connection", "gnutls_cookie.server", "gnutls_cookie.client")

# Classes that users get and do not make: their arguments say nothing.
NOT_MADE_BY_USERS = (
    "Attached Connection DTLSServer Opening ProtocolConnection Machine HandshakeFailure"
)

# The pages beside README, in the order of the side bar.
CONTENTS = {
    "Guides": "commands adapters sessions serve operations drop-in fleet xdp peers interop"
    " differential five-minutes",
    "Reference": "api/cookie api/gate api/sessions api/aio api/blocking api/errors api/reference"
    " api/metrics api/xdp api/differential",
    "Background": "design quirks benchmarks",
}
PROJECT = "CHANGELOG CONTRIBUTING RELEASING SECURITY"


def contents() -> str:
    """The table of contents, which README itself, read on a forge, does without."""
    parts = {name: [f"docs/{page}" for page in pages.split()] for name, pages in CONTENTS.items()}
    parts["Project"] = PROJECT.split()
    fence = "```"
    return "".join(
        f"\n{fence}{{toctree}}\n:hidden:\n:caption: {caption}\n\n"
        + "\n".join(pages)
        + f"\n{fence}\n"
        for caption, pages in parts.items()
    )


def add_contents(app: Any, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += contents()


def find_public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Types in signatures are named for the modules that define them; pages for where users
    find them."""
    objects = env.get_domain("py").objects
    name = node.get("reftarget", "").rpartition(".")[2]
    module = node.get("py:module") or ""
    near = [module, "gnutls_cookie", "gnutls_cookie.server", "gnutls_cookie.differential"]
    for full in dict.fromkeys(f"{place}.{name}" for place in near):
        if full in objects:
            node["reftarget"], node["refspecific"] = full, False
            domain, page = env.get_domain("py"), node["refdoc"]
            return domain.resolve_xref(env, page, app.builder, "obj", full, node, content)
    return None


class Docstring(GoogleDocstring):
    """Google's form without types, which signatures have: a colon is one of the sentence."""

    def _consume_inline_attribute(self) -> tuple[str, list[str]]:
        return "", self._dedent(self._consume_to_end())

    def _consume_returns_section(self, preprocess_types: bool = False) -> Any:
        return [("", "", self._dedent(self._consume_to_next_section()))]


napoleon.GoogleDocstring = Docstring  # type: ignore[misc]


def better_arguments(
    app: Any, what: str, name: str, at: Any, options: Any, arguments: str, returns: str
) -> tuple[str, str] | None:
    if what == "class" and name.rpartition(".")[2] in NOT_MADE_BY_USERS.split():
        return "", ""
    if getattr(at, "__module__", "") in CORE and arguments:  # one of three of this name
        return arguments.replace(": Connection", ": gnutls_cookie.server.Connection"), returns
    return None


def add_index(app: Any, error: Exception | None) -> None:
    """What a web server looks for in a folder."""
    page = Path(app.outdir, f"{root_doc}.html")
    if error is None and page.exists():
        shutil.copyfile(page, page.with_name("index.html"))


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", add_contents)
    app.connect("missing-reference", find_public)
    app.connect("autodoc-process-signature", better_arguments)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
