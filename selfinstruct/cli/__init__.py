"""The command line: one file a verb. It draws what the library yields, and decides nothing."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from selfinstruct import __version__
from selfinstruct.errors import SelfInstructError, StorageError, UsageError

app = typer.Typer(
    name="selfinstruct",
    help="From a handful of seed tasks to instruction-tuning data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Wrong usage as the parser raises it: click's UsageError, whose home depends on the version of typer.
_Misused: Any = typer.BadParameter.__mro__[1]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"selfinstruct {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    pass


def _register() -> None:
    from selfinstruct.cli import (
        dedup,
        doctor,
        eval,
        evolve,
        explain,
        export,
        generate,
        optimise,
        prompts,
        replay,
        report,
        seeds,
        sft,
        show,
        status,
        verify,
    )

    for module in (
        generate,
        evolve,
        optimise,
        show,
        explain,
        replay,
        verify,
        status,
        report,
        export,
        dedup,
        sft,
        eval,
        doctor,
        seeds,
        prompts,
    ):
        module.register(app)


_register()


def main() -> None:
    """The entry point: the one place where errors are shown. Exit codes stand in errors.py."""
    import logging

    from selfinstruct.cli import terminal

    terminal.prepare()
    logging.lastResort = terminal.Notes()  # for warnings that no panel takes
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(prog_name="selfinstruct", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SelfInstructError as error:
        return _refused(error)
    except _Misused as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return UsageError.exit_code
        command = error.ctx.command_path if error.ctx else "selfinstruct"
        message = error.format_message().rstrip(".")
        return _refused(UsageError(message, hint=f"`{command} --help` shows what there is"))
    except OSError as error:
        if error.filename is None:
            raise  # of no file: a bug
        return _refused(StorageError(f"{error.filename}: {error.strerror}", hint="check the path and its permissions"))
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _refused(error: SelfInstructError) -> int:
    from selfinstruct.cli.terminal import say

    say(f"error: {error.message}", err=True)
    say(f"hint: {error.hint or '`selfinstruct --help` shows what there is'}", err=True)
    return error.exit_code
