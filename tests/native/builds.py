"""Build and run the check of the core (check.cpp) for other compilers, machines and sanitizers.

    python tests/native/builds.py emulate     # compilers and emulated machines; all hashes must be the same
    python tests/native/builds.py sanitize    # AddressSanitizer with UndefinedBehaviorSanitizer, ThreadSanitizer

Needs cmake and ninja, and for each run what it names: g++, clang++, aarch64-linux-gnu-g++, qemu-x86_64, qemu-aarch64
(on Debian: g++ clang g++-aarch64-linux-gnu qemu-user). A run whose tools are missing is left out and named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "check"


@dataclass(frozen=True)
class Build:
    """One build of the check program: its folder's name, its compiler, and what cmake is told."""

    name: str
    compiler: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run of a build. `emulator` comes before the program; `arguments` are the program's."""

    name: str
    build: Build
    emulator: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def missing(self) -> list[str]:
        """The tools that are not on this machine."""
        tools = ["cmake", "ninja", self.build.compiler, *self.emulator[:1]]
        if "--target=" in " ".join(self.build.options):
            tools.append("aarch64-linux-gnu-g++")  # clang takes its libraries
        return [tool for tool in tools if shutil.which(tool) is None]


ARM = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
TARGET = ("-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu", "-DCMAKE_CXX_FLAGS=--target=aarch64-linux-gnu")
GCC = Build("gcc", "g++")
CLANG = Build("clang", "clang++")
ARM_GCC = Build("arm-gcc", "aarch64-linux-gnu-g++", ARM)
ARM_CLANG = Build("arm-clang", "clang++", ARM + TARGET)
ADDRESS = Build("address", "g++", ("-DGPTWO_SANITIZE=address,undefined",))
THREAD = Build("thread", "g++", ("-DGPTWO_SANITIZE=thread",))

QEMU_ARM = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
BRIEF = ("--brief", "--threads", "2")
EMULATED = (*BRIEF, "--no-fork")  # qemu itself fails when a process with threads forks
NATIVE = Run("x86-64, gcc", GCC)
EMULATE = (
    NATIVE,
    Run("x86-64, clang", CLANG, arguments=("--tiers", "portable,avx2", "--threads", "2")),
    # A machine without AVX: the program must not hold such instructions outside of the tiers that need them.
    Run("x86-64 without AVX, qemu", GCC, ("qemu-x86_64", "-cpu", "Nehalem"), ("--tiers", "portable", *EMULATED)),
    Run("x86-64 with AVX2, qemu", GCC, ("qemu-x86_64", "-cpu", "max"), ("--tiers", "avx2", *EMULATED)),
    Run("Arm, gcc, qemu", ARM_GCC, QEMU_ARM, ("--tiers", "portable", *EMULATED)),
    Run("Arm, clang, qemu", ARM_CLANG, QEMU_ARM, ("--tiers", "portable", *EMULATED)),
)
SMALL = ("--shapes", "odd,narrow,blocks")
SANITIZE = (
    Run("AddressSanitizer, UndefinedBehaviorSanitizer", ADDRESS, arguments=("--tiers", "avx2", "--threads", "1,3")),
    Run("the same, other tiers", ADDRESS, arguments=("--tiers", "portable,avx512vnni-emulated", *BRIEF, *SMALL)),
    Run(
        "ThreadSanitizer",
        THREAD,
        # Addresses laid out at random can lie where this sanitizer keeps its own.
        ("setarch", "-R"),
        # It cannot follow a process that forks while it has threads.
        ("--tiers", "avx2", "--threads", "1,2,4", "--no-fork", *SMALL),
        (("TSAN_OPTIONS", "halt_on_error=1"),),
    ),
)


class CheckError(Exception):
    """A build or a run that failed; the message is its output."""


def output_of(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, str]:
    """What a command writes to its two streams. Raises CheckError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise CheckError(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        )
    return done.stdout, done.stderr


def built(build: Build) -> Path:
    """The check program of a build, made or brought up to date."""
    folder = FOLDER / build.name
    if not (folder / "build.ninja").exists():  # which configures itself again when CMakeLists.txt has changed
        compiler = f"-DCMAKE_CXX_COMPILER={shutil.which(build.compiler)}"
        configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", compiler, *build.options]
        output_of([*configure, "-DGPTWO_MODULE=OFF", "-DGPTWO_CHECK=ON"])
    output_of(["cmake", "--build", str(folder), "--parallel", str(len(os.sched_getaffinity(0)))])
    return folder / "gptwo_check"


def hashes(run: Run) -> dict[str, str]:
    """Build and run: the hash of the logits for each model, format and cache. Raises CheckError."""
    program = built(run.build)
    stdout, stderr = output_of([*run.emulator, str(program), *run.arguments], os.environ | dict(run.environment))
    if "all the same" not in stderr:
        raise CheckError(f"{run.name} ended early\n{stderr}")
    return dict(line.rsplit(maxsplit=1) for line in stdout.splitlines())


def differences(expected: dict[str, str], got: dict[str, str]) -> list[str]:
    """The models whose hashes are not the same in both; a model that only the first has does not count."""
    return [name for name, value in got.items() if expected.get(name) != value]


def main(words: list[str]) -> int:
    """Run what is named, and say how it went; 1 if anything failed."""
    known = {"emulate": EMULATE, "sanitize": SANITIZE}
    if len(words) != 1 or words[0] not in known:
        print(__doc__, file=sys.stderr)
        return 2
    failed, expected = False, None
    for run in known[words[0]]:
        if missing := run.missing():
            print(f"{run.name}: left out, for {', '.join(missing)} is not on this machine", flush=True)
            continue
        try:
            got = hashes(run)
        except CheckError as error:
            print(f"{run.name}: FAILED\n{error}", flush=True)
            failed = True
            continue
        expected = expected or got
        wrong = differences(expected, got)
        print(f"{run.name}: {'OTHER BITS in ' + ', '.join(wrong) if wrong else f'{len(got)} hashes, ok'}", flush=True)
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
