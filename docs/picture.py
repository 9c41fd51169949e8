"""Record one real run of `bnlint check` as docs/check.svg: python docs/picture.py TARGET [FLAG]..."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def record(arguments: list[str], picture: Path) -> None:
    """Run the command in colour and write what came out as a picture."""
    run = subprocess.run(
        [sys.executable, "-m", "bnlint", "check", *arguments, "--color", "always"],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 2:
        sys.exit(run.stderr)
    lines = [Text(f"$ bnlint check {' '.join(arguments)}", style="bold"), Text.from_ansi(run.stdout)]
    width = max(len(line) for text in lines for line in text.plain.splitlines())  # nothing is wrapped
    console = Console(record=True, width=width, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(*lines, sep="\n", end="")
    svg = console.export_svg(title="bnlint", unique_id="check")
    # rich links its font from a content network; a picture in a repository should fetch nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    # Some renderers drop the indentation of a line, though it is made of no-break spaces.
    picture.write_text(svg.replace("<svg ", '<svg xml:space="preserve" ', 1), encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1:], Path(__file__).with_name("check.svg"))
