"""How many copies of a model run, and where: in this process, in others with their GPUs or cores, or on a cluster."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise

from selfinstruct.engines import Engine, Options
from selfinstruct.engines.processes import Process
from selfinstruct.engines.replicas import Replica, Replicas
from selfinstruct.errors import UsageError

ELSEWHERE = "openai/"
"""Models that run behind a server: copies of a client are none of the model, and its key is here."""
APART = "vllm/"
"""Models that run in a process of their own even alone: no Ctrl-C reaches what they start, nothing of it outlives us,
and their tokens are counted while we judge."""

log = logging.getLogger("selfinstruct")


def open_placed(name: str, options: Options) -> Engine | None:
    """All copies of the model as one engine; None where the one copy runs in this process."""
    if (options.replicas is not None and options.replicas < 1) or options.tensor_parallel < 1:
        raise UsageError(f"{name}: there is no less than one replica, on one GPU", hint="give positive numbers")
    if name.startswith(ELSEWHERE):
        return None
    return _on_cluster(name, options, options.ray) if options.ray is not None else _here(name, options)


def visible_gpus() -> list[str]:
    """The GPUs of this machine that a process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [one.strip() for one in given.split(",")]
        bad = [at for at, one in enumerate(names) if not one or one.startswith("-")]  # ends the list, for CUDA
        return names[: bad[0]] if bad else names
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        return [str(number) for number, _ in enumerate(one for one in listed.splitlines() if one.startswith("GPU "))]
    return []


def copies(name: str, options: Options) -> int:
    """How many run on this machine. Raises UsageError for more than it has GPUs for."""
    on_gpus = name.startswith("vllm/")
    if not on_gpus:
        return options.replicas or 1
    gpus, each = len(visible_gpus()), options.tensor_parallel
    number = options.replicas or max(1, gpus // each)
    if gpus and number * each > gpus:
        seen = "one GPU is visible" if gpus == 1 else f"{gpus} GPUs are visible"
        raise UsageError(
            f"{_counted(number, each)}, and {seen}",
            hint=f"--replicas {gpus // each} fits" if gpus >= each else "give a smaller --tensor-parallel",
        )
    return number


def _counted(number: int, each: int) -> str:
    if number == 1:
        return f"a replica over {each} GPUs"
    return f"{number} replicas with {each} GPU{'s' * (each > 1)} each need {number * each} GPUs"


def _here(name: str, options: Options) -> Engine | None:
    number = copies(name, options)
    if number == 1 and not name.startswith(APART):
        return None
    gpus, each = visible_gpus(), options.tensor_parallel
    places = _gpu_shares(gpus, number, each) if number * each <= len(gpus) else _core_shares(number, each)
    warn = _once()
    starts: list[Callable[[], Replica]] = [
        partial(Process, name, share, place, warn)
        for share, place in zip(_shares(options, number), places, strict=True)
    ]
    return Replicas(name, starts, most=options.concurrency)


def _on_cluster(name: str, options: Options, address: str) -> Engine:
    from selfinstruct.engines.cluster import Actor, Cluster

    cluster = Cluster(address)
    try:
        on_gpus = name.startswith("vllm/") and cluster.gpus > 0
        each = options.tensor_parallel
        number = options.replicas or (max(1, cluster.gpus // each) if on_gpus else 1)
        if on_gpus and number * each > cluster.gpus:
            told = f"{_counted(number, each)}, and the cluster has {cluster.gpus}"
            raise UsageError(told, hint="give a smaller --replicas")
        resources = {"num_gpus": float(each)} if on_gpus else {"num_cpus": 1.0}
        warn = _once()
        starts: list[Callable[[], Replica]] = [
            partial(Actor, name, share, resources, warn) for share in _shares(options, number)
        ]
        return Replicas(name, starts, most=options.concurrency, facts={"ray": cluster.version}, release=cluster.leave)
    except BaseException:
        cluster.leave()
        raise


def _shares(options: Options, number: int) -> list[Options]:
    """What each copy is told: to be the only one, with its share of the requests."""
    total = options.concurrency
    return [
        options.model_copy(
            update={
                "replicas": 1,
                "ray": None,
                "concurrency": None if total is None else max(1, total // number + (at < total % number)),
            }
        )
        for at in range(number)
    ]


def _gpu_shares(gpus: list[str], number: int, each: int) -> list[dict[str, str]]:
    """GPUs of its own for each, as a variable of its environment."""
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[at * each : (at + 1) * each])} for at in range(number)]


def _core_shares(number: int, each: int) -> list[dict[str, str]]:
    """Cores of its own for each of vLLM's processes, which would all take the same ones; where that is unknown, what
    the environment says for all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    ranks = number * each
    if number == 1 or "VLLM_CPU_OMP_THREADS_BIND" in os.environ or len(cores) < ranks:
        return [{}] * number
    cuts = [len(cores) * rank // ranks for rank in range(ranks + 1)]
    lists = [",".join(map(str, cores[start:end])) for start, end in pairwise(cuts)]
    return [{"VLLM_CPU_OMP_THREADS_BIND": "|".join(lists[at * each : (at + 1) * each])} for at in range(number)]


def _once() -> Callable[[str], None]:
    """Warns of each thing once, however many copies say it."""
    said: set[str] = set()

    def warn(told: str) -> None:
        if told not in said:
            said.add(told)
            log.warning("%s", told)

    return warn
