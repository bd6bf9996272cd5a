"""What a person does in the playground, in words that tests can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


class Playground:
    """The page of a test, and its parts."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.text: Locator = page.locator("#text")
        self.notice: Locator = page.locator("#notice")
        self.alternatives: Locator = page.locator("#alternatives")
        self.cards: Locator = page.locator(".candidate")

    @property
    def value(self) -> str:
        """The whole text."""
        return self.text.input_value()

    def write(self, text: str) -> None:
        """Type a text at the end of what is there."""
        self.text.focus()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.insert_text(text)

    def go_on(self) -> str:
        """Continue from the cursor, wait for the end, and give what was written."""
        before = self.value
        self.text.focus()
        self.page.keyboard.press("Control+Enter")
        self.wait()
        return self.value.removeprefix(before)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self.page.wait_for_selector("#go:not(.stops)")

    def set(self, **parameters: object) -> None:
        """Fill fields of the panel."""
        page = self.page
        if not page.locator("#panel").is_visible():
            page.locator("#panel-toggle").click()
        page.locator("#tab-parameters").click()
        for name, value in parameters.items():
            field = page.locator(f"#parameter-{name}")
            field.evaluate("field => (field.closest('details').open = true)")
            if isinstance(value, bool):
                field.set_checked(value)
            elif field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(str(value))
            else:
                field.fill(str(value))
                field.blur()

    def colour(self) -> None:
        """Turn the probabilities on, and wait until every token has one."""
        self.page.locator("#colours").click()
        self.page.wait_for_selector("#legend:not([aria-busy='true']) #perplexity:not(:empty)")

    def point_at(self, offset: int) -> None:
        """Put the pointer on a letter of the text."""
        self.page.mouse.move(*self.place(offset))

    def place(self, offset: int) -> tuple[float, float]:
        """The middle of a letter on the screen."""
        x, y = self.page.evaluate(
            """offset => {
                const range = document.createRange();
                const node = document.getElementById("mirror").firstChild;
                range.setStart(node, offset);
                range.setEnd(node, offset + 1);
                const box = range.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }""",
            offset,
        )
        return x, y

    def coloured(self) -> int:
        """How many stretches of the page have the colour of a probability."""
        return int(
            self.page.evaluate(
                "() => [0, 1, 2, 3, 4, 5, 6].reduce((sum, s) => sum + CSS.highlights.get(`p${s}`).size, 0)"
            )
        )

    def clipboard(self) -> str:
        """What was copied."""
        return str(self.page.evaluate("() => navigator.clipboard.readText()"))

    def call(self, module: str, body: str, *arguments: Any) -> Any:
        """Run a function's body with a module of the page as `m` and the arguments as `a`."""
        return self.page.evaluate(
            f"async ([path, a]) => {{ const m = await import(path); {body} }}",
            [f"/playground/{module}", list(arguments)],
        )
