"""The command line. What a command needs is imported when it runs, so that `--help` stays quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from bnlint import __version__
from bnlint.commands.output import open_closed_streams
from bnlint.commands.parameters import (
    GroupedCommand,
    allowed,
    codes,
    completion,
    named_shapes,
    option,
    options,
    severities,
    shapes,
    size,
)
from bnlint.errors import BnlintError
from bnlint.options import FORMATS, LEVELS


class _Count(click.IntRange):
    name = "whole number"  # click's own name would make the error say "not a valid integer range"


class _Number(click.FloatRange):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not -1e15 < number < 1e15:  # nan is not between any two numbers
            self.fail(f"{value} is not a finite number that can be meant here", param, ctx)
        return number


COUNT = _Count(min=1)
POSITIVE = _Number(min=0, min_open=True)

FACTS, SELECTION, FIXING, OUTPUT, GATE, RUN = "Training facts", "Selection", "Fixing", "Output", "Gate", "Run"

_facts = options(
    option(
        FACTS,
        "--training",
        "training_files",
        multiple=True,
        metavar="FILE",
        help="A training file, instead of those of the settings. Repeatable: the later overrides, a flag overrides "
        "any file. DIALECT=FILE names its dialect.",
    ),
    option(FACTS, "--batch-size", type=COUNT, metavar="N", help="Samples per device in one forward."),
    option(
        FACTS,
        "--input",
        "inputs",
        callback=named_shapes,
        multiple=True,
        metavar="SHAPE",
        help="Shape of an input without the batch axis: 3,224,224 or 128:int64. Repeat it for each argument "
        "of forward. Generator=128 gives it to one of several models, named by target or class.",
    ),
    option(
        FACTS,
        "--target",
        "targets_of_loss",
        callback=shapes,
        multiple=True,
        metavar="SHAPE",
        help="Shape of a target without the batch axis; :int64 for a class index.",
    ),
    option(FACTS, "--world-size", type=COUNT, metavar="N", help="Ranks, over all machines."),
    option(
        FACTS,
        "--accumulate",
        "gradient_accumulation_steps",
        type=COUNT,
        metavar="N",
        help="Forwards per optimiser step.",
    ),
    option(FACTS, "--dataset-size", type=COUNT, metavar="N", help="Samples in the training set."),
    option(
        FACTS,
        "--drop-last/--no-drop-last",
        default=None,
        help="Whether the loader drops an incomplete last batch.",
    ),
    option(FACTS, "--epochs", type=POSITIVE, metavar="N", help="Passes over the training set."),
    option(
        FACTS,
        "--precision",
        type=click.Choice(["32", "fp16-mixed", "bf16-mixed", "fp16", "bf16"]),
        help="Number format of training.",
    ),
    option(
        FACTS,
        "--strategy",
        type=click.Choice(["ddp", "fsdp", "deepspeed", "dp", "none"]),
        help="How training is distributed.",
    ),
    option(
        FACTS,
        "--sync-bn/--no-sync-bn",
        "sync_batchnorm",
        default=None,
        help="Whether batch norms are converted to SyncBatchNorm.",
    ),
    option(FACTS, "--device", type=click.Choice(["cuda", "cpu", "mps"]), help="Where training runs."),
    option(
        FACTS,
        "--reference-batch-size",
        type=COUNT,
        metavar="N",
        help="Effective batch that the learning rate was tuned for.",
    ),
    option(
        FACTS,
        "--reference-lr",
        "reference_learning_rate",
        type=POSITIVE,
        metavar="LR",
        help="Learning rate at that batch.",
    ),
)
_selection = options(
    option(
        SELECTION,
        "--select",
        callback=codes,
        multiple=True,
        metavar="CODES",
        help="Run only these: BN101,BN2. Sets aside what the settings select and ignore.",
    ),
    option(SELECTION, "--ignore", callback=codes, multiple=True, metavar="CODES", help="Leave these out."),
    option(
        SELECTION,
        "--extend-select",
        callback=codes,
        multiple=True,
        metavar="CODES",
        help="Run these as well, such as rules in preview.",
    ),
    option(SELECTION, "--preview", is_flag=True, help="Run the rules in preview too."),
    option(
        SELECTION,
        "--severity",
        "severities",
        callback=severities,
        multiple=True,
        metavar="CODE=LEVEL",
        help="Change a rule's severity: error, warning or info.",
    ),
)
_color = option(
    OUTPUT,
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    help="Colours; auto obeys NO_COLOR, FORCE_COLOR and the terminal. [default: auto]",
)
_fixing = options(
    option(
        FIXING, "--fix", is_flag=True, help="Apply the safe fixes: those that leave the numerics of training alone."
    ),
    option(FIXING, "--unsafe-fixes", is_flag=True, help="With --fix or --diff: the fixes that change training too."),
    option(FIXING, "--diff", is_flag=True, help="Show what --fix would change, and change nothing."),
    option(FIXING, "--exit-non-zero-on-fix", is_flag=True, help="Exit with status 1 when --fix changed a file."),
)
_output = options(
    option(
        OUTPUT,
        "--output-format",
        type=click.Choice(FORMATS),
        help="full explains, concise is one line each; the others are for machines and platforms. [default: full]",
    ),
    option(OUTPUT, "--output-file", metavar="FILE", help="Write the result there instead of to standard output."),
    option(OUTPUT, "--sarif-output", metavar="FILE", help="Write the result there as SARIF as well."),
    option(OUTPUT, "--json-output", metavar="FILE", help="Write the result there as JSON as well."),
    option(OUTPUT, "--html-output", metavar="FILE", help="Write the result there as a page for the browser as well."),
    option(OUTPUT, "--statistics", is_flag=True, help="Count the findings of each rule, and list none."),
    option(OUTPUT, "--quiet", "-q", is_flag=True, help="Findings only."),
    option(OUTPUT, "--verbose", "-v", is_flag=True, help="List every target, and what the checked code prints."),
    _color,
)
_gate = options(
    option(
        GATE,
        "--fail-level",
        type=click.Choice(LEVELS),
        help="Lowest severity that makes the exit status 1. [default: warning]",
    ),
    option(GATE, "--exit-zero", is_flag=True, help="Exit with status 0 in spite of findings."),
    option(GATE, "--baseline", metavar="FILE", help="Leave out the findings that this file lists."),
    option(GATE, "--write-baseline", metavar="FILE", help="List the findings of this run in a file, and exit with 0."),
    option(GATE, "--prune-baseline", is_flag=True, help="Take out of the baseline what is no longer found."),
)
_timeout = option(
    RUN,
    "--timeout",
    type=POSITIVE,
    metavar="S",
    help="Seconds for each target. [default: 300]",
)
_process = options(
    _timeout,
    option(
        RUN,
        "--memory-limit",
        callback=size,
        metavar="SIZE",
        help="Memory for each target: 500M, 8G. [default: 80 % of the machine's, shared by the jobs]",
    ),
    option(
        RUN,
        "--allow",
        callback=allowed,
        multiple=True,
        metavar="network,processes,writes",
        help="What the checked code may do outside of its process; any of these.",
    ),
    option(RUN, "--jobs", "-j", type=COUNT, metavar="N", help="Targets at a time. [default: one per processor]"),
    option(RUN, "--no-cache", is_flag=True, help="Neither use nor keep what former runs found."),
    option(RUN, "--cache-dir", metavar="DIR", help="Where that is kept. [default: .bnlint_cache beside the settings]"),
)
_exclude = option(
    RUN,
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Files or folders that a folder target leaves out, beside those of the settings.",
)
_showing = options(
    option(
        RUN, "--force-exclude", is_flag=True, help="Leave out what is excluded also where it is named, as by hooks."
    ),
    option(RUN, "--watch", is_flag=True, help="Check again whenever a file is saved, until Ctrl-C."),
    option(RUN, "--show-files", is_flag=True, help="List what would be checked, and check nothing."),
    option(RUN, "--show-settings", is_flag=True, help="List the settings and where each is from, and check nothing."),
)
_settings = options(
    option(
        RUN,
        "--config",
        metavar="FILE",
        help="Settings of bnlint, instead of the closest bnlint.toml, .bnlint.toml or pyproject.toml.",
    ),
    option(RUN, "--isolated", is_flag=True, help="Read no settings, and no training file that nobody names."),
)
_debug = option(RUN, "--debug", is_flag=True, help="Show tracebacks.")


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bnlint")
@click.pass_context
def bnlint(context: click.Context) -> None:
    """Find PyTorch training runs that crash or silently rot because of normalisation."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@bnlint.command(cls=GroupedCommand)
