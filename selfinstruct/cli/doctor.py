"""`selfinstruct doctor`: does the model answer, and how fast?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfinstruct.cli.models import Where, placed
from selfinstruct.errors import EngineError


def register(app: typer.Typer) -> None:
    app.command()(doctor)


@placed
def doctor(
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="`local`, `local/PATH.gguf`, `vllm/ID`, `openai/NAME`, `scripted/FILE`."),
    ] = "local",
    *,
    where: Where,
    json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON object.")] = False,
) -> None:
    """Reach a model, say what it is, and time one call. Exit 6 if it cannot answer."""
    import asyncio

    from selfinstruct.cli.terminal import data, say

    name = where.name(model)
    where.check(name)
    found = asyncio.run(_examine(name, where.options))
    if json:
        data(found)
        return
    took, tokens = found["call_seconds"], found["tokens"]
    lines = {
        "model": found["model"],
        **found["facts"],
        "styles": ", ".join(found["styles"]),
        "under way": found["concurrency"],
        "ready after": f"{found['ready_seconds']:.1f} s",
        "one call": f"{took:.2f} s, {tokens} tokens, {tokens / max(took, 1e-9):.0f} tokens/s",
        "changed": ", ".join(found["changed"]),
        "it said": found["reply"],
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        if value != "":
            say(f"{key:<{width}}  {value}")


async def _examine(model: str, options: Any) -> dict[str, Any]:
    import time

    from selfinstruct.engines import Message, Request, Sampling, open_engine

    began = time.monotonic()
    engine = open_engine(model, options)
    ready = time.monotonic()
    try:
        sampling = Sampling(max_tokens=32, temperature=0.0)
        question = "Name three rivers."
        request = (
            Request(prompt=f"Task: {question}\nAnswer:", sampling=sampling)
            if engine.styles[0] == "completion"
            else Request(messages=(Message(role="user", content=question),), sampling=sampling)
        )
        reply = await engine.complete(request)
        took = time.monotonic() - ready
        # Thirty-two tokens are few for a model that thinks first: that it thinks is an answer, too.
        if reply.error and reply.error.kind != "thinking":
            raise EngineError(f"{model}: {reply.error.message}", hint="it was reached, but did not answer")
        return {
            "model": engine.name,
            "facts": engine.facts(),
            "styles": list(engine.styles),
            "concurrency": engine.concurrency,
            "ready_seconds": round(ready - began, 3),
            "call_seconds": round(took, 3),
            "tokens": reply.usage.completion,
            "changed": list(reply.changed),
            "reply": reply.text.strip() or reply.reasoning.strip(),
        }
    finally:
        await engine.close()
