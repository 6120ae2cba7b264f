"""What a training leaves: a model folder that every server reads and that stops where it should, a card, the loss.

The chat template and the token that ends an answer lie in the folder, so that the model is asked as it was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfinstruct.files import write_whole, writing
from selfinstruct.templates import Template


def finish(model: Any, tokenizer: Any, template: Template, end: int, out: Path) -> None:
    """Save model and tokenizer, with the template, and the token that ends an answer among those that end a text. Of an
    adapter, itself."""
    config = model.generation_config
    known = config.eos_token_id
    ends = known if isinstance(known, list) else [] if known is None else [known]
    config.eos_token_id = list(dict.fromkeys([end, *ends]))
    # What a base model's configuration says of sampling may contradict itself, and is not saved then.
    if not config.do_sample:
        config.temperature = config.top_p = config.top_k = None
    tokenizer.chat_template = template.text
    with writing(out):
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        config.save_pretrained(out)


def write_card(out: Path, known: dict[str, Any]) -> None:
    """The model card and the plot of the loss."""
    losses, held_out = known["loss"], known["held_out_loss"]
    tuning = known["tuning"]
    name = Path(tuning["model"]).name if Path(tuning["model"]).exists() else tuning["model"]
    lines = [
        "---",
        f"base_model: {name}",
        "library_name: " + ("peft" if tuning["method"] == "lora" else "transformers"),
        "tags: [selfinstruct, sft, trl, synthetic-data]",
        "---",
        "",
        f"# {name}, tuned on {known['rows']:,} rows",
        "",
        f"Supervised fine-tune by `selfinstruct sft` ({'LoRA' if tuning['method'] == 'lora' else 'all weights'}), "
        f"{known['steps']:,} steps of {known['rows_a_step']:g} rows, {tuning['epochs']:g} epochs, learning rate "
        f"{known['learning_rate']:g}. The loss falls on the answer and its end token alone.",
        "",
        f"Asked with the template `{known['template']}`, which lies in the tokenizer's folder; an answer ends with a "
        "token that `generation_config.json` names, so that a server stops there.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {', '.join(Path(one).name for one in known['data'])} |",
        f"| rows trained on | {known['rows']:,} |",
        f"| rows held out | {known['held_out']:,} |",
        f"| rows packed | {'yes' if known['packing'] else 'no: ' + known['not_packed']} |",
        f"| rows dropped | {sum(known['dropped'].values()):,} |",
        f"| trained tokens in an epoch | {known['trained_tokens']:,} |",
    ]
    if losses:
        lines.append(f"| loss, first and last step | {losses[0][1]:.3f}, {losses[-1][1]:.3f} |")
    if held_out:
        lines.append(f"| held-out loss, first and last | {held_out[0][1]:.3f}, {held_out[-1][1]:.3f} |")
    lines += [f"| {package} | {number} |" for package, number in known["versions"].items()]
    lines += ["", "![loss](loss.svg)", "", "Whether it answers better than its base: `selfinstruct eval`.", ""]
    with writing(out):
        write_whole(out / "README.md", "\n".join(lines).encode())
        write_whole(out / "loss.svg", _plot(losses, held_out))


def _plot(losses: list[list[float]], held_out: list[list[float]]) -> bytes:
    from io import BytesIO

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "loss"}):
        figure, axes = pyplot.subplots(figsize=(6, 3.5))
        axes.plot(*zip(*losses, strict=True), label="training", linewidth=1)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), label="held out", marker="o", markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats a token")
        axes.legend()
        figure.tight_layout()
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return drawn.getvalue()