@click.argument("targets", nargs=-1, metavar="[TARGET]...", shell_complete=completion("files"))
@_facts
@_selection
@_fixing
@_output
@_gate
@_process
@option(RUN, "--no-exec", is_flag=True, help="Execute nothing: read the sources and check what they show.")
@_exclude
@_showing
@_settings
@_debug
def check(**values: Any) -> int:
    """Check models.

    A TARGET is a Python file (model.py), an object in it (model.py:Net, "model.py:Net(num_classes=10)"), an
    importable object (timm.models:resnet50), a folder, or a training file, whose facts are checked. The default is
    what the settings name, else the working folder.

    Exit status: 0 clean, 1 findings at or above the fail level, 2 wrong use or an error in bnlint.
    """
    from bnlint.commands.check import run_check

    return run_check(values)


@bnlint.command(cls=GroupedCommand)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=completion("files"))
@_facts
@_color
@_process
@_settings
@_debug
def graph(**values: Any) -> int:
    """Show what was traced.

    The module tree with shapes, the norm layers and the values behind each of their statistics.
    """
    from bnlint.commands.views import run_view

    return run_view("graph", values)


@bnlint.command(cls=GroupedCommand)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=completion("files"))
@_facts
@_color
@_process
@_settings
@_debug
def norms(**values: Any) -> int:
    """Count the norm layers.

    By type, with eps, momentum and parameters, and the smallest batch that works.
    """
    from bnlint.commands.views import run_view

    return run_view("norms", values)


