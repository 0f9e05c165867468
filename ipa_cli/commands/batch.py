"""`ipa batch`: many jobs, each drawn once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.config.settings import MACHINE, OUTPUT, PICTURE
from ipa_cli.config.units import plural, rate
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Result

if TYPE_CHECKING:
    from ipa_cli.batch.run import Done, Draw
    from ipa_cli.config import Settings

DEFAULT_OUTPUT, RESULTS = "ipa-batch", "results.jsonl"
# Not those that a job alone has, and those of single pictures.
_NOT = ("prompt", "num_images", "image_per_picture", "output", "preview", "warmup")
SETTINGS = tuple(name for name in options.HERE if name not in _NOT)


def _jobs(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=PICTURE, **more)


def _output(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=OUTPUT, **more)


def _machine(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=MACHINE, **more)


@options.with_settings(
    *SETTINGS,
    seed="seed of every job that has none; unless given it follows from the job's id",
    image="reference image of every job that has none: a file, folder, pattern or URL; repeatable",
    init_image="picture to begin with in place of noise: a file or URL",
)
def batch(
    context: typer.Context,
    jobs: Annotated[
        str,
        typer.Argument(
            help="JSONL, CSV or a JSON list: an id and any settings for each job; or a folder of reference images.",
            metavar="JOBS",
            show_default=False,
        ),
    ],
    words: Annotated[
        list[str] | None,
        _jobs("--prompt", "-p", help="what to draw with each image of a folder; repeatable", metavar="PROMPT"),
    ] = None,
    prompts_from: Annotated[
        str | None,
        _jobs("--prompts-from", help="file with a prompt or JSON object on each line, for a folder", metavar="FILE"),
    ] = None,
    root: Annotated[
        Path | None,
        _jobs("--root", help="folder in which jobs may name files [default: that of the jobs]", metavar="FOLDER"),
    ] = None,
    size: Annotated[
        str | None,
        _jobs("--size", help="width x height, such as 1024x768", metavar="WxH", autocompletion=options.SIZES),
    ] = None,
    devices: Annotated[
        str | None,
        _machine("--devices", help="draw on several devices of this host, such as cuda:0,cuda:1", metavar="LIST"),
    ] = None,
    ray: options.Ray = None,
    actors: options.Actors = None,
    output: Annotated[
        str,
        _output(
            "--output",
            "-o",
            help=f"folder or URL (s3://bucket/folder) for all results [default: {DEFAULT_OUTPUT}]",
            metavar="FOLDER",
        ),
    ] = DEFAULT_OUTPUT,
    resume: Annotated[bool, _output("--resume", help="draw what is missing of a batch that was stopped")] = False,
    retry_failed: Annotated[bool, _output("--retry-failed", help="as --resume, and draw what failed again")] = False,
    format: Annotated[options.Format | None, _output("--format", help="format of the pictures [default: png]")] = None,
    quality: Annotated[
        int | None,
        _output("--quality", help="quality of JPEG, WebP and AVIF [default: 90]", metavar="N", min=1, max=100),
    ] = None,
) -> Result:
    """Draw many jobs, each once; resumable, on one device, several, or a Ray cluster."""
    from ipa_cli.batch import description, run, source
    from ipa_cli.config.units import parse_picture_size
    from ipa_cli.engine.store import temporary_files
    from ipa_cli.pipeline import prompts

    options.check_not_stdout(Path(output), "a batch", "--output drawn")
    given = context.params
    if size is not None:
        if (given["width"], given["height"]) != (None, None):
            raise UsageError("--size and --width or --height are both given", "leave out one or the other")
        given["width"], given["height"] = parse_picture_size(size)
    several = [{"prompt": prompt} for prompt in prompts.typed(words or ())]
    if prompts_from is not None:
        several += prompts.listed(prompts_from)
    settings = options.settings(context).settings
    config.check_not_stdin(settings, "every job reads the files of its settings, and stdin is read only once")
    found = source.find(jobs, several, root, context.obj.note)
    suffix = f".{format.value}" if format else ".png"
    asked = description.Asked(settings, found, output, suffix, quality, resume, retry_failed)
    with temporary_files(settings):
        done = run.run(asked, context.obj, context.obj.live, _way(settings, devices, ray, actors))
    paths = (Path(done.output),) if done.local else ()
    return Result("batch", _data(done), _blocks(done), _failure(done), paths)


def _way(settings: Settings, devices: str | None, ray: str | None, actors: int | None) -> Draw:
    """How the jobs are drawn: in this process, in one for each device, or by actors. Raises UsageError."""
    from ipa_cli.batch import run

    options.check_ray(ray, actors, settings.gpus)
    if devices is not None and (ray is not None or settings.device != "auto"):
        raise UsageError(f"--devices and {'--ray' if ray else '--device'} are both given", "leave out one or the other")
    if devices is not None and settings.gpus > 1:
        hint = "leave --gpus out: each device draws its own pictures"
        raise UsageError(f"--devices and --gpus {settings.gpus} are both given", hint)
    if ray is not None:
        from ipa_cli.batch import on_ray

        return partial(on_ray.draw, on_ray.Cluster(ray, actors))
    if devices is None:
        return run.here
    from ipa_cli.batch import devices as processes
    from ipa_cli.hardware.devices import pick_device

    named = [name.strip() for name in devices.split(",")]
    for name in named:
        pick_device(name)
    return partial(processes.draw, named)


def _failure(done: Done) -> IpaError | None:
    if done.first_failed is None:
        return None
    first, why = done.first_failed.id, done.first_failed.error
    return IpaError(
        f"{done.failed} of {plural(done.jobs, 'job')} failed, the first {first}: {why}",
        f"{done.output}/{RESULTS} has the error of each; the same command with --retry-failed draws them again",
    )


def _data(done: Done) -> dict[str, Any]:
    output = str(Path(done.output).absolute()) if done.local else done.output
    return {
        "output": output,
        "results": f"{output}/{RESULTS}",
        "page": f"{output}/index.html",
        "pages": done.pages,
        "jobs": done.jobs,
        "drawn": done.drawn,
        "failed": done.failed,
        "timings": {
            "drawing_s": done.seconds,
            "first_picture_s": done.first_s,
            "pictures_per_s": done.pictures_per_s,
        },
    }


def _blocks(done: Done) -> tuple[str, ...]:
    lines = [f"{done.output}/{RESULTS}  {plural(done.jobs, 'job')}"]
    existed = f"; {done.before} had ended before" if done.before else ""
    speed = rate(done.pictures_per_s, "picture", "pictures")
    lines.append(f"drawn {done.drawn} in {done.seconds:.1f} s{f', {speed}' if speed else ''}{existed}")
    if done.failed:
        lines.append(f"FAILED {plural(done.failed, 'job')}: --retry-failed draws them again")
    return tuple(lines)
