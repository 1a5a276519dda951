"""Processes of a sweep: each run is one, `count` of them side by side, with one view of how far the whole sweep is."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.spec import ROOT

_STEP = re.compile(r"^step (\d+)/(\d+) ")
_ERROR = re.compile(r"^((\w+\.)*\w*(Error|Exception)(:|$)|zoo: |error: )")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(eq=False)
class Job:
    """A process to be: its words, its log, what it waits for. Once it has ended: its exit code, and the line that says why."""

    name: str
    command: list[str]
    log: Path
    needs: list["Job"] = field(default_factory=list)
    weight: float = 1.0  # how long it takes beside the others
    code: int | None = None
    error: str = ""
    done: float = 0.0  # share of its steps
    started: float = 0.0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.code is not None and self.code != 0


def work(jobs: list[Job], count: int, ended: Callable[[Job], None], environment: Callable[[int], dict[str, str]]) -> None:
    """Run the jobs, `count` at a time, in order as far as their needs allow; `ended(job)` is called after each.

    environment(place) is added to that of the process in place 0 … count - 1. A job whose need failed is not started: its code is
    1 and its error says which need. Whatever ends this function (Ctrl-C, a signal) ends the processes first.
    """
    waiting, places = list(jobs), list(range(count))
    running: dict[Job, tuple[subprocess.Popen, int]] = {}
    view = View(jobs, count)
    free = threading.Condition()
    try:
        while waiting or running:
            for job in [job for job in running if job.code is not None]:
                running.pop(job)
                view.ended(job)
                ended(job)
            for job in list(waiting):
                lost = [need for need in job.needs if need.failed]
                if lost:
                    waiting.remove(job)
                    job.code, job.error = 1, f"it needs {lost[0].name}, which failed: {lost[0].error}"
                    view.ended(job)
                    ended(job)
                elif len(running) < count and all(need.code == 0 for need in job.needs):
                    waiting.remove(job)
                    place = min(set(places) - {place for _, place in running.values()})
                    running[job] = (_start(job, environment(place), free, view), place)
            with free:
                if not any(job.code is not None for job in running):
                    free.wait(timeout=1.0)
            view.tick()
    finally:
        for process, _ in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _start(job: Job, environment: dict[str, str], free: threading.Condition, view: "View") -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        job.command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,  # Ctrl-C reaches this process only, which then ends its children
    )  # fmt: skip
    job.started = time.monotonic()
    view.started(job)

    def follow() -> None:
        with job.log.open("w", encoding="utf-8") as file:
            last = ""
            for text in _lines(iter(lambda: os.read(process.stdout.fileno(), 65536), b"")):  # type: ignore[union-attr]
                file.write(text + "\n")
                last, job.error = text, text if _ERROR.match(text) else job.error
                if step := _STEP.match(text):
                    job.done = int(step[1]) / max(1, int(step[2]))
                view.line(job, text)
        code = process.wait()
        if code < 0:
            out_of_memory = " (what the kernel sends when memory runs out)" if code == -signal.SIGKILL else ""
            job.error = f"killed by signal {-code}{out_of_memory}"
        elif code and not job.error:
            job.error = last or f"ended with code {code}"
        job.seconds = time.monotonic() - job.started
        with free:
            job.code = code
            free.notify()

    threading.Thread(target=follow, daemon=True).start()
    return process


def _lines(chunks: Iterable[bytes], every: float = 5.0) -> Iterable[str]:
    """Lines of a stream without colours; of a progress bar that rewrites its line, one each `every` seconds."""
    pending, shown = b"", -float("inf")
    for chunk in itertools.chain(chunks, [b"\n"]):
        *lines, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
        for line in lines:
            text = _ESCAPE.sub("", line.decode(errors="replace")).rstrip()
            if line.endswith(b"\r"):
                if time.monotonic() - shown < every:
                    continue
                shown = time.monotonic()
            if text:
                yield text


class View:
    """One job at a time: its lines, indented. Several: one line that tells how far each is, and one when a job ends."""

    def __init__(self, jobs: list[Job], count: int, every: float = 30.0):
        self.jobs, self.count, self.began = jobs, count, time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.every, self.told, self.width = 1.0 if self.terminal else every, time.monotonic(), 0

    def started(self, job: Job) -> None:
        if self.count == 1:
            place = self.jobs.index(job) + 1
            self._say(f"\n[{place}/{len(self.jobs)}] {job.name} ({clock(time.monotonic() - self.began)} elapsed{self._left()})")

    def line(self, job: Job, text: str) -> None:
        if self.count == 1:
            self._say(f"  | {text}")

    def ended(self, job: Job) -> None:
        word = f"failed: {job.error} (all it printed: {job.log.name} in {job.log.parent.name})" if job.failed else "done"
        if self.count > 1:
            self._say(f"{job.name}: {word} in {clock(job.seconds)}")
            self.told = 0.0
        elif job.failed:
            self._say(f"  failed: {job.error} (all it printed: {job.log})")

    def tick(self) -> None:
        """Say how far the sweep is, not more often than is useful."""
        if self.count == 1 or time.monotonic() - self.told < self.every:
            return
        self.told = time.monotonic()
        over = sum(job.code is not None for job in self.jobs)
        running = [f"{job.name} {job.done:.0%}" for job in self.jobs if job.started and job.code is None]
        if running:
            line = f"[{over}/{len(self.jobs)} done, {clock(self.told - self.began)} elapsed{self._left()}] " + " · ".join(running)
            self._say(line, again=True)

    def _left(self) -> str:
        left = remaining(self.jobs, self.count, time.monotonic())
        return "" if left is None else f", about {clock(left)} left"

    def _say(self, text: str, again: bool = False) -> None:
        if not self.terminal or self.count == 1:
            print(text, flush=True)
            return
        print("\r" + text.ljust(self.width), end="" if again else "\n", flush=True)
        self.width = len(text) if again else 0


def remaining(jobs: list[Job], count: int, now: float) -> float | None:
    """Seconds until all jobs are over, from what jobs of this sweep took for their weight; None before there is any."""
    known = [(job.seconds, job.weight) for job in jobs if job.code == 0]
    known += [((now - j.started) / j.done, j.weight) for j in jobs if j.code is None and j.started and j.done > 0.05]
    rate = sum(s for s, _ in known) / sum(w for _, w in known) if known else None
    left = []
    for job in jobs:
        if job.code is not None:
            continue
        if job.started and job.done > 0.05:
            left.append((now - job.started) * (1 - job.done) / job.done)
        elif rate is None:
            return None
        else:
            left.append(max(0.0, job.weight * rate - (now - job.started if job.started else 0.0)))
    return max(sum(left) / count, max(left, default=0.0))


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
