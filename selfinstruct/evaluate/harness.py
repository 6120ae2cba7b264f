"""Standard benchmarks: the tasks and metrics of EleutherAI's lm-eval, asked of models of transformers in this process.

A task is lm-eval's of that name or a .yaml file. Each is asked by itself, with lm-eval's own seeds, and what was found
is kept whole in one file: the same call resumes. Where a metric is the mean of its items, their scores are told, for
intervals and paired differences; of any other, the value and the standard error that lm-eval gives it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from selfinstruct.engines import Options
from selfinstruct.engines.hf import load, weights_of
from selfinstruct.engines.tokens import has_template
from selfinstruct.errors import EngineError, UsageError
from selfinstruct.evaluate.figures import Score
from selfinstruct.files import write_whole, writing
from selfinstruct.records import digest

PREFIX = "lm-eval:"
INSTALL = "pip install 'selfinstruct[lm-eval]'"
BATCH = 8
"""Requests that a GPU reads together, unless another number is asked for; a CPU reads one after the other."""
TOLD = 16
"""After so many batches it is told how many requests are done."""
BESIDE_WEIGHTS = ("config", "generation_config", "tokenizer", "chat_template", "special_tokens", "vocab", "merges")
"""How the names of those files of a model's folder begin that change its scores too."""


class Own(NamedTuple):
    """A metric that is no mean over items, as lm-eval gives it."""

    value: float | None
    error: float | None
    """Its standard error; either is None where lm-eval has none."""


class Found(NamedTuple):
    """What lm-eval found of one model in one task."""

    results: dict[str, Any]
    """Its own entry: by ``metric,filter``, and beside it."""
    means: tuple[str, ...]
    """Which of these are means over the items."""
    samples: list[dict[str, Any]]
    """Each item once for each filter, with its ``scores``."""

    def scores(self, metric: str) -> dict[int, Score]:
        """Of a mean, by the number of the item."""
        name, _, chosen = metric.rpartition(",")
        return {one["doc"]: one["scores"].get(name) for one in self.samples if one["filter"] == chosen}


class Measured(NamedTuple):
    """A table of lm-eval's: of a task, or of a group of tasks as a whole."""

    name: str
    items: int
    scores: dict[str, dict[str, list[Score]]]
    """By model and metric, of the same items in the same order."""
    tasks: dict[str, list[str]]
    """By metric, the task that an item weighs with; of one task where all items weigh the same."""
    own: dict[str, dict[str, Own]]
    """By model and metric, what is no mean over items."""
    about: dict[str, Any]
    """How it was asked, for programs."""


class Benchmark:
    """What stands behind one name of lm-eval's: a task, the tasks of a tag, or a group, with its own mean."""

    def __init__(self, name: str, loaded: Mapping[str, Any], limit: int | None, *, chat: bool) -> None:
        self.name = f"{PREFIX}{name}"
        self.tasks: dict[str, Any] = dict(loaded["tasks"])
        self._groups = [group for group in loaded.get("groups", {}).values() if group.has_aggregation]
        self.limit, self.chat = limit, chat
        for task in self.tasks.values():
            _refuse(task)
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        self.digests = {name: _digest(task, limit) for name, task in self.tasks.items()}

    def measured(self, found: Mapping[str, Mapping[str, Found]]) -> list[Measured]:
        """The tables, groups first; ``found`` by model and task."""
        groups = [self._group(group, found) for group in self._groups]
        return groups + [self._task(name, found) for name in self.tasks]

    def _task(self, task: str, found: Mapping[str, Mapping[str, Found]]) -> Measured:
        of = {model: tasks[task] for model, tasks in found.items()}
        means = [metric for metric in next(iter(of.values())).means if all(metric in one.means for one in of.values())]
        columns = {model: {metric: one.scores(metric) for metric in means} for model, one in of.items()}
        docs = sorted({sample["doc"] for one in of.values() for sample in one.samples})
        return Measured(
            f"{PREFIX}{task}",
            len(docs),
            {
                model: {_told(metric): [scores.get(doc) for doc in docs] for metric, scores in metrics.items()}
                for model, metrics in columns.items()
            },
            {_told(metric): [""] * len(docs) for metric in means},
            {model: _own(one.results, set(means)) for model, one in of.items()},
            self._about([task]) | {"version": self.tasks[task].VERSION, "shots": self.tasks[task].config.num_fewshot},
        )

    def _group(self, group: Any, found: Mapping[str, Mapping[str, Found]]) -> Measured:
        names = [task.task_name for task in group.get_all_tasks()]
        with quiet():
            results = {
                model: group.aggregate({name: tasks[name].results for name in names}) for model, tasks in found.items()
            }
        of: dict[str, dict[str, list[Score]]] = {model: {} for model in found}
        weighing: dict[str, list[str]] = {}
        alike = {one.metric: one.weight_by_size for one in group.aggregate_metric_list}
        means = []
        for metric in filter(_is_metric, next(iter(results.values()))):
            parts = [name for name in names if all(metric in tasks[name].means for tasks in found.values())]
            docs = [(name, doc) for name in parts for doc in sorted(next(iter(found.values()))[name].scores(metric))]
            columns = {}
            for model, tasks in found.items():
                scores = {name: tasks[name].scores(metric) for name in parts}
                columns[model] = [scores[name].get(doc) for name, doc in docs]
            tasks_of = ["" if alike[metric.partition(",")[0]] else name for name, _ in docs]
            # What lm-eval's own mean is not the mean of, has no interval over items.
            if all(_is_mean(columns[model], tasks_of, one.get(metric)) for model, one in results.items()):
                means.append(metric)
                weighing[_told(metric)] = tasks_of
                for model, column in columns.items():
                    of[model][_told(metric)] = column
        return Measured(
            f"{PREFIX}{group.name}",
            sum(len({sample["doc"] for sample in next(iter(found.values()))[name].samples}) for name in names),
            of,
            weighing,
            {model: _own(one, set(means)) for model, one in results.items()},
            self._about(names) | {"version": group.version, "tasks": names},
        )

    def _about(self, tasks: Sequence[str]) -> dict[str, Any]:
        lower = {
            metric
            for task in tasks
            for metric, higher in (self.tasks[task].higher_is_better() or {}).items()
            if higher is False
        }
        return {
            "lm_eval": version("lm_eval"),
            "limit": self.limit,
            "chat_template": self.chat,
            "less_is_better": sorted(lower),
        }


