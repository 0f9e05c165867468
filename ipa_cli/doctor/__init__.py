"""`ipa doctor`: each check looks at one thing and returns plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from ipa_cli.backends import requirements
from ipa_cli.doctor import compiler, gpus, hub, machine, places, setup, software
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.report import text
from ipa_cli.engine.backend_choice import ALIASES, AUTO
from ipa_cli.hardware import cores, gpu, packages
from ipa_cli.result import Reporter

__all__ = ["Check", "examine", "text"]

COMPILED = ("inductor", "nexfort")


def examine(flags: Mapping[str, Any], deep: bool, reporter: Reporter) -> list[Check]:
    """Every check, in the order people read them. Raises UsageError for a flag that cannot be."""
    environ, began = os.environ, cores.snapshot()
    resolved, settings_check = setup.read_settings(flags)
    settings = resolved.settings
    asked = {name for name, source in resolved.sources.items() if source.kind != "default"}
    hub_check = hub.reach(environ)
    driver = gpu.ask(gpus.SECONDS)
    build = software.torch_build()
    versions = packages.installed()
    torch = versions["torch"]
    backend = ALIASES.get(settings.backend, settings.backend).replace(AUTO, "eager")  # what auto falls back on
    compiles = backend in COMPILED
    on_gpu = settings.device.startswith("cuda")

    checks = [software.check_python()]
    slow = reporter.stage("building and running small things") if deep else nullcontext(lambda doing: None)
    with slow as doing:
        doing("torch")
        checks.append(software.check_torch(torch, build, driver, deep))
        checks += [gpus.check_driver(driver, build.cuda, on_gpu), *gpus.check_gpus(driver)]
        if "device" in asked:
            checks.append(software.check_device(settings.device, torch, build, driver))
        doing("a Triton kernel")
        checks.append(gpus.check_triton(driver, versions["triton"], compiles and settings.device != "cpu", deep))
        doing("a C++ library")
        checks.append(compiler.check(compiles, deep, with_torch=torch is not None))
        for name in requirements.BACKENDS:
            doing(f"what {name} needs")
            checks.append(software.check_backend(name, versions, name == backend, deep))
    if backend not in requirements.BACKENDS:
        known = f"choose one of auto, {', '.join(requirements.BACKENDS)}"
        checks.append(Check(f"backend {backend}", "failure", "there is no such backend", known, asked=True))
    reached = hub_check()
    with hub.offline(reached.status == "warning"):
        checks.append(setup.check_model(settings, bool(asked & setup.MODEL)))
    checks.append(places.graphs(settings, "cache_dir" in asked))
    checks += [places.models(environ), reached, hub.token(environ), settings_check]
    checks += [setup.check_completion(environ), machine.check_temporary(), machine.check_lists(machine.started_with())]
    checks.append(machine.check_cores(cores.others(began), environ))
    return checks
