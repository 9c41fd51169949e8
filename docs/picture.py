"""Record one real run of `bnlint check` as docs/check.svg: python docs/picture.py TARGET [FLAG]..."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100


def record(arguments: list[str], picture: Path) -> None:
    """Run the command as a terminal of WIDTH columns would show it and write what came out as a picture."""
    run = subprocess.run(
        [sys.executable, "-m", "bnlint", "check", *arguments],
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 2:
        sys.exit(run.stderr)
    console = Console(
        record=True,
        width=WIDTH,
        force_terminal=True,
        color_system="truecolor",
        file=io.StringIO(),
    )
    console.print(f"[bold]$ bnlint check {' '.join(arguments)}[/bold]", highlight=False)
    console.print(Text.from_ansi(run.stdout))
    svg = console.export_svg(title="bnlint", unique_id="check")
    # rich links its font from a content network; a picture in a repository should fetch nothing.
    picture.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1:], Path(__file__).with_name("check.svg"))
