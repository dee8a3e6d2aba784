"""Where and on what a run was made."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARIES = ("aiokafka", "faust-streaming", "msgspec", "numpy", "river", "torch", "transformers")
LIBRARIES += ("vowpalwabbit",)


def machine() -> dict[str, str]:
    """What a reader must know to compare figures; read before the run."""
    return {
        "machine": f"{_cpu()}, {_cores()} cores, {_memory()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.release()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "threads": ", ".join(_threads()) or "as the libraries choose",
        "commit": _commit(),
        "load before": ", ".join(f"{one:.2f}" for one in os.getloadavg()),
    }


def disturbed() -> bool:
    """Whether others use this machine so much that absolute figures mean little."""
    return os.getloadavg()[0] > 0.3 * _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 2**30:.0f} GiB"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _threads() -> list[str]:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return [f"{name}={os.environ[name]}" for name in names if name in os.environ]


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except OSError:
        return "unknown"