def open_benchmarks(names: Sequence[str], limit: int | None = None, *, chat: bool = False) -> list[Benchmark]:
    """The benchmarks of those names, or of those .yaml files, their data at hand: ``limit`` of a task's items, the
    first ones, as lm-eval takes them. ``chat``: models that have a chat template are asked by it.

    Raises UsageError where lm-eval is not installed, knows no such task, or cannot have its data.
    """
    try:
        with quiet():
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError("lm-eval is not installed", hint=INSTALL) from error
    every: Any = None
    opened: list[Benchmark] = []
    for name in names:
        path = Path(name).expanduser()
        file = path.suffix in (".yaml", ".yml")
        if file and not path.is_file():
            raise UsageError(f"{PREFIX}{name}: there is no such file", hint="a .yaml, or a task's name")
        try:
            with quiet():
                if file:
                    loaded = _of_file(TaskManager, path)
                else:
                    every = every or TaskManager()  # to read all that lm-eval knows takes half a minute
                    loaded = every.load([name]) if name in every.all_tasks else None
        except Exception as error:  # whatever a task's own code, datasets or the hub raise
            told = f"{PREFIX}{name} cannot be loaded: {type(error).__name__}: {_first_line(error)}"
            hint = "is the file what lm-eval's guide to tasks wants?" if file else "`lm-eval validate` may tell more"
            if isinstance(error, OSError):
                hint = "its data must be in reach or in the cache; a .yaml may name data_files of this machine"
            if isinstance(error, ImportError):
                hint = "the task wants a package that is not installed"
            raise UsageError(told, hint=hint) from error
        if loaded is None:
            near = get_close_matches(name, every.all_tasks, 3)
            hint = f"is it {' or '.join(near)}? " if near else ""
            hint += "`lm-eval ls tasks` shows all; or give a .yaml file"
            raise UsageError(f"lm-eval has no task {name!r}", hint=hint)
        with quiet():
            opened.append(Benchmark(path.stem if file else name, loaded, limit, chat=chat))
    known: dict[str, str] = {}
    for benchmark in opened:
        for task, its in benchmark.digests.items():
            if known.setdefault(task, its) != its:
                raise UsageError(f"two different tasks are called {task}", hint="ask for them one after the other")
    return opened


def _of_file(manager: Any, path: Path) -> Any:
    """What a file describes, loaded with all that lm-eval knows only if it is a group that names tasks from there."""
    told = yaml.load(path.read_text(encoding="utf-8"), Loader=_Untagged)
    if not isinstance(told, dict) or "group" not in told:
        return manager(include_defaults=False).load([str(path)])
    beside = manager(include_path=str(path.parent), include_defaults=False)
    members = [one if isinstance(one, str) else one.get("task") for one in told.get("task", ())]
    whole = beside if all(one in beside.all_tasks for one in members) else manager(include_path=str(path.parent))
    return whole.load([told["group"]])  # its own loader takes no group's file


class _Untagged(yaml.SafeLoader):
    """Reads a task's file without the code that it names."""


_Untagged.add_multi_constructor("!", lambda loader, tag, node: tag)


