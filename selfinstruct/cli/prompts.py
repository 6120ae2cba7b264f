"""`selfinstruct prompts`: every word that a model reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from selfinstruct.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(prompts)


def prompts(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A prompt, e.g. bootstrap/prefill or evolve/deepen. Default: list all."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--prompts", metavar="DIR", help="Prompt files that go before the package's own.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="As JSON: one object a line, or the request.")
    ] = False,
) -> None:
    """List the prompts, or print exactly what a model would read, with example values in the slots."""
    from selfinstruct.cli.terminal import clean, data, exact, say
    from selfinstruct.prompts import Prompts

    library = Prompts(folder)
    if name is None:
        # Frames last: nothing asks with one alone.
        names = sorted(library.names(), key=lambda known: ("/frames/" in known, known))
        width, apart = max(map(len, names)), False
        for known in names:
            prompt = library[known]
            if json:
                about, frame = prompt.head.about, prompt.head.frame
                data({"name": known, "digest": prompt.digest, "about": about, "frame": frame, "file": prompt.source})
                continue
            if "/frames/" in known and not apart:
                apart = True
                say()
                say("frames: what is said around a method, one file for each way of asking", style="dim")
            stands = f" ({prompt.head.frame})" if prompt.head.frame else ""
            say(f"{known:<{width}}  {prompt.head.about}{stands}")
        return
    if name not in library:
        above = name.rpartition("/")[0]
        ways = [f"{above}/{style}" for style in ("completion", "chat", "prefill", "small")]
        variants = [known for known in library.names() if known.startswith(f"{name}/")]
        variants = variants or [known for known in ways if known in library]
        hint = f"there are {', '.join(variants)}" if variants else "`selfinstruct prompts` lists them"
        raise UsageError(f"there is no prompt {name!r}", hint=hint)
    request = library[name].example()
    if json:
        data(request.model_dump(mode="json", exclude_defaults=True))
        return
    parts: list[tuple[str, str]] = [(message.role, message.content) for message in request.messages]
    if request.prompt is not None:
        parts = [("", request.prompt)]
    elif request.prefill:
        parts.append(("assistant", request.prefill))
    for role, text in parts:
        if role:
            say(f"<!-- {role} -->", style="dim")
        # Exactly: neither wrapped nor cleaned, but for what a terminal would obey.
        exact((clean(text) if sys.stdout.isatty() else text) + ("\n" if role else ""))
