#!/usr/bin/env python3
"""Install p5dist into .venv beside this file: safe to run again, continues after an interruption.

    python3 install.py [--wheels auto|cpu|gpu]

It needs nothing but Python 3.10 to 3.13. A stamp is written last; while it fits, nothing is done.
(Any Python 3.6 or later can read this file, so that an old one is told what is wrong.)
"""

import argparse
import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "p5dist-installed"
VERSION = platform.python_version()
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # torch without CUDA; PyPI's carries it


def main() -> None:
    """Bring .venv up to date, or do nothing where it is."""
    parser = argparse.ArgumentParser(description="Install p5dist into .venv beside this file.")
    parser.add_argument("--wheels", choices=("auto", "cpu", "gpu"), default="auto")
    wheels = parser.parse_args().wheels
    check_machine()
    if wheels == "auto":
        wheels = "gpu" if has_nvidia_driver() else "cpu"
    if STAMP.exists():
        if STAMP.read_text() == stamp(wheels):
            return
        STAMP.unlink()
    start = time.time()
    say(f"p5dist: installing the {wheels} set for Python {VERSION}; a first time takes minutes")
    make_venv()
    forget_half_installed()
    install(wheels)
    say("- import what was installed")
    run(PYTHON, "-c", "import fbgemm_gpu, torchrec, ray, p5dist")
    STAMP.write_text(stamp(wheels))
    say(f"p5dist: installed in {time.time() - start:.0f} s")


def check_machine() -> None:
    """Stop where no wheel of FBGEMM fits."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        names = ("python3.13", "python3.12", "python3.11", "python3.10")
        found = [name for name in names if shutil.which(name)]
        fix = f"name another: make PYTHON={found[0]} …" if found else "install one of these"
        stop(f"this is Python {VERSION}; p5dist needs 3.10 to 3.13", fix)
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        stop(
            f"this is {sys.platform} {machine}; FBGEMM has wheels for Linux x86-64 and aarch64",
            "use a Linux machine or container",
        )


def has_nvidia_driver() -> bool:
    """Whether the CUDA build of FBGEMM can load: it links to the driver's libnvidia-ml."""
    if platform.machine() != "x86_64":
        return False  # there is no such build
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def stamp(wheels: str) -> str:
    """What .venv depends on; its place too, since scripts in it name their interpreter."""
    digest = hashlib.sha256(PROJECT.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    return f"{digest} {wheels} {VERSION} {VENV}\n"


def make_venv() -> None:
    """Make .venv anew unless it is a whole one of this Python."""
    if PYTHON.exists() and list(VENV.glob("lib/python*/site-packages/pip-*.dist-info/INSTALLER")):
        probe = [str(PYTHON), "-c", "import platform; print(platform.python_version())"]
        done = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0 and done.stdout.decode().strip() == VERSION:
            return
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        stop(
            "this Python cannot make virtual environments: its module ensurepip is missing",
            f"install it (Debian and Ubuntu: apt install {package}), then run this again",
        )
    say(f"- make the virtual environment {VENV}")
    run(sys.executable, "-m", "venv", "--clear", VENV)


def forget_half_installed() -> None:
    """Make pip install again what an interruption left half-written.

    pip takes a package as installed once its .dist-info is there, but writes the file INSTALLER
    into it only after all files of the package.
    """
    for site in VENV.glob("lib/python*/site-packages"):
        infos = [info for info in site.glob("*.dist-info") if not (info / "INSTALLER").exists()]
        for folder in infos + list(site.glob("~*")):
            say(f"- remove {folder.name}, half installed")
            shutil.rmtree(str(folder))


def install(wheels: str) -> None:
    """Install the CPU or the GPU set with pip."""
    wrong = {"cpu": "fbgemm_gpu", "gpu": "fbgemm_gpu_cpu"}[wheels]
    if list(VENV.glob(f"lib/python*/site-packages/{wrong}-*.dist-info")):
        say("- remove the FBGEMM of the other set: the two overwrite each other")
        run(PYTHON, "-m", "pip", "uninstall", "--quiet", "--yes", "fbgemm-gpu", "fbgemm-gpu-cpu")
    say("- install PyTorch")
    pip_install(pin("torch"), *(cpu_index() if wheels == "cpu" else ()))
    say("- install p5dist and what it needs")
    pip_install("--editable", f".[{wheels},dev]")
    if wheels == "cpu":
        say("- install TorchRec by itself: its dependencies name the CUDA build of FBGEMM")
        pip_install("--no-deps", pin("torchrec"))


def cpu_index() -> tuple:
    """pip options for PyTorch's own index of CPU builds, if it answers."""
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=5).close()
    except OSError:
        say(f"  {CPU_INDEX} does not answer: taking torch as pip finds it")
        say("  (on PyPI that is the CUDA build of several GB; it works without a GPU as well)")
        return ()
    return ("--extra-index-url", CPU_INDEX)


def pin(name: str) -> str:
    """The requirement on ``name`` as pyproject.toml has it, for example torch==2.13.0."""
    return re.findall(f'"({name}==[^"]+)"', PROJECT.read_text())[0]


def pip_install(*args: str) -> None:
    """Run pip install, showing errors only."""
    run(PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *args)


def run(*command: object) -> None:
    """Run a command in the project's folder; stop if it fails."""
    words = [str(word) for word in command]
    code = subprocess.call(words, cwd=str(ROOT))
    if code != 0:
        stop(
            f"this command failed with exit code {code}:\n  {' '.join(words)}",
            "see its message above; what is installed stays, so running this again continues",
        )


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def stop(what: str, fix: str) -> None:
    """End with exit code 1, saying what is wrong and what to do."""
    sys.exit(f"p5dist: {what}\n  fix: {fix}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted", "run the same command again: it continues")
