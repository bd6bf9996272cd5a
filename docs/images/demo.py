"""Draw demo.svg, the README's picture: what the embedded model says, each token coloured by its probability.

    python docs/images/demo.py

Everything in it comes from the model; only the colours and the window are drawn.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

import gptwo

WIDTH = 84
PROMPT, TOP_PROMPT = "ROMEO:", "Good my"
BACKGROUND, FOREGROUND, DIM, ACCENT = "#11141c", "#e6e9f0", "#7d869c", "#8ab4ff"
UNLIKELY, LIKELY = (255, 122, 89), (94, 214, 160)
THEME = TerminalTheme((17, 20, 28), (230, 233, 240), [(0, 0, 0)] * 8, [(0, 0, 0)] * 8)


def colour(probability: float) -> str:
    """From orange (a surprise) to green (expected), by the square root so that the middle is seen."""
    share = math.sqrt(probability)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(UNLIKELY, LIKELY, strict=True))


def prompt_line(command: str) -> Text:
    """A shell's prompt and a command behind it."""
    return Text.assemble(("$ ", DIM), (command, f"bold {FOREGROUND}"))


def continuation(model: gptwo.LanguageModel) -> Text:
    """The prompt, and the model's continuation of it in colours."""
    params = gptwo.SamplingParams(max_tokens=110, temperature=0.7, top_p=0.95, seed=7, logprobs=0)
    made = model.generate(PROMPT, params)
    assert made.logprobs is not None
    text = Text.assemble((PROMPT, f"bold {FOREGROUND}"))
    for token in made.logprobs:
        text.append(token.text, style=colour(math.exp(token.logprob)))
    return text


def likeliest(model: gptwo.LanguageModel) -> Text:
    """Bars for the next tokens."""
    rows = Text()
    for text, token_id, probability in model.top(TOP_PROMPT, k=5):
        rows.append(f"{text!r:>12} ", style=FOREGROUND)
        rows.append(f"{token_id:>5}  ", style=DIM)
        rows.append(f"{probability:>6.1%} ", style=FOREGROUND)
        rows.append("█" * max(1, round(probability * 60)) + "\n", style=colour(probability))
    return rows


def main() -> None:
    """Write demo.svg beside this file."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with gptwo.load("shakespeare") as model:
        options = "--max-tokens 110 --temperature 0.7 --top-p 0.95 --seed 7"
        console.print(prompt_line(f'gptwo generate "{PROMPT}" {options}'))
        console.print(continuation(model), highlight=False)
        console.print()
        console.print(prompt_line(f'gptwo top "{TOP_PROMPT}"'))
        console.print(likeliest(model), highlight=False, end="")
        console.print()
        console.print(Text.assemble(("tokens: ", DIM), ("unlikely ", colour(0.0)), ("· likely", colour(1.0))))
    svg = console.export_svg(title="gptwo", theme=THEME, unique_id="demo")
    # No font from elsewhere: whoever opens the picture asks nobody for anything.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono")
    svg = "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
    Path(__file__).with_name("demo.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
