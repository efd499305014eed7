"""What containers, jobs and shells allow of the host's memory, as the kernel's files say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from napari_tessera.engine.devices.host_memory import within_limits
from napari_tessera.engine.devices.protocol import DeviceMemory

GIB = 2**30
MACHINE = DeviceMemory(64 * GIB, 60 * GIB)
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "33 31 0:32 {top} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
    "34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
)


def v2(limit: str, used: int, *, high: str = "max", stat: dict[str, int] | None = None) -> dict[str, str]:
    rows = "".join(f"{name} {size}\n" for name, size in ({"anon": 5, "active_file": 0} | (stat or {})).items())
    return {"memory.max": f"{limit}\n", "memory.high": f"{high}\n", "memory.current": f"{used}\n", "memory.stat": rows}


def v1(limit: int, used: int, *, file: int = 0) -> dict[str, str]:
    stat = f"cache {file}\ntotal_active_file 0\ntotal_inactive_file {file}\n"
    return {"memory.limit_in_bytes": str(limit), "memory.usage_in_bytes": str(used), "memory.stat": stat}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class Tree:
    """A root folder with what this process sees of its control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, own: str, mounts: str, groups: dict[str, dict[str, str]]) -> DeviceMemory:
        """Return the memory that is left by *groups*, files by folder below ``/sys/fs/cgroup``."""
        proc = self.root / "proc/self"
        proc.mkdir(parents=True)
        (proc / "cgroup").write_text(own)
        (proc / "mountinfo").write_text("23 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts + "\n")
        for folder, files in groups.items():
            path = self.root / "sys/fs/cgroup" / folder
            path.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (path / name).write_text(text)
        return within_limits(MACHINE, self.root)


def test_a_container_that_sees_its_own_group_as_the_topmost(tree: Tree) -> None:
    assert tree.write("0::/\n", V2, {"": v2(str(8 * GIB), 3 * GIB)}) == DeviceMemory(8 * GIB, 5 * GIB)


def test_pages_of_files_do_not_count_as_used(tree: Tree) -> None:
    stat = {"active_file": GIB, "inactive_file": GIB // 2, "slab_reclaimable": GIB // 2}
    found = tree.write("0::/\n", V2, {"": v2(str(8 * GIB), 7 * GIB, stat=stat)})
    assert found == DeviceMemory(8 * GIB, 3 * GIB)


def test_the_tightest_of_nested_groups_counts_and_so_does_what_others_in_it_use(tree: Tree) -> None:
    own = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
    job = "system.slice/slurmstepd.scope/job_7"
    groups = {
        f"{job}/step_0/user/task_0": v2("max", GIB),
        f"{job}/step_0": v2(str(40 * GIB), 20 * GIB),
        job: v2(str(32 * GIB), 30 * GIB),
        "system.slice": v2("max", 33 * GIB),
    }
    assert tree.write(own, V2, groups) == DeviceMemory(32 * GIB, 2 * GIB)


def test_where_a_group_is_slowed_down_is_a_limit(tree: Tree) -> None:
    found = tree.write("0::/a\n", V2, {"a": v2(str(16 * GIB), GIB, high=str(4 * GIB))})
    assert found == DeviceMemory(4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("own", "top", "folder"),
    [
        ("/docker/4b1", "/docker/4b1", ""),  # seen from inside, by the name that it has outside
        ("/docker/4b1", "/", "docker/4b1"),
        ("/", "/", ""),
        ("/../../other", "/", ""),
        ("/slurm/uid_7/job_9/step_2", "/", "slurm/uid_7/job_9"),
    ],
)
def test_the_first_version_of_control_groups(tree: Tree, own: str, top: str, folder: str) -> None:
    lines = f"5:memory:{own}\n4:cpu,cpuacct:/elsewhere\n0::/\n"
    found = tree.write(lines, V1.format(top=top), {f"memory/{folder}": v1(8 * GIB, 6 * GIB, file=2 * GIB)})
    assert found == DeviceMemory(8 * GIB, 4 * GIB)


def test_no_limit_leaves_the_machine_as_it_is(tree: Tree) -> None:
    lines = "5:memory:/user.slice\n0::/\n"
    groups = {"memory": v1(2**63 - 4096, 50 * GIB), "memory/user.slice": v1(2**63 - 4096, GIB), "unified": {}}
    assert tree.write(lines, V1.format(top="/"), groups) == MACHINE


def test_more_in_use_than_is_allowed_leaves_nothing(tree: Tree) -> None:
    assert tree.write("0::/\n", V2, {"": v2(str(GIB), 2 * GIB)}) == DeviceMemory(GIB, 0)


def test_elsewhere_than_on_linux(tmp_path: Path) -> None:
    assert within_limits(MACHINE, tmp_path) == MACHINE


@pytest.mark.skipif(sys.platform != "linux", reason="what is used of these limits is told on Linux alone")
@pytest.mark.parametrize("option", ["-v", "-d"])
def test_limits_of_the_shell(option: str) -> None:
    code = (
        "from napari_tessera.engine.devices.host_memory import host_memory as m; print(m().total_bytes, m().free_bytes)"
    )
    limit = 2 * GIB
    command = ["bash", "-c", f'ulimit {option} {limit // 1024}; exec "$@"', "-", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, free = map(int, done.stdout.split())
    assert total == limit
    assert limit // 2 < free < limit, "Python and numpy have taken some of it"
