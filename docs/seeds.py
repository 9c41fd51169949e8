"""Write into docs/seeds.md what its console blocks print: each begins in the root of the repository.

python docs/seeds.py            # writes docs/seeds.md
python docs/seeds.py --check    # shows what would change; exit status 1 if anything would
"""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "seeds.md"


def filled(text: str) -> str:
    """The page with its console blocks made anew."""
    return re.sub(
        r"(?<=^```console\n).*?(?=^```$)",
        lambda match: printed(re.findall(r"^\$ (.*)$", match[0], flags=re.MULTILINE)),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def printed(commands: list[str]) -> str:
    """What a reader of the block would see: each command, its standard output, and `echo $?`."""
    folder, status, lines = ROOT, 0, ""
    for command in commands:
        lines += f"$ {command}\n"
        program, *arguments = shlex.split(command)
        if program == "cd":
            folder = folder / arguments[0]
        elif program == "echo":
            lines += f"{status}\n"
        else:
            run = subprocess.run(
                [sys.executable, "-m", program, *arguments], cwd=folder, capture_output=True, text=True, check=False
            )
            if run.returncode == 2:
                sys.exit(f"{folder}: {command}: {run.stderr}")
            lines, status = lines + run.stdout, run.returncode
    return lines


def main() -> int:
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(after, encoding="utf-8")
        return 0
    changes = list(difflib.unified_diff(before.splitlines(), after.splitlines(), "seeds.md", "as it should be"))
    print("\n".join(changes))
    return int(bool(changes))


if __name__ == "__main__":
    sys.exit(main())
