"""Weights from disk to a GPU as fast as the disk or the page cache gives them: many threads, small pinned buffers.

A file is cut into segments. Each thread reads one into a buffer that the GPU copies from by itself, and reads the next
into another meanwhile; no file is ever whole in main memory. On an H100 host with
16 cores 11.3 GB took 0.5 to 0.6 s, with `safetensors` file by file 1.9 s.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import torch
from torch import Tensor

SEGMENT = 16 << 20  # bytes that a thread reads at once
THREADS = 8
KINDS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}


@dataclass
class _File:
    """A file that is being read, and where its tensors go."""

    path: Path
    tensors: dict[str, Tensor]
    room: Any = None  # an event on a GPU: the memory of the tensors is free of what used it before
    answer: Future[dict[str, Tensor]] = field(default_factory=Future)
    left: int = 0  # segments
    lock: Any = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Segment:
    file: _File
    start: int  # in the file
    size: int
    pieces: Sequence[tuple[int, Tensor]]  # where in the segment, and where to: bytes of a tensor


def start(
    wanted: Sequence[tuple[Path, Collection[str] | None]], device: torch.device
) -> list[Future[dict[str, Tensor]]]:
    """Begin to read `.safetensors` files, all their tensors or those named, onto `device`, the first of them first.

    The futures hold tensors in the kinds of the file, or OSError. Raises KeyError for a kind that is not in KINDS.
    """
    queue: SimpleQueue[_Segment | None] = SimpleQueue()
    files: list[_File] = []
    threads = min(THREADS, os.cpu_count() or 1)
    for number in range(threads):
        threading.Thread(target=_work, args=(queue, device, files), name=f"reader-{number}", daemon=True).start()
    try:
        for path, names in wanted:  # the first is read while room is made for the next
            file, segments = _planned(path, names, device)
            file.left = len(segments)
            files.append(file)
            if not segments:
                file.answer.set_result(file.tensors)
            for segment in segments:
                queue.put(segment)
    finally:
        for _ in range(threads):
            queue.put(None)
    return [file.answer for file in files]


def _planned(path: Path, names: Collection[str] | None, device: torch.device) -> tuple[_File, list[_Segment]]:
    with path.open("rb", buffering=0) as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    entries = sorted(
        (entry["data_offsets"], name, entry)
        for name, entry in header.items()
        if name != "__metadata__" and (names is None or name in names)
    )
    _reserve(entries, device)
    file, segments = _File(path, {}), []
    pieces: list[tuple[int, Tensor]] = []
    at = begin = 0  # the segment that is being filled begins at `begin` and ends at `at`

    def close() -> None:
        if pieces:
            segments.append(_Segment(file, 8 + length + begin, at - begin, tuple(pieces)))
            pieces.clear()

    for (first, end), name, entry in entries:
        tensor = torch.empty(entry["shape"], dtype=KINDS[entry["dtype"]], device=device)
        file.tensors[name] = tensor
        inside = tensor.view(-1).view(torch.uint8)
        if first != at:
            close()
            at = begin = first
        while at < end:
            if at - begin == SEGMENT or not pieces:
                close()
                begin = at
            stop = min(end, begin + SEGMENT)
            pieces.append((at - begin, inside[at - first : stop - first]))
            at = stop
    close()
    if device.type == "cuda":
        file.room = torch.cuda.current_stream(device).record_event()
    return file, segments


def _reserve(entries: Sequence[tuple[tuple[int, int], str, Any]], device: torch.device) -> None:
    """Take the memory of all tensors of a file from the driver at once: torch then cuts it up without asking again.

    One piece for each file, so that it can go back to the driver when a whole encoder is dropped.
    """
    if device.type == "cuda":
        with suppress(torch.cuda.OutOfMemoryError):
            torch.empty(
                sum(-(-(end - first) // 512) * 512 for (first, end), *_ in entries), dtype=torch.uint8, device=device
            )


def _work(queue: SimpleQueue[_Segment | None], device: torch.device, files: Sequence[_File]) -> None:
    """Read segments until none is left; whatever goes wrong, nobody waits for ever."""
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _read_all(queue, device)
    except BaseException as error:
        for file in tuple(files):
            _fail(file, error)
        while (segment := queue.get()) is not None:
            _fail(segment.file, error)


def _read_all(queue: SimpleQueue[_Segment | None], device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None
    buffers: list[Tensor] = []
    copying: list[tuple[Any, _File] | None] = [None, None]
    turn = 0
    while (segment := queue.get()) is not None:
        before = copying[turn]
        if before is not None:
            _finish(*before)
        if not buffers:
            buffers = [torch.empty(SEGMENT, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
        try:
            _fill(buffers[turn], segment)
        except OSError as error:
            _fail(segment.file, error)
            copying[turn] = None
            continue
        with torch.cuda.stream(stream):
            if stream is not None:
                stream.wait_event(segment.file.room)
            for where, target in segment.pieces:
                target.copy_(buffers[turn][where : where + len(target)], non_blocking=True)
        copying[turn] = (stream.record_event() if stream is not None else None, segment.file)
        turn = 1 - turn
    for one in filter(None, copying):
        _finish(*one)


def _fill(buffer: Tensor, segment: _Segment) -> None:
    view = memoryview(cast(Any, buffer.numpy()))[: segment.size]
    descriptor = os.open(segment.file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < segment.size:
            count = os.preadv(descriptor, [view[done:]], segment.start + done)
            if not count:
                raise OSError(errno.EIO, "it ends too early")
            done += count
    finally:
        os.close(descriptor)


def _finish(copied: Any, file: _File) -> None:
    """Wait until a segment is where it belongs; with the last of a file its tensors are ready."""
    if copied is not None:
        copied.synchronize()
    with file.lock:
        file.left -= 1
        if not file.left and not file.answer.done():
            file.answer.set_result(file.tensors)


def _fail(file: _File, error: BaseException) -> None:
    with file.lock:
        if not file.answer.done():
            file.answer.set_exception(error)
