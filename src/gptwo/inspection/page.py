"""An explanation as one HTML page: style, script and data in the file, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import string
from html import escape
from importlib import resources
from importlib.resources.abc import Traversable

from gptwo.inspection.explanation import Explanation

STYLES = ("base.css", "page.css", "views.css")
ENTRY = "page.js"
_IMPORT = re.compile(r'^import [^;]*? from "\./([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|function|class) (\w+))", re.MULTILINE)


def page_of(explanation: Explanation) -> str:
    """The page, which a browser shows from a file as well as from a server.

    The prompt and the tokens are data, never markup: they stand in a JSON block in which `<` is escaped, and the script
    puts them on the page as text. The page's own policy lets nothing run or load but what is written in it.
    """
    folder = views_folder()
    style = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in STYLES)
    script = bundle(folder, ENTRY)
    facts = f"{explanation.model} · {explanation.parameters:,} parameters · {len(explanation.token_ids)} tokens"
    return string.Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'; base-uri 'none'",
        title=escape(f"{_beginning(explanation.prompt)} · gptwo explain"),
        model=escape(facts),
        style=style,
        data=json_block(explanation.as_dict()),
        script=script,
    )


def json_block(value: object) -> str:
    """JSON that may stand within `<script>`: nothing in it can end the element or begin a comment."""
    written = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def bundle(folder: Traversable, entry: str) -> str:
    """The modules that one module needs, as one script: each a function of its own, after those it imports.

    A script in a file has no address to import others by. So that this stays simple, every import is of names and
    stands on a line of its own, and no two modules export the same name.
    """
    ordered: dict[str, str] = {}

    def add(name: str) -> None:
        if name in ordered:
            return
        source = folder.joinpath(name).read_text(encoding="utf-8")
        for needed in _IMPORT.findall(source):
            add(needed)
        names = ", ".join(_EXPORT.findall(source))
        body = _EXPORT.sub("", _IMPORT.sub("", source))
        ordered[name] = f"const {{ {names} }} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();"

    add(entry)
    return "\n".join(ordered.values())


def views_folder() -> Traversable:
    """Where the views lie; the playground serves them too."""
    return resources.files("gptwo.inspection").joinpath("views")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _beginning(prompt: str) -> str:
    words = " ".join("".join(character if character.isprintable() else " " for character in prompt).split())
    return (words[:60] + "…" if len(words) > 60 else words) or "An empty prompt"
