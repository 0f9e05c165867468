"""Maps in requests: followed by ControlNets that the server was started with, and by no others."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.client import payload
from ipa_cli.config import Settings, comparison, controls, resolve
from ipa_cli.errors import UsageError
from ipa_cli.models.plan import make_plan
from ipa_cli.result import NullReporter
from ipa_cli.serve import drawing
from ipa_cli.serve.asked import Asked
from ipa_cli.serve.body import Body, asked
from ipa_cli.serve.limits import Limits
from ipa_cli.serve.routes.a1111 import units
from tests import controlnets

DEMO = Path(ipa_cli.__file__).parent / "demo"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What a service knows of a server that was started with two ControlNets."""
    root = tmp_path_factory.mktemp("controlnets")
    folders = [controlnets.save(DEMO, root / name, kind=kind) for name, kind in (("outline", ""), ("union", "union"))]
    settings = Settings(control=tuple(controls.parse(str(folder), "--control") for folder in folders), steps=4)
    return SimpleNamespace(settings=settings, plan=make_plan(settings, references_later=True))


def made(server, **values):
    given = Asked({"prompt": "a star", "width": 64, "height": 64, **values})
    return drawing.make(given, server.settings, server.plan, Limits(), NullReporter(), allow_fetch=False)[1]


def png(size=(64, 64)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_request_without_maps_follows_none(server):
    assert made(server).controls == ()


def test_a_map_names_its_model_by_name_or_number(server):
    first = {"model": "outline", "image": png(), "scale": 0.5, "end": 0.5}
    request = made(server, control=[first, {"model": 1, "image": png(), "mode": "depth"}])
    assert [(one.network, one.scale, one.end, one.kind) for one in request.controls] == [
        (0, 0.5, 0.5, None),
        (1, 1, 1, 1),
    ]


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ({"image": png()}, "there is no model"),
        ({"model": "/etc/passwd", "image": png()}, "loaded: outline, union"),
        ({"model": 2, "image": png()}, "there is no model"),
        ({"model": 0}, "no map to follow"),
        ({"model": 0, "image": "map.png"}, "not base64"),
        ({"model": 0, "image": "https://example.com/map.png"}, "fetches no addresses"),
        ({"model": 0, "image": png(), "scale": "a lot"}, "scale is"),
        ({"model": 0, "image": png(), "end": 2}, "expected a number from 0 to 1"),
        ({"model": 1, "image": png()}, "is not said"),
        ({"model": 0, "image": png(), "source": "/etc"}, "unknown key 'source'"),
    ],
)
def test_what_makes_no_sense_is_refused(server, control, words):
    with pytest.raises(UsageError) as caught:
        made(server, control=[control])
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_server_without_controlnets_says_so():
    settings = Settings()
    bare = SimpleNamespace(settings=settings, plan=make_plan(settings))
    with pytest.raises(UsageError, match="no ControlNet is loaded"):
        made(bare, control=[{"image": png()}])


def test_units_of_a1111_that_name_a_controlnet_are_maps_and_the_others_references(server):
    unit = {"model": "outline [abcd1234]", "module": "none", "image": png(), "weight": 0.7, "guidance_end": 0.5}
    other = {"model": "union", "module": "canny", "image": {"image": png()}, "union_control_type": "Canny"}
    found = units.followed([unit, other, {"module": "ip-adapter-auto", "image": png(), "weight": 0.3}], server)
    first, second = found.values["control"]
    assert (first["model"], first["scale"], first["end"], first["preprocess"]) == (0, 0.7, 0.5, None)
    assert (second["model"], second["preprocess"], second["mode"]) == (1, "canny", "canny")
    assert found.values["scale"] == 0.3 and found.warnings == ()
    request = made(server, **found.values)
    assert [one.network for one in request.controls] == [0, 1] and request.scale == 0.3
    for wrong, words in ((unit | {"module": "openpose"}, "module 'openpose'"), (unit | {"image": None}, "no image")):
        with pytest.raises(UsageError, match=words):
            units.followed([wrong], server)


def test_a_command_sends_its_maps_and_asks_for_controlnets_that_are_there(server, world):
    Image.new("RGB", (64, 64)).save("map.png")
    place = server.settings.control[0].place
    wanted = resolve({"control": (f"{place},image=map.png,scale=0.5",), "seed": 1})
    there = comparison.reported(server.settings)
    assert not [one for one in comparison.differences(wanted, there, ["cpu"], ["float32"]) if one.name == "control"]
    other = resolve({"control": ("somebody/else,image=map.png",)})
    assert [one.name for one in comparison.differences(other, there, ["cpu"], ["float32"])].count("control") == 1
    carried = payload.read(wanted.settings, NullReporter())
    assert carried.named["control"][0] == {
        **{"model": "outline", "image": "map.png", "scale": 0.5, "start": 0.0, "end": 1.0}
    }
    body = Body.model_validate({**carried.named, "prompt": "a star", "files": carried.files.data})
    (control,) = made(
        server, **asked(body).values | {"control": [carried.named["control"][0] | {"image": png()}]}
    ).controls
    assert control.network == 0 and control.scale == 0.5