def check_models(models: Sequence[str]) -> None:
    """Raises UsageError for a model that lm-eval cannot be given."""
    for model in models:
        kind, _, rest = model.partition("/")
        if kind != "hf":
            hint = f"hf/{rest.partition('?')[0]}" if kind == "vllm" else "hf/FOLDER, or hf/ID of the hub"
            told = f"{model}: lm-eval's tasks are for hf/ models, which tell the log-probabilities of given texts"
            raise UsageError(told, hint=hint)


def measure(
    model: str,
    benchmarks: Sequence[Benchmark],
    folder: Path,
    options: Options,
    report: Callable[[str, int, int], None],
) -> dict[str, Found]:
    """What lm-eval finds of the model in every task, from ``folder`` or by asking. ``report`` hears of whom, of how
    many of how many requests. Raises EngineError where lm-eval fails."""
    path = model.partition("/")[2]
    weights, found, lm = _weights(path), {}, None
    try:
        for benchmark in benchmarks:
            for name, task in benchmark.tasks.items():
                key = digest(model, *weights, str(options.context), str(benchmark.chat), benchmark.digests[name])
                kept = folder / f"{name.replace('/', '-')}-{key}.json"
                if not kept.is_file():
                    lm = lm or _Model(path, options)
                    lm.told = partial(report, f"{model}, {name}")
                    written = _asked(lm, model, name, task, benchmark)
                    with writing(folder):
                        folder.mkdir(parents=True, exist_ok=True)
                        write_whole(kept, json.dumps(written, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                read = json.loads(kept.read_text(encoding="utf-8"))
                found[name] = Found(read["results"], tuple(read["means"]), read["samples"])
    finally:
        if lm is not None:
            lm.lm = None  # its memory is for the next one
    return found


class _Model:
    """A model of transformers as lm-eval has it."""

    def __init__(self, path: str, options: Options) -> None:
        self.told: Callable[[int, int], None] = lambda done, of: None
        tokenizer, model = load(path)
        self.has_template = has_template(tokenizer)
        batch = options.concurrency or (BATCH if model.device.type == "cuda" else 1)
        with quiet():
            from lm_eval.models.huggingface import HFLM

            ours = self

            class Told(HFLM):  # type: ignore[misc]
                """The same, in parts, after each of which it is told how far it is."""

                def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
                    return ours.in_parts(super().loglikelihood, requests, TOLD * batch)

                def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
                    return ours.in_parts(super().loglikelihood_rolling, requests, TOLD * batch)

                def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
                    # What is drawn depends on the order, which is that of all their lengths.
                    drawn = any(one.args[1].get("do_sample") or one.args[1].get("temperature") for one in requests)
                    return ours.in_parts(super().generate_until, requests, len(requests) if drawn else TOLD * batch)

            self.lm: Any = Told(model, tokenizer=tokenizer, batch_size=batch, max_length=options.context)

    def in_parts(self, ask: Callable[..., list[Any]], requests: list[Any], size: int) -> list[Any]:
        answers: list[Any] = []
        for at in range(0, len(requests), size):
            answers += ask(requests[at : at + size], disable_tqdm=True)
            self.told(len(answers), len(requests))
        return answers


def _asked(model: _Model, name: str, task_name: str, task: Any, benchmark: Benchmark) -> dict[str, Any]:
    """What is kept of one task."""
    tell = model.told
    try:
        with quiet() as aloud:
            import torch
            from lm_eval.api.metrics import mean, nanmean
            from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
            from lm_eval.evaluator import evaluate

            # As lm_eval.simple_evaluate does, but for each task alone: what is asked with it changes nothing.
            random.seed(DEFAULT_RANDOM_SEED)
            np.random.seed(DEFAULT_OTHER_SEED)
            torch.manual_seed(DEFAULT_OTHER_SEED)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
            model.told = aloud(tell)
            out = evaluate(
                model.lm,
                {"tasks": {task_name: task}, "groups": {}},
                limit=benchmark.limit,
                apply_chat_template=benchmark.chat and model.has_template,
                fewshot_as_multiturn=True,
            )
    except Exception as error:
        told = f"{name}, {task_name}: {type(error).__name__}: {_first_line(error)}"
        raise EngineError(told, hint="a smaller --concurrency or --context may fit; or leave the task out") from error
    aggregation = task.aggregation() or {}
    samples = out["samples"][task_name]

    def is_mean(key: str) -> bool:
        metric, _, chosen = key.rpartition(",")
        scores = [one[metric] for one in samples if one["filter"] == chosen and metric in one["metrics"]]
        return aggregation.get(metric, mean) in (mean, nanmean) and all(map(_is_number, scores))

    results = {
        key: float(value) if _is_number(value) else str(value) for key, value in out["results"][task_name].items()
    }
    return {
        "task": task_name,
        "results": results,
        "means": [key for key in results if _is_metric(key) and is_mean(key)],
        "samples": [
            {
                "doc": one["doc_id"],
                "filter": one["filter"],
                "doc_hash": one["doc_hash"],
                "prompt_hash": one["prompt_hash"],
                "answers": _plain(one["filtered_resps"]),
                "scores": {metric: _plain(one[metric]) for metric in one["metrics"] if _is_number(one[metric])},
            }
            for one in samples
        ],
    }


# What belongs to a name, and changes what comes out.


def _digest(task: Any, limit: int | None) -> str:
    """Of a task: its configuration, its code where that is not lm-eval's, and the items and examples it reads."""
    config = dict(task.dump_config())
    metadata = dict(config.pop("metadata", None) or {})
    source = Path(metadata.pop("config_source", ""))
    own = source.is_file() and "lm_eval" not in source.parts and "!function" in source.read_text(encoding="utf-8")
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(source.parent.glob("*.py"))] if own else []
    examples = task.fewshot_docs() if task.config.num_fewshot else ()
    whole = hashlib.sha256()
    for one in itertools.chain(itertools.islice(task.eval_docs, limit), examples or ()):
        whole.update(json.dumps(one, sort_keys=True, default=_named).encode())
    asked = json.dumps([config, metadata], sort_keys=True, default=_named)
    return digest(version("lm_eval"), asked, str(task.VERSION), *code, whole.hexdigest())


def _named(value: Any) -> str:
    """A function by its name, for its place in memory is another each time."""
    return str(getattr(value, "__qualname__", None) or value)


def _weights(path: str) -> list[str]:
    """What tells a model's weights and tokenizer from others under its name."""
    folder, known = Path(path), list(weights_of(path).values())
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        known.append(weights_of(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])["weights"])
    if folder.is_dir():
        beside = [one for one in sorted(folder.iterdir()) if one.is_file() and one.name.startswith(BESIDE_WEIGHTS)]
        known += [hashlib.sha256(one.read_bytes()).hexdigest() for one in beside]
    return known


