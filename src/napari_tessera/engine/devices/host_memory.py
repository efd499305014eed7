"""How much memory there is for this process: the machine's, or less where a container, a job or a shell allows less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from napari_tessera.engine.devices.protocol import DeviceMemory

# By the type of file system that control groups are mounted as: files that hold a limit, the file of what is used, and
# what of that the kernel takes back before the limit is felt: pages of files that were read or written.
GROUP_FILES = {
    "cgroup2": (
        ("memory.max", "memory.high"),
        "memory.current",
        ("active_file", "inactive_file", "slab_reclaimable"),
    ),
    "cgroup": (
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
}


def host_memory() -> DeviceMemory:
    """Return the host's total and available memory, or what limits leave of it: those of control groups and shells."""
    return within_limits(_machine_memory(), Path("/"))


def _machine_memory() -> DeviceMemory:
    try:
        import psutil
    except ImportError:  # the engine alone needs torch and numpy only
        page = os.sysconf("SC_PAGE_SIZE")
        return DeviceMemory(page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))
    memory = psutil.virtual_memory()
    return DeviceMemory(memory.total, memory.available)


def within_limits(memory: DeviceMemory, root: Path) -> DeviceMemory:
    """Return what limits leave of *memory*; below *root* are ``proc`` and ``sys``."""
    total, free = memory.total_bytes, memory.free_bytes
    for limit, used in (*_group_limits(root), *_process_limits(root)):
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return DeviceMemory(total, free)


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of this process's control groups; each counts all that run in it and in those below it."""
    for kind, folder in _groups(root):
        limit_names, used_name, reclaimable = GROUP_FILES[kind]
        try:
            rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            stat = {name: int(size) for name, size in rows}
            used = int((folder / used_name).read_text()) - sum(stat.get(name, 0) for name in reclaimable)
            texts = [(folder / name).read_text().strip() for name in limit_names]
        except (OSError, ValueError):  # the topmost group has no limits, and others may not be looked into
            continue
        yield from ((int(text), max(used, 0)) for text in texts if text != "max")


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield type and folder of the control groups of memory: the process's own, and those around it as far as seen."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return
    paths: dict[str, PurePosixPath] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not controllers:
            paths["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in mounts:
        place, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        top, mounted = place.split(" ")[3:5]
        # A container may see its own group alone, under the name that it has outside, or none that it knows of.
        known = paths[kind].is_relative_to(top) and ".." not in paths[kind].parts
        below = paths[kind].relative_to(top) if known else PurePosixPath()
        for part in (below, *below.parents):
            yield kind, root / mounted.lstrip("/") / part


def _process_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of this process's address space and data (``ulimit -v``, ``ulimit -d``)."""
    try:
        import resource

        pages = (root / "proc/self/statm").read_text().split()
    except (ImportError, OSError):  # not on Linux
        return
    for kind, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit, int(used) * resource.getpagesize()
