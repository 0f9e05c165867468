"""Listen, open the engines, draw until a signal comes, then let what is drawn end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from ipa_cli.config import Settings, servers
from ipa_cli.config.privacy import public_name
from ipa_cli.config.requests import LOOPBACK
from ipa_cli.engine import keywords
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware.devices import pick_device
from ipa_cli.images import faces
from ipa_cli.models import schedulers
from ipa_cli.models.lora import lora
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.result import NullReporter, Reporter
from ipa_cli.serve import worker
from ipa_cli.serve.app import make_app
from ipa_cli.serve.limits import Limits
from ipa_cli.serve.metrics import Metrics
from ipa_cli.serve.service import Service
from ipa_cli.serve.worker import JobReporter, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipa_cli.models.plan import Plan

KEEP_ALIVE = 30  # seconds
# Longest waits at the end, in seconds: until pictures that were just drawn are fetched, and until answers are read.
FETCH, SEND = 5, 30


@dataclass(frozen=True)
class Address:
    """Where to listen, and who may ask: see `guard.Guard`."""

    host: str = "127.0.0.1"
    port: int = 8188
    token: str | None = None
    origins: tuple[str, ...] = ()


def serve(
    settings: Settings,
    reporter: Reporter,
    address: Address,
    limits: Limits,
    warm: Sequence[tuple[int, int]] = (),
    devices: Sequence[str] = (),
    allow_fetch: bool = False,
    announce_in: Path | None = None,
) -> None:
    """Serve until a signal raises KeyboardInterrupt here; what is drawn then is finished, what waits is refused.

    `warm` are sizes, width and height, whose graphs are opened, or compiled, before the server is ready; in the folder
    `announce_in` `--server auto` finds it, see `servers.own_folder`. Raises IpaError for an address that cannot be
    used, and what opening an engine does.
    """
    if address.token is None and address.host not in LOOPBACK:
        raise UsageError(f"{address.host} is not loopback: whoever reaches it could draw", "give a --token-file")
    schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
    check_backend(settings.backend, settings.precision)
    plan = make_plan(settings, references_later=True)
    for name in devices:
        pick_device(name)  # before any of them loads
    devices = tuple(devices) or (settings.device,)
    if settings.gpus > 1 and len(devices) > 1:
        raise UsageError("--gpus 2 and several --devices are both given", "start a server for each pair of GPUs")
    loras = lora.load(settings.lora, plan, reporter)
    service = Service(settings, plan, limits, reporter, Metrics(), devices, allow_fetch, loras=loras)
    stopped = threading.Event()

    def failed(error: BaseException) -> None:
        service.failure = service.failure or error
        stopped.set()

    app = make_app(service, address.host, address.token, address.origins)
    with listening(address) as (server_socket, url), ExitStack() as lasting:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=SEND,
                server_header=False,
            )
        )
        http = worker.start(lambda: server.run([server_socket]), failed, "http")
        lasting.enter_context(_announced(announce_in, url, address.token, plan, reporter))
        reporter.note(f"listening on {url}")
        workers = [
            worker.start(partial(_draw, service, device, warm), failed, f"engine {device}") for device in devices
        ]
        try:
            stopped.wait()
        finally:
            service.drain()
            for thread in workers:
                thread.join()
            while service.has_unfetched(FETCH):
                time.sleep(0.05)
            server.should_exit = True
            http.join()
    if service.failure is not None:
        raise service.failure


@contextmanager
def _announced(folder: Path | None, url: str, token: str | None, plan: Plan, reporter: Reporter) -> Iterator[None]:
    """Let `--server auto` of this user find the server; a note where it cannot."""
    with ExitStack() as lasting:
        try:
            lasting.enter_context(servers.announced(folder, url, token, public_name(plan.name)))
        except IpaError as error:
            reporter.note(f"`--server auto` does not find this server: {error.message}")
        yield


def _draw(service: Service, device: str, warm: Sequence[tuple[int, int]]) -> None:
    """Open an engine and draw with it until the queue is closed."""
    settings = replace(service.settings, device=device)
    reporter = JobReporter(service.reporter)
    engine = Engine.open(settings, service.plan, reporter)
    try:
        for width, height in warm or ((None, None),):
            example = _example(settings, service.plan, {"width": width, "height": height})
            engine.prepare(example)
            engine.warm_up(example)
            if settings.batch_size > 1:
                engine.draw_together([example] * settings.batch_size)
        one = Worker(engine, reporter, service.queue, settings.batch_size)
        service.workers.append(one)
        if service.ready:
            service.reporter.note("ready")
        one.work()
    finally:
        engine.close()


def _example(settings: Settings, plan: Plan, size: Mapping[str, int | None]) -> Request:
    """A request like those to come, for the graph of its shape: with a reference where an adapter is loaded."""
    from PIL import Image

    given: dict[str, Any] = {"prompt": "warm", **size}
    if plan.adapters:
        grey = Image.new("RGB", (64, 64), "grey")
        given.update({"adapter": [{"image": grey}] * len(settings.adapter)} if settings.adapter else {"image": grey})
    given["control"] = [
        {"model": number, "image": Image.new("RGB", (64, 64)), "mode": one.modes[0] if one.union else None}
        for number, one in enumerate(plan.controls)
    ] or None
    wanted, in_memory = keywords.of_request(settings, given)
    loaded = load_references(wanted, NullReporter(), InMemory(in_memory))
    return make_request(wanted, plan, loaded, find_face=faces.stand_in)


@contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its URL. Raises IpaError where it cannot."""
    with ExitStack() as lasting:
        try:
            family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
            made = lasting.enter_context(socket.create_server((address.host, address.port), family=family, backlog=512))
        except OSError as error:
            # `socket` adds the address, which is there already.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise IpaError(
                f"{address.host}:{address.port} cannot be listened on: {reason}",
                "choose another --port; 0 is any",
            ) from error
        host, port = made.getsockname()[:2]
        yield made, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
