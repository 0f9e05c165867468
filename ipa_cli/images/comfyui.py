"""Settings from ComfyUI's graph, which its pictures carry as `prompt`: nodes by number, and links between them.

A node is {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["4", 0], …}}; ["4", 0] is a link to the first
output of node 4. Everything is found by following links backwards from a sampler.
Source: ComfyUI's API format, and the nodes of ComfyUI_IPAdapter_plus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ipa_cli.config.modes import COMBINES, COMFYUI, TILES, WEIGHT_TYPES
from ipa_cli.images.metadata import parse_json
from ipa_cli.models import schedulers

MODES = {
    **dict(zip(COMFYUI, WEIGHT_TYPES, strict=True)),
    **{"standard": "full", "prompt is more important": "ease-out"},  # of IPAdapterSimple
}
# Names of inputs to follow to other nodes, by what is searched.
_TEXT = ("text", "text_g", "string", "value", "conditioning", "conditioning_1", "conditioning_to", "guider")
_MODEL = ("model", "guider")
_LATENT = ("latent_image", "samples", "latent")

Node = Mapping[str, Any]
Graph = Mapping[str, Node]


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    """Settings under our names, and notes on what is left out. Raises ValueError for anything but such graph."""
    found = parse_json(text, lenient=True)
    graph = {number: node for number, node in found.items() if _is_node(node)} if isinstance(found, dict) else {}
    samplers = [node for node in graph.values() if "latent_image" in node["inputs"]]
    if not samplers:
        raise ValueError("there is no sampler in it")
    begins = (one for one in samplers if not any("latent_image" in up["inputs"] for up in _above(graph, one, _LATENT)))
    first = next(begins, samplers[0])
    left_out = [f"{len(samplers) - 1} more samplers"] if len(samplers) > 1 else []
    values: dict[str, Any] = {
        "prompt": _find(graph, first, ("text", "text_g", "string", "value"), (*_TEXT, "positive"), str),
        "negative_prompt": _find(graph, first, ("text", "text_g", "string", "value"), (*_TEXT, "negative"), str),
        "seed": _find(graph, first, ("seed", "noise_seed", "value"), ("seed", "noise_seed", "noise", "value"), int),
        "steps": _find(graph, first, ("steps", "value"), ("steps", "sigmas", "value"), int),
        "guidance_scale": _find(graph, first, ("cfg", "value"), ("cfg", "guider", "value"), float),
    }
    if values["prompt"] is None:
        left_out.append("the prompt, which comes from a node of an unknown kind")
    _put_sampler(graph, first, values, left_out)
    _put_size(graph, first, values, left_out)
    _put_models(graph, first, values, left_out)
    return {name: value for name, value in values.items() if value is not None}, left_out


def _put_sampler(graph: Graph, sampler: Node, values: dict[str, Any], left_out: list[str]) -> None:
    name = _find(graph, sampler, ("sampler_name",), ("sampler", "sampler_name"), str)
    spacing = _find(graph, sampler, ("scheduler",), ("sigmas", "scheduler"), str)
    denoise = _find(graph, sampler, ("denoise",), ("sigmas", "denoise"), float)
    sampling, unknown = schedulers.of_program(name, spacing, comfyui=True)
    values.update(sampling)
    left_out += unknown
    if denoise not in (None, 1.0):
        total = f" --steps {round(values['steps'] / denoise)}" if values["steps"] and denoise and denoise > 0 else ""
        left_out.append(f"denoise {denoise:g} (add --init-image IMAGE --strength {denoise:g}{total})")


def _put_size(graph: Graph, sampler: Node, values: dict[str, Any], left_out: list[str]) -> None:
    above = list(_above(graph, sampler, _LATENT))
    for node in above:
        if "Empty" in node["class_type"]:
            values["width"] = _find(graph, node, ("width", "value"), ("width",), int)
            values["height"] = _find(graph, node, ("height", "value"), ("height",), int)
            return
    if above:
        left_out.append(f"the initial picture ({above[-1]['class_type']})")


def _put_models(graph: Graph, sampler: Node, values: dict[str, Any], left_out: list[str]) -> None:
    adapters = 0
    for node in _above(graph, sampler, _MODEL):
        inputs, kind = node["inputs"], node["class_type"]
        for name in ("ckpt_name", "unet_name"):
            if isinstance(inputs.get(name), str):
                left_out.insert(0, f"model {inputs[name]} (name one with --model)")
        if isinstance(inputs.get("lora_name"), str):
            left_out.append(_lora(inputs))
        if kind.startswith("IPAdapter") and "image" in inputs:
            adapters += 1
            picture = _find(graph, node, ("image",), ("image", "images", "pixels"), str)
            left_out.append(f"reference picture {picture or 'of a node'} (name it with --image)")
            if adapters == 1:
                _put_adapter(graph, node, values, left_out)
    if adapters > 1:
        left_out.append(f"the scales of {adapters - 1} more IP-Adapters")


def _lora(inputs: Mapping[str, Any]) -> str:
    """What to type for a LoraLoader node: it names a file in a folder of ComfyUI's, not where that is."""
    weight, text = (as_kind(inputs.get(f"strength_{part}"), float) for part in ("model", "clip"))
    said = "".join(
        f",{key}={value:g}" for key, value in (("weight", weight), ("text_weight", text)) if value is not None
    )
    return f"lora {inputs['lora_name']} (add --lora FILE{said})"


def _put_adapter(graph: Graph, node: Node, values: dict[str, Any], left_out: list[str]) -> None:
    for name, theirs in (("scale", "weight"), ("ip_start", "start_at"), ("ip_end", "end_at")):
        values[name] = _find(graph, node, (theirs,), (theirs,), float)
    combine = _find(graph, node, ("combine_embeds",), (), str)
    if combine is not None and combine.replace(" ", "-") in COMBINES[1:]:
        values["image_combine"] = combine.replace(" ", "-")
    if node["class_type"].startswith("IPAdapterTiled"):
        values.update(fit=TILES, sharpening=_find(graph, node, ("sharpening",), (), float))
    if "image_negative" in node["inputs"]:
        negative = _find(graph, node, ("image",), ("image_negative", "image", "images", "pixels"), str)
        left_out.append(f"negative picture {negative or 'of a node'} (name it with --negative-image)")
    mode = _find(graph, node, ("weight_type",), (), str)
    if mode in MODES:
        values["ip_mode"] = MODES[mode]
    elif mode is not None:
        left_out.append(f"weight type {mode}")


# --- the graph ------------------------------------------------------------------------------------------------


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _above(graph: Graph, node: Node, through: tuple[str, ...]) -> Iterator[Node]:
    """The nodes that lead to `node` by inputs of these names, nearest first, each once."""
    seen, waiting = {id(node)}, [node]
    while waiting:
        here = waiting.pop(0)
        for name in through:
            link = here["inputs"].get(name)
            # A link is a node's number and its output's; other lists are values.
            if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str | int):
                above = graph.get(str(link[0]))
                if above is not None and id(above) not in seen:
                    seen.add(id(above))
                    waiting.append(above)
                    yield above


def _find(graph: Graph, node: Node, names: tuple[str, ...], through: tuple[str, ...], kind: type) -> Any:
    """The first value of this kind that `node`, or a node above it, has under one of `names`."""
    for here in (node, *_above(graph, node, through)):
        for name in names:
            value = as_kind(here["inputs"].get(name), kind)
            if value is not None:
                return value
    return None


def as_kind(value: Any, kind: type) -> Any:
    """A value of JSON as str, int or float where it is one, else None."""
    if type(value) is float and not math.isfinite(value):
        return None
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is kind else None