def _refuse(task: Any) -> None:
    """Raises UsageError for a task that is not for a model of texts, or not for this machine."""
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(f"{PREFIX}{task.task_name} runs code that a model wrote", hint="lm-eval itself, in a sandbox")
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"{PREFIX}{task.task_name} shows more than text", hint="leave it out")


# What lm-eval says.


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _is_metric(key: str) -> bool:
    return "," in key and "_stderr," not in key


def _told(metric: str) -> str:
    """``acc,none`` is called acc, and ``exact_match,strict-match`` says its filter."""
    name, _, chosen = metric.rpartition(",")
    return name if chosen == "none" else f"{name} ({chosen})"


def _own(results: Mapping[str, Any], means: set[str]) -> dict[str, Own]:
    found = {}
    for key, value in results.items():
        if _is_metric(key) and key not in means:
            name, _, chosen = key.rpartition(",")
            error = results.get(f"{name}_stderr,{chosen}")
            found[_told(key)] = Own(*(_plain(one) if _is_number(one) else None for one in (value, error)))
    return found


def _is_mean(column: Sequence[Score], tasks: Sequence[str], value: Any) -> bool:
    """Whether the mean of the tasks' means is lm-eval's own value."""
    by_task: dict[str, list[float]] = {}
    for score, task in zip(column, tasks, strict=True):
        if score is not None:
            by_task.setdefault(task, []).append(score)
    means = [math.fsum(scores) / len(scores) for scores in by_task.values()]
    return (
        bool(means)
        and _is_number(value)
        and math.isclose(math.fsum(means) / len(means), value, rel_tol=1e-9, abs_tol=1e-12)
    )


def _plain(value: Any) -> Any:
    """As JSON has it; None for what is no number."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return value if math.isfinite(value) else None
    return value if value is None else str(value)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


# Silence.


class _Gate(io.TextIOBase):
    """A stream through which nothing comes while it is shut: handlers that were given it then may use it later."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind
        self.shut = True

    def write(self, text: str) -> int:
        if not self.shut:
            self._behind.write(text)
        return len(text)


@contextmanager
def quiet() -> Iterator[Callable[[Callable[..., None]], Callable[..., None]]]:
    """lm-eval prints, logs, warns and draws bars: none of it is seen. What this yields makes a callback heard."""
    streams, disabled = (sys.stdout, sys.stderr), logging.root.manager.disable
    gates = [_Gate(stream) for stream in streams]

    def aloud(tell: Callable[..., None]) -> Callable[..., None]:
        def told(*arguments: Any) -> None:
            with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
                tell(*arguments)

        return told

    with redirect_stdout(gates[0]), redirect_stderr(gates[1]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield aloud
        finally:
            logging.disable(disabled)
            for gate in gates:
                gate.shut = False
