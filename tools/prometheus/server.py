"""Run a Prometheus on loopback, with rules whose times may be compressed, and ask it."""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from local_cluster import ports
from prometheus import debian

_START_SECONDS = 60.0
# Alerts that a slow machine with a full disk may cause in any run: a scrape, for one, may take 1 s at most.
OF_THE_MACHINE = frozenset(
    {"AnswersNearTimeout", "DeliveryLagHigh", "GatewayDown", "GatewayOverloaded", "OperatorDown", "StoreDiskLow"}
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def compress(rules: str, factor: int) -> str:
    """Return a rule file in which every window and every ``for`` is shorter by a factor: 5m becomes 5s with 60.

    Expressions and thresholds stay as they are. So a run of a minute evaluates what an hour would.
    """
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[(\w+)\]", lambda window: f"[{_compressed(window[1], factor)}]", rule["expr"])
            if "for" in rule:
                rule["for"] = _compressed(rule["for"], factor)
    return yaml.safe_dump(document)


def _compressed(duration: str, factor: int) -> str:
    return f"{max(1, int(duration[:-1]) * _UNITS[duration[-1]] // factor)}s"


def _ending_with_parent() -> list[str]:
    """The command that ends a program when its parent is killed, where the machine has it (util-linux)."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


class Prometheus:
    """A Prometheus process for the time of an ``async with`` block.

    Args:
        folder: for its data, its configuration and its log.
        targets: ``HOST:PORT`` -> labels that the target has besides ``job="usher"``.
        rules: the text of rule files.
        interval: between two scrapes, and between two evaluations of the rules.
    """

    def __init__(
        self, folder: Path, targets: Mapping[str, Mapping[str, str]], rules: Sequence[str], interval: str = "1s"
    ) -> None:
        self._interval = interval
        self._folder = folder
        self._targets = targets
        self._rules = rules
        self._port = ports.free()
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        files = [f"rules-{number}.yaml" for number in range(len(self._rules))]
        for name, text in zip(files, self._rules, strict=True):
            (self._folder / name).write_text(text, "utf-8")
        static = [{"targets": [target], "labels": dict(labels)} for target, labels in self._targets.items()]
        configuration = {
            "global": {"scrape_interval": self._interval, "evaluation_interval": self._interval},
            "rule_files": files,
            "scrape_configs": [{"job_name": "usher", "static_configs": static}],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_ending_with_parent(),
                debian.programs() / "prometheus",
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                stdout=log,
                stderr=log,
            )
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self._port}")
        await self._wait_ready()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _wait_ready(self) -> None:
        assert self._session is not None
        assert self._process is not None
        async with asyncio.timeout(_START_SECONDS):
            while self._process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self._session.get("/-/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.1)
        raise debian.PrometheusError((self._folder / "prometheus.log").read_text("utf-8", "replace")[-2000:])

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the present samples of an expression: ``metric`` and ``value`` of each."""
        return await self._ask("/api/v1/query", {"query": expr})

    async def fired(self, since: float) -> list[dict[str, str]]:
        """Return the labels of each alert that has fired since a time, at least a second ago."""
        seconds = int(time.time() - since)
        return [
            alert["metric"] for alert in await self.query(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')
        ]

    async def wait_for(self, expr: str, seconds: float = 60.0) -> None:
        """Wait until an expression has a result.

        Raises:
            TimeoutError: It has none in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not await self.query(expr):  # noqa: ASYNC110 - what is waited for is another process
                    await asyncio.sleep(0.2)
        except TimeoutError as error:
            raise TimeoutError(f"no result within {seconds} s: {expr}") from error

    async def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series of an expression: ``metric`` and ``values`` of each."""
        asked = {"query": expr, "start": str(start), "end": str(end), "step": str(step)}
        return await self._ask("/api/v1/query_range", asked)

    async def _ask(self, path: str, asked: dict[str, str]) -> list[dict[str, Any]]:
        assert self._session is not None
        async with self._session.get(path, params=asked) as answer:
            told = await answer.json()
        if told["status"] != "success":
            raise debian.PrometheusError(f"{told['error']}: {asked['query']}")
        series: list[dict[str, Any]] = told["data"]["result"]
        return series
