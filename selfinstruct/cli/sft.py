"""`selfinstruct sft`: a supervised fine-tune on a run or dataset, from the command line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.trainer import Progress

BETWEEN = 1.0
"""Seconds between two lines where no terminal can be written over."""


def register(app: typer.Typer) -> None:
    app.command()(sft)


def sft(
    data: Annotated[list[str], typer.Argument(metavar="DATA…", help="Run folders, shards, or datasets.")],
    model: Annotated[str, typer.Option(metavar="PATH_OR_ID", help="The model to train: a folder, or a hub id.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the trained model.")] = None,
    template: Annotated[
        str, typer.Option(metavar="NAME", help="`auto`, `model`, `alpaca`, `vicuna`, `chatml`, or a Jinja file.")
    ] = "auto",
    lora: Annotated[bool, typer.Option("--lora", metavar="", help="Train adapters, and leave the weights.")] = False,
    rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapters.", min=1)] = 16,
    epochs: Annotated[float, typer.Option(metavar="N", help="Times to go over the data.", min=0.001)] = 3,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows for each step, over all devices.", min=1)] = 32,
    micro_batch: Annotated[
        int, typer.Option(metavar="N", help="Rows that a device holds at once: memory, not data.", min=1)
    ] = 4,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="2e-5 for all weights, 2e-4 for adapters.", min=0)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Of a row: 1,024, or what the model holds.", min=16)
    ] = None,
    no_packing: Annotated[bool, typer.Option("--no-packing", metavar="", help="One row a sequence.")] = False,
    held_out: Annotated[
        float, typer.Option(metavar="SHARE", help="Rows held out, by a hash of their content.", min=0, max=0.99)
    ] = 0.05,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order and the adapters.", min=0, max=2**32 - 1)] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Read and tokenise the data, say what is trained, and leave.")
    ] = False,
    print_config: Annotated[
        str, typer.Option(metavar="TRAINER", help="Print the same training for `axolotl`, `llamafactory` or `trl`.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", metavar="", help="What became of it as one JSON object.")] = False,
) -> None:
    """Fine-tune a model on instruction data: loss on the answer and its end token alone.

    Ctrl-C is safe, and the same command resumes. Several GPUs: `accelerate launch -m selfinstruct sft …`.
    """
    from selfinstruct.cli.terminal import Line, say, signals
    from selfinstruct.cli.terminal import data as as_json
    from selfinstruct.sft import is_first, train
    from selfinstruct.tuning import Tuning, plan

    if learning_rate == 0:
        raise UsageError("--learning-rate 0 learns nothing", hint="leave it out for 2e-5, with --lora 2e-4")
    tuning = Tuning(
        model=model,
        data=tuple(data),
        template=template,
        method="lora" if lora else "full",
        rank=rank,
        alpha=2 * rank,
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        max_length=max_length,
        packing="no" if no_packing else "auto",
        held_out=held_out,
        seed=seed,
    )
    if print_config:
        from selfinstruct.elsewhere import config

        typer.echo(config(tuning, print_config, out), nl=False)
        return
    if out is None and not dry_run:
        raise UsageError("--out is missing", hint="name the folder that the trained model goes into")
    planned = plan(tuning)
    alone = is_first()
    for note in planned.said if alone else ():
        say(f"note: {note}", err=True)
    if alone:
        rows, tokens = len(planned.train), sum(row.trained for row in planned.train)
        say(f"{rows:,} rows, {tokens:,} trained tokens, {len(planned.held_out):,} held out", err=True)
    if dry_run:
        row = planned.train[0]
        asked, trained = planned.shows(row)
        if json:
            as_json({**planned.figures(), "template": planned.template.name, "asked": asked, "trained": trained})
            return
        say(f"template {planned.template.name}; the first row, and below the line what is trained of it:")
        say(f"{asked}\n----\n{trained}")
        return
    assert out is not None
    line = Line(BETWEEN)

    def tell(progress: Progress) -> None:
        if alone:
            held_out = progress.held_out_loss is not None
            line.tell(_line(progress), last=progress.step >= progress.steps, stays=held_out)

    def leave() -> None:
        raise KeyboardInterrupt

    caught: list[int] = []
    with signals(caught, lambda: None, leave, "stopping after this step"):
        known = train(tuning, out, planned, tell, lambda: bool(caught))
    if known["state"] == "interrupted":
        if alone:
            say(
                f"{out}: stopped after step {known['step']:,} of {known['steps']:,}; the same command goes on", err=True
            )
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT))
    if not alone:
        return
    if json:
        as_json(known)
        return
    losses, held = known["loss"], known["held_out_loss"]
    packed = "" if known["packing"] else f", rows not packed ({known['not_packed']})"
    say(f"{out}: {known['steps']:,} steps{packed}, loss {losses[0][1]:.3f} to {losses[-1][1]:.3f}")
    if held:
        say(f"held out: {held[0][1]:.3f} to {held[-1][1]:.3f}")
    say()
    say("next:")
    say(f"  selfinstruct eval hf/{out}")


def _line(progress: Progress) -> str:
    parts: list[Any] = [f"step {progress.step:,} of {progress.steps:,}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.held_out_loss is not None:
        parts.append(f"held out {progress.held_out_loss:.3f}")
    if progress.tokens and progress.seconds:
        parts.append(f"{progress.tokens / progress.seconds:,.0f} tokens/s")
    if progress.left is not None:
        minutes, seconds = divmod(round(progress.left), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return " · ".join(parts)
