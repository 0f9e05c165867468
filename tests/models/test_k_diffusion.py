"""The samplers that bear k-diffusion's names against k-diffusion itself, step by step at the same noise levels.

It is no dependency, nor of the tests: `.ci/samplers` installs it where these tests find it.
"""

import importlib.util
import inspect
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.models import diffusers_schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedulers import SCHEDULERS, Sampling
from ipa_cli.pipeline import sampler
from ipa_cli.result import NullReporter
from tests.seeds import after_noise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (find_spec("k_diffusion") and find_spec("scipy")), reason="needs k-diffusion and scipy"),
]

SEED = 5
# Ours, k-diffusion's, and what the latter is called with. Its dpmpp_sde draws from a Brownian tree.
PAIRS = [
    ("euler", "sample_euler", {}),
    ("euler-a", "sample_euler_ancestral", {}),
    ("heun", "sample_heun", {}),
    ("lms", "sample_lms", {}),
    ("dpm2", "sample_dpm_2", {}),
    ("dpm2-a", "sample_dpm_2_ancestral", {}),
    ("dpm++", "sample_dpmpp_2m", {}),
    ("dpm++-2m-sde", "sample_dpmpp_2m_sde", {"solver_type": "midpoint"}),
    ("dpm++-2m-sde-heun", "sample_dpmpp_2m_sde", {"solver_type": "heun"}),
]
# What is refused because diffusers computes something else: the nearest that it has.
APART = [
    ("dpm++-3m", "sample_dpmpp_3m_sde", {}),
    ("dpm++-2s", "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpm++-2s", "sample_dpmpp_sde", {"eta": 0.0}),
]


@pytest.fixture(scope="module")
def k_diffusion():
    """Its samplers alone: the package would import what trains models."""
    home = find_spec("k_diffusion").submodule_search_locations[0]
    utils = ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    solvers = ModuleType("torchdiffeq")
    solvers.odeint = None
    package = ModuleType("k_diffusion")
    package.__path__, package.utils = [home], utils
    given = {"k_diffusion": package, "k_diffusion.utils": utils, "torchdiffeq": solvers}
    before = {name: sys.modules.get(name) for name in given}
    sys.modules.update(given)
    try:
        spec = importlib.util.spec_from_file_location("k_diffusion.sampling", f"{home}/sampling.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, one in before.items():
            sys.modules.pop(name) if one is None else sys.modules.update({name: one})
    return module


def predict(given):
    return torch.tanh(0.7 * given)


def ends(module, name, function, more, schedule, steps):
    """The latents of both after all steps, in k-diffusion's scale."""
    settings = Settings(model="sdxl", load_format="dummy")
    plan, sampling = make_plan(settings), Sampling(name, schedule)
    scheduler = diffusers_schedulers.create(sampling, plan)
    diffusers_schedulers.begin(scheduler, sampling, steps)
    levels = scheduler.sigmas.double()
    if name in ("heun", "dpm2", "dpm2-a"):  # which list those between, or each twice
        levels = torch.cat([levels[:1], levels[1::2] if name == "heun" else levels[2::2]])
    found = schedules.find(settings, plan, sampling, steps, NullReporter())
    chosen = sampler.of(found, sampling, steps, after_noise(SEED))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    first = levels[0] / (1 if scheduler.init_noise_sigma > 1.5 else (levels[0] ** 2 + 1) ** 0.5)
    latents = chosen.begin(noise) * float(first) / float(scheduler.init_noise_sigma)
    for step in range(len(chosen.timesteps)):
        latents = chosen.after(latents, predict(chosen.scaled(latents, step)), step)

    def denoised(x, sigma, **_):
        return x - sigma.view(-1, 1, 1, 1) * predict(x / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5)

    generator = torch.Generator().manual_seed(SEED)
    torch.randn(noise.shape, generator=generator)
    call = getattr(module, function)
    if "noise_sampler" in inspect.signature(call).parameters:
        more = {**more, "noise_sampler": lambda *_: torch.randn(noise.shape, generator=generator).double()}
    return latents.double(), call(denoised, noise.double() * levels[0], levels, disable=True, **more)


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("schedule", ["trailing", "karras"])
@pytest.mark.parametrize(("name", "function", "more"), PAIRS)
def test_a_sampler_with_k_diffusions_name_computes_what_that_does(
    world, k_diffusion, name, function, more, schedule, steps
):
    if schedule not in SCHEDULERS[name].schedules:
        pytest.skip("has no such schedule")
    found, expected = ends(k_diffusion, name, function, more, schedule, steps)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize(("name", "function", "more"), APART)
def test_those_that_are_refused_compute_something_else(world, k_diffusion, name, function, more):
    found, expected = ends(k_diffusion, name, function, more, "karras", 10)
    assert (found - expected).norm() > 1e-3 * expected.norm()
