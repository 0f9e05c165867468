"""`ipa doctor`: each check looks at one thing and returns plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from ipa_cli import backends
from ipa_cli.doctor import compiler, gpus, hub, machine, places, setup, software
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.report import text
from ipa_cli.hardware import cores, gpu
from ipa_cli.result import Reporter

__all__ = ["Check", "examine", "text"]


def examine(flags: Mapping[str, Any], deep: bool, reporter: Reporter) -> list[Check]:
    """All checks, in the order of the report. Raises UsageError for an invalid flag."""
    environ, began = os.environ, cores.snapshot()
    resolved, settings_check = setup.read_settings(flags)
    settings = resolved.settings
    asked = {name for name, source in resolved.sources.items() if source.kind != "default"}
    hub_check = hub.reach(environ)
    driver = gpu.ask(gpus.SECONDS)
    build = software.torch_build()
    versions = backends.installed()
    torch = versions["torch"]
    known = (backends.AUTO, *backends.ALIASES, *backends.MODULES)
    backend = backends.resolve(settings.backend) if settings.backend in known else settings.backend
    backend = backends.UNCOMPILED if backend == backends.AUTO else backend  # what auto falls back on
    compiles = backend in backends.MODULES and backends.get(backend).CAPABILITIES.compiles
    on_gpu = settings.device.startswith("cuda")

    checks = [software.check_python()]
    slow = reporter.stage("building and running small things") if deep else nullcontext(lambda doing: None)
    with slow as doing:
        doing("torch")
        checks.append(software.check_torch(torch, build, driver, deep))
        checks += [gpus.check_driver(driver, build.cuda, on_gpu), *gpus.check_gpus(driver, settings.dtype)]
        if "device" in asked:
            checks.append(software.check_device(settings.device, torch, build, driver))
        doing("a Triton kernel")
        checks.append(gpus.check_triton(driver, versions["triton"], compiles and settings.device != "cpu", deep))
        doing("a C++ library")
        checks.append(compiler.check(compiles, deep, with_torch=torch is not None))
        for name in backends.MODULES:
            doing(f"what {name} needs")
            checks.append(software.check_backend(name, versions, name == backend, deep))
    if settings.backend not in known:
        advice = f"choose one of {', '.join((backends.AUTO, *backends.MODULES))}"
        checks.append(Check(f"backend {backend}", "failure", "there is no such backend", advice, asked=True))
    reached = hub_check()
    with hub.offline(reached.status == "warning"):
        checks.append(setup.check_model(settings, bool(asked & setup.MODEL)))
    checks.append(places.graphs(settings, "cache_dir" in asked))
    checks += [places.models(environ), reached, hub.token(environ), settings_check]
    checks += [
        setup.check_completion(environ),
        setup.check_server(),
        setup.check_faces(),
        machine.check_temporary(),
        machine.check_lists(machine.started_with()),
    ]
    checks.append(machine.check_cores(cores.others(began), environ))
    return checks
