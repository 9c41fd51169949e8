"""Write what the program says into the README: the table of rules, and what its console blocks print.

python docs/readme.py            # writes README.md
python docs/readme.py --check    # shows what would change; exit status 1 if anything would
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from bnlint.page import PAGES, Page
from bnlint.registry import OWN_DISTRIBUTION, load_rules
from bnlint.rule import Rule

ROOT = Path(__file__).resolve().parent.parent


def filled(text: str) -> str:
    """The README with its tables of rules and facts and its console blocks made anew."""
    text = re.sub(
        r"(<!-- rules: .*? -->\n).*(?=<!-- end of rules -->)",
        lambda match: match[1] + rule_table(),
        text,
        flags=re.DOTALL,
    )
    text = re.sub(
        r"(<!-- facts: .*? -->\n).*(?=<!-- end of facts -->)",
        lambda match: match[1] + fact_table(),
        text,
        flags=re.DOTALL,
    )
    return re.sub(
        r"(?<=^```console\n).*?(?=^```$)",
        lambda match: printed(re.findall(r"^\$ (.*)$", match[0], flags=re.MULTILINE)),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def rule_table() -> str:
    """One row for each built-in rule and each code of a run: its first paragraph is the fact behind it."""
    own: list[Rule | Page] = [item.rule for item in load_rules() if item.package == OWN_DISTRIBUTION]
    rows = ["| code | name | severity | the fact behind it |", "|---|---|---|---|"]
    for rule in (*own, *PAGES):
        fact = " ".join(rule.page().split("\n\n")[0].split())
        rows.append(f"| {rule.code} | {rule.name} | {rule.severity} | {fact} |")
    return "".join(f"{row}\n" for row in rows)


def fact_table() -> str:
    """One row for each key of the native training file, in the words of its schema."""
    schema = json.loads((ROOT / "bnlint" / "schemas" / "training.schema.json").read_text(encoding="utf-8"))
    rows = ["| key | means |", "|---|---|"]
    for key, about in schema["properties"].items():
        words = about["description"].rstrip(".")
        choices = next((item["enum"] for item in (about, *about.get("anyOf", ())) if "enum" in item), ())
        spelt = ", ".join(f"`{choice}`" for choice in dict.fromkeys(map(str, choices)) if choice != "None")
        rows.append(f"| `{key}` | {words}{f': {spelt}' if spelt else ''} |")
    return "".join(f"{row}\n" for row in rows)


def printed(commands: list[str]) -> str:
    """What a reader of the block would see: each command, its standard output, and `echo $?`."""
    lines, status = "", 0
    for command in commands:
        lines += f"$ {command}\n"
        if command == "echo $?":
            lines += f"{status}\n"
            continue
        arguments = shlex.split(command.removeprefix("bnlint "))
        run = subprocess.run(
            [sys.executable, "-m", "bnlint", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode == 2:
            sys.exit(f"{command}: {run.stderr}")
        lines, status = lines + run.stdout, run.returncode
    return lines


def main() -> int:
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" not in sys.argv[1:]:
        path.write_text(after, encoding="utf-8")
        return 0
    changes = list(difflib.unified_diff(before.splitlines(), after.splitlines(), "README.md", "as it should be"))
    print("\n".join(changes))
    return int(bool(changes))


if __name__ == "__main__":
    sys.exit(main())
