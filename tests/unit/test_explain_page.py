"""The page of `gptwo explain` as text: one file, in which a prompt is data and never markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from made_explanation import HOSTILE, made_explanation

from gptwo.inspection.page import STYLES, bundle, json_block, page_of, views_folder


class Outline(HTMLParser):
    """The tags of a page, and the text within its elements by their ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.sources += [str(found[name]) for name in ("src", "href") if name in found]
        assert not any(name.startswith("on") for name in found)
        self._open = found.get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data


@pytest.fixture(scope="module")
def hostile() -> str:
    return page_of(made_explanation(HOSTILE))


def test_a_prompt_can_put_nothing_on_the_page_but_text(hostile: str) -> None:
    plain = Outline(page_of(made_explanation("a b c")))
    found = Outline(hostile)
    assert found.tags == plain.tags
    data = json.loads(found.texts["data"])
    assert data["prompt"] == HOSTILE
    assert "".join(data["names"][str(token)] for token in data["token_ids"]) == HOSTILE
    assert not re.search(r"[<>&]", found.texts["data"])


def test_a_page_fetches_nothing(hostile: str) -> None:
    assert Outline(hostile).sources == ["#main"]
    assert "@import" not in hostile
    assert "url(" not in hostile
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', hostile)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", hostile)


def test_what_looks_like_a_place_of_the_template_is_text(hostile: str) -> None:
    found = Outline(hostile)
    assert json.loads(found.texts["data"])["prompt"].endswith("$data ${x}")
    assert "$data" in found.texts["title"]


def test_json_cannot_end_the_element_that_it_stands_in() -> None:
    value = {"</script><!--": ["\u2028", "]]>", "&amp;"]}
    assert not re.search(r"[<>&]", json_block(value))
    assert json.loads(json_block(value)) == value


def test_the_modules_of_the_page_become_one_script_in_the_order_they_need() -> None:
    script = bundle(views_folder(), "page.js")
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    assert script.index("class Grid") < script.index("class LensView") < script.index("new LensView")
    names = re.findall(r"^const \{ (.*) \} = \(\(\) => \{$", script, re.MULTILINE)
    exported = [name for group in names for name in group.split(", ") if name]
    assert len(exported) == len(set(exported))
    assert "</" not in script


def test_what_the_page_and_the_playground_share_is_written_once() -> None:
    from gptwo.server.pages import SHARED, _folder

    def names(style: str) -> set[str]:
        """Its variables and selectors, but for plain elements and `:root`, of which each sheet says more."""
        selectors = re.findall(r"^([.:*\[].*?)(?:,| \{)$", style, re.MULTILINE)
        return {*selectors, *re.findall(r"^  (--[\w-]+):", style, re.MULTILINE)} - {":root"}

    sheets = [path for folder in (views_folder(), _folder()) for path in folder.iterdir() if path.name.endswith(".css")]
    (base,) = (names(path.read_text(encoding="utf-8")) for path in sheets if path.name == "base.css")
    assert {"--paper", "--p6", "--mono", ".sr", ".skip", ":focus-visible", ':root[data-theme="dark"]'} <= base
    again = [(str(path), names(path.read_text(encoding="utf-8")) & base) for path in sheets if path.name != "base.css"]
    assert [found for found in again if found[1]] == []
    index = _folder().joinpath("index.html").read_text(encoding="utf-8")
    assert STYLES[0] == SHARED[0] == "base.css"
    assert re.findall(r'rel="stylesheet" href="playground/(.*)"', index)[0] == "views/base.css"


def test_a_long_prompt_gives_a_short_title() -> None:
    title = Outline(page_of(made_explanation("word " * 60))).texts["title"].strip()
    assert len(title) < 90
    assert title.endswith("… · gptwo explain")
    assert Outline(page_of(made_explanation("\x00\n"))).texts["title"].startswith("An empty prompt")