@bnlint.command(cls=GroupedCommand)
@click.argument("target", required=False, shell_complete=completion("files"))
@_facts
@option(
    OUTPUT,
    "--output-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text is a table, json is for machines. [default: text]",
)
@option(OUTPUT, "--verbose", "-v", is_flag=True, help="Name the settings file and the unknown facts too.")
@_color
@_settings
def config(**values: Any) -> int:
    """Show the training facts and where each is from.

    TARGET is a model, whose settings and training file are read, or a training file. Nothing of it is run.

    Exit status: 0, 1 when facts contradict each other, 2 wrong use or a file that cannot be read.
    """
    from bnlint.commands.config import run_config

    return run_config(values)


@bnlint.command(cls=GroupedCommand)
@option(RUN, "--force", is_flag=True, help="Overwrite a bnlint.toml that exists.")
def init(force: bool) -> int:
    """Write a starter configuration.

    bnlint.toml in the working folder, with every stable rule by its code, to be edited.
    """
    from bnlint.commands.init import write_settings

    return write_settings(force)


@bnlint.command(cls=GroupedCommand)
@_color
def rules(color: str | None) -> int:
    """List the rules.

    Code, name, severity, whether a fix exists, and the package that each comes from.
    """
    from bnlint.commands.rules import show_table

    return show_table(color or "auto")


@bnlint.command(cls=GroupedCommand)
@click.argument("word", required=False, metavar="CODE|NAME", shell_complete=completion("word"))
@option(OUTPUT, "--all", "every", is_flag=True, help="Explain every rule.")
@_color
def rule(word: str | None, every: bool, color: str | None) -> int:
    """Explain a rule: its words and its cases."""
    from bnlint.commands.rules import show_pages

    return show_pages(word, every, color or "auto")


@bnlint.command(cls=GroupedCommand)
@click.argument("code")
@click.argument("name")
@option(OUTPUT, "--folder", default=".", metavar="DIR", help="Where to write the file. [default: .]")
def new_rule(code: str, name: str, folder: str) -> int:
    """Write the file of a new rule.

    Its cases fail until its check is written.
    """
    from bnlint.commands.rules import write_new_rule

    return write_new_rule(code, name, folder)


@bnlint.command(cls=GroupedCommand)
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", shell_complete=completion("folders"))
def clean(folders: tuple[str, ...]) -> int:
    """Remove what bnlint has left behind.

    Its caches and the temporary files of a run that was killed, in the working folder or the named folders and
    below.
    """
    from bnlint.commands.clean import run_clean

    return run_clean(folders)


@bnlint.command(cls=GroupedCommand)
@click.argument("module", required=False, shell_complete=completion("files"))
def test_rules(module: str | None) -> int:
    """Run the cases of rules.

    Of all installed rules, or of those in MODULE: a rule's file or an importable module.
    """
    from bnlint.commands.rules import run_cases

    return run_cases(module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Every error ends here, as a fact and a next step on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_closed_streams()
    try:
        status = bnlint.main(args=given, prog_name="bnlint", standalone_mode=False)
    except click.ClickException as error:
        usage = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "bnlint"
        return _complain(error.format_message().rstrip("."), f"see `{usage} --help`")
    except BnlintError as error:
        return _complain(error.message, error.hint)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # the disk is full, the working folder is gone
        place = "" if error.filename is None else f" ({error.filename})"
        return _complain(f"the system refused: {error.strerror or error}{place}", "see to it, and run again")
    except Exception as error:  # the outermost boundary: a fault of bnlint must not look like a finding
        if "--debug" in given:
            import traceback

            traceback.print_exc()
        return _complain(
            f"internal error ({type(error).__name__}: {error})",
            "run again with --debug and report what it shows",
        )
    return status if isinstance(status, int) else 0


def _complain(message: str, hint: str) -> int:
    from bnlint.commands.output import complain

    complain(message, hint)
    return 2
