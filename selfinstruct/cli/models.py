"""The flags that say where a model runs, and what else belongs to its name: once, for every verb that asks one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import typer

from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.engines import Options
    from selfinstruct.recipe import Recipe

PANEL = "Models"
ON_GPUS = "Models on your own GPUs"


def _flag(kind: Any, metavar: str, text: str, *, name: str = "", panel: str = PANEL, **bounds: Any) -> Any:
    return Annotated[
        kind, typer.Option(*([name] if name else []), metavar=metavar, help=text, rich_help_panel=panel, **bounds)
    ]


FLAGS: dict[str, tuple[Any, Any]] = {
    "base_url": (
        _flag(list[str] | None, "URL", "An OpenAI-compatible server, e.g. http://localhost:8000/v1. Repeatable."),
        None,
    ),
    "api_key_env": (_flag(str, "VAR", "The environment variable that holds the API key."), "OPENAI_API_KEY"),
    "concurrency": (_flag(int | None, "N", "Requests under way. Never changes the data.", min=1), None),
    "deterministic": (
        _flag(bool, "", "Send sampling seeds, and make vLLM repeat itself where it can.", name="--deterministic"),
        False,
    ),
    "context": (_flag(int | None, "TOKENS", "Prompt and answer together.", panel=ON_GPUS, min=64), None),
    "quantization": (_flag(str | None, "METHOD", "E.g. fp8; a checkpoint says its own.", panel=ON_GPUS), None),
    "lora": (_flag(str | None, "PATH", "A LoRA adapter (PEFT) for the model that writes.", panel=ON_GPUS), None),
    "reasoning_parser": (
        _flag(str | None, "NAME", "vLLM's parser for a model that thinks first.", panel=ON_GPUS),
        None,
    ),
    "tensor_parallel": (_flag(int | None, "N", "GPUs over which to split each copy.", panel=ON_GPUS, min=1), None),
    "gpu_memory": (
        _flag(
            float | None,
            "SHARE",
            "Of each GPU's memory, for one copy. vLLM's own: 0.92.",
            panel=ON_GPUS,
            min=0.01,
            max=1.0,
        ),
        None,
    ),
    "replicas": (
        _flag(int | None, "N", "Copies of the model. Default for vllm/: what the GPUs hold.", panel=ON_GPUS, min=1),
        None,
    ),
    "ray": (_flag(str | None, "ADDRESS", "Run the copies on this Ray cluster: auto, HOST:PORT.", panel=ON_GPUS), None),
}
OF_THE_NAME = ("quantization", "lora", "reasoning_parser")
"""What makes it another model, and so belongs to its name."""
READ_BY = {
    "base_url": ("openai",),
    "context": ("vllm", "local", "hf"),
    "deterministic": ("vllm", "openai", "hf"),
    "tensor_parallel": ("vllm",),
    "gpu_memory": ("vllm",),
    "replicas": ("vllm", "local", "hf", "scripted"),
    "ray": ("vllm", "local", "hf", "scripted"),
}
"""Which of our own engines reads a flag; all read what is not here."""
OURS = ("hf", "local", "none", "openai", "scripted", "vllm")


class Where(NamedTuple):
    """What the flags of a verb came to."""

    options: Options
    given: Mapping[str, Any]
    """By parameter: what was given on the command line."""

    def name(self, model: str) -> str:
        """The model's name with what else was said of it. Raises UsageError where no such model can be had."""
        parts = [f"{key}={quote(str(self.given[key]), safe='/:@,~')}" for key in OF_THE_NAME if key in self.given]
        if not parts:
            return model
        if not model.startswith("vllm/"):
            key = next(key for key in OF_THE_NAME if key in self.given)
            hint = f"--model vllm/PATH_OR_ID; for another model of the run it stands in its name: 'vllm/…?{key}=…'"
            raise UsageError(f"{_spelled(key)} is for a writer that vLLM runs here", hint=hint)
        return f"{model}{'&' if '?' in model else '?'}{'&'.join(parts)}"

    def named(self, recipe: Recipe, *others: str) -> Recipe:
        """The recipe with the writer's full name. Raises UsageError for a flag that no model of it reads."""
        recipe = recipe.model_copy(update={"model": self.name(recipe.model)})
        self.check(recipe.model, recipe.answer_model, recipe.judge_model, *others)
        return recipe

    def check(self, *models: str) -> None:
        """Raises UsageError for a flag that none of the models reads, or a name for vLLM that is none."""
        from selfinstruct.engines.checkpoints import Name

        for model in models:
            if model.startswith("vllm/"):
                Name.read(model.removeprefix("vllm/"))
        prefixes = {model.partition("/")[0] for model in models if model}
        for key, readers in READ_BY.items():
            if key in self.given and prefixes <= set(OURS) and not prefixes & set(readers):
                hint = f"it is for {' and '.join(f'{reader}/' for reader in readers)}; leave it out"
                if key == "replicas" and "openai" in prefixes:
                    hint = "copies behind servers are several --base-url"
                raise UsageError(f"{_spelled(key)} means nothing to {', '.join(sorted(prefixes))}", hint=hint)


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """A verb with a parameter ``where`` gets the flags in its place."""
    signature = inspect.signature(command, eval_str=True)
    at = list(signature.parameters).index("where")
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in FLAGS.items()
    ]
    others = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values() if one.name != "where"
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        from selfinstruct.engines import Options

        values = {name: arguments.pop(name) for name in FLAGS}
        given = {name: value for name, value in values.items() if value not in (None, False, FLAGS[name][1])}
        shown = {name: value for name, value in given.items() if name in Options.model_fields}
        options = Options(base_urls=tuple(values["base_url"] or ()), **shown)
        command(**arguments, where=Where(options, given))

    parameters = [*others[:at], *flags, *others[at:]]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__
    return run


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"
