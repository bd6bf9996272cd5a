"""What a server has while it runs: its model, the runner, and where it is between loading and the end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, ParamSpec, TypeVar

from gptwo.engine import Request
from gptwo.errors import DrainingError, GptwoError, ModelNotFoundError, NotReadyError, QueueFullError
from gptwo.loading import OpenModel, open_model
from gptwo.options import shown
from gptwo.server.log import note
from gptwo.server.memory import blocks_in_memory
from gptwo.server.metrics import Metrics
from gptwo.server.runner import Runner
from gptwo.server.settings import ServerSettings
from gptwo.server.ticket import Ticket

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
State = Literal["loading", "ready", "draining", "failed"]

PREPARERS = 2  # threads that read bodies and turn texts into tokens
COMPILERS = 1  # threads that compile grammars, which is done one at a time anyway


class Service:
    """The state behind an app; of the event loop's thread."""

    def __init__(self, settings: ServerSettings, model: OpenModel | None = None) -> None:
        """model: one that is open already; otherwise `start` opens the settings' own."""
        self.settings, self.metrics = settings, Metrics(settings.model_names[0])
        self.created = int(time.time())
        self.error: BaseException | None = None
        """Why the model could not be loaded."""
        self.on_failure: Callable[[], None] = lambda: None
        self.render_metrics: Callable[[], Awaitable[tuple[bytes, str]]] = self._own_metrics
        """The metrics as text, and its content type; one of several processes gives those of all here."""
        self.drain_others: Callable[[float], Awaitable[bool]] = _nothing_else
        """Waits for what is under way beside the engine, for so many seconds; whether all of it ended by itself."""
        self._given = model
        self._runner: Runner | None = None
        self._draining = False
        self._loading: asyncio.Task[None] | None = None
        self._loader: threading.Thread | None = None
        self._preparers = ThreadPoolExecutor(PREPARERS, "gptwo-prepare")
        self._compilers = ThreadPoolExecutor(COMPILERS, "gptwo-compile")
        self._preparing = 0

    @property
    def state(self) -> State:
        """Where it is."""
        if self._draining:
            return "draining"
        if self.error is not None or (self._runner is not None and not self._runner.alive):
            return "failed"
        return "loading" if self._runner is None else "ready"

    @property
    def runner(self) -> Runner:
        """The runner, for a request that wants its model. Raises NotReadyError, DrainingError or GptwoError."""
        state = self.state
        if state == "draining":
            raise DrainingError("the server is about to end and takes no more requests")
        if state == "failed":
            raise GptwoError("the server's engine has failed; its log says why")
        if self._runner is None:
            raise NotReadyError(f"the model {self.name} is being loaded; ask again in a moment")
        return self._runner

    @property
    def busy(self) -> bool:
        """Whether the queue is full."""
        return self._runner is not None and self._runner.full

    @property
    def loader_is_running(self) -> bool:
        """Whether a thread still loads the model, which nothing can interrupt."""
        return self._loader is not None and self._loader.is_alive()

    @property
    def name(self) -> str:
        """What answers call the model."""
        return self.settings.model_names[0]

    def check_name(self, name: str | None) -> str:
        """The model's name in the answer to a request that calls it `name`. Raises ModelNotFoundError."""
        if name is None or name in self.settings.model_names:
            return name or self.name
        known = " or ".join(repr(known) for known in self.settings.model_names)
        raise ModelNotFoundError(f"the model {shown(name)} does not exist here; this server has {known}")

    async def prepare(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run `work` on a thread of a few, so that the event loop goes on. Raises QueueFullError if too much waits."""
        return await self._prepare(self._preparers, lambda: work(*args, **kwargs))

    async def compile(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """The same for what may compile grammars: seconds each, for which nobody waits who asks for none."""
        return await self._prepare(self._compilers, lambda: work(*args, **kwargs))

    async def _prepare(self, threads: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        # Never the first bound that a burst of requests meets, but one on what their bodies hold in memory.
        if self._preparing >= self.settings.max_queue + self.settings.max_sequences:
            raise QueueFullError(f"{self._preparing} requests wait to be read; ask again in a moment")
        self._preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self._preparing -= 1

    async def _own_metrics(self) -> tuple[bytes, str]:
        return self.metrics.render()

    async def in_thread(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run `work`, however much waits, on one of those threads."""
        return await asyncio.get_running_loop().run_in_executor(self._preparers, lambda: work(*args, **kwargs))

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count the requests that fail within this block, before the runner, which counts its own, hears of them."""
        try:
            yield
        except GptwoError as error:
            self.metrics.refused(error)
            raise

    async def start(self) -> None:
        """Begin to load the model, or take the one that was given."""
        if self._given is not None:
            self._take(self._given)
        else:
            self._loading = asyncio.create_task(self._load())

    async def loaded(self) -> None:
        """Wait until the model is there, or cannot be."""
        if self._loading is not None:
            await asyncio.wait([self._loading])

    def begin_drain(self) -> None:
        """From now on new requests are refused."""
        self._draining = True

    async def drain(self) -> None:
        """Refuse new requests and wait for those under way, for so long as the settings say."""
        self.begin_drain()
        if self._runner is not None:
            note(logging.INFO, "draining", running=self._runner.running, waiting=self._runner.waiting)
            longest = self.settings.drain_timeout
            if not all(await asyncio.gather(self._runner.drain(longest), self.drain_others(longest))):
                note(logging.WARNING, "the time to drain is over; what still ran was ended")

    async def stop(self) -> None:
        """End everything; requests under way fail."""
        self.begin_drain()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._runner is not None:
            await self._runner.close()
        for threads in (self._preparers, self._compilers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[OpenModel] = loop.create_future()

        def work() -> None:
            try:
                model = open_model(**self.settings.model_options())
            except BaseException as error:  # noqa: BLE001  # whatever it is, `serve` says it
                say(opened.set_exception, error)
            else:
                say(opened.set_result, model)

        def say(method: Callable[..., None], value: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: None if opened.done() else method(value))

        began = time.perf_counter()
        # A daemon, since it cannot be interrupted and nobody should wait for it to end.
        self._loader = threading.Thread(target=work, name="gptwo-load", daemon=True)
        self._loader.start()
        try:
            self._take(await opened)
            note(logging.INFO, "model loaded", model=self.name, seconds=round(time.perf_counter() - began, 2))
        except Exception as error:  # noqa: BLE001  # `serve` says it
            self.error = error
            self.on_failure()

    def _take(self, model: OpenModel) -> None:
        settings = self.settings
        max_blocks = settings.max_blocks or blocks_in_memory(model.config, settings.workers)
        runner = Runner(
            model,
            max_queue=settings.max_queue,
            max_wait=settings.max_wait,
            max_sequences=settings.max_sequences,
            chunk_tokens=settings.chunk_tokens,
            prefix_blocks=settings.prefix_blocks,
            max_blocks=max_blocks,
            observer=self.metrics,
        )
        runner.start()
        self._runner = runner


async def _nothing_else(seconds: float) -> bool:
    return True


@contextmanager
def submitted(runner: Runner, requests: Sequence[Request]) -> Iterator[list[Ticket]]:
    """Submit requests, all or none, and let go of what is left of them at the end of the block."""
    tickets = runner.submit(requests)
    try:
        yield tickets
    finally:
        for ticket in tickets:
            ticket.cancel()
