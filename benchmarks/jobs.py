"""Processes of a sweep: each run is one, `count` of them side by side, with one view of how far the whole sweep is."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.spec import ROOT

_STEP = re.compile(r"^step (\d+)/(\d+) ")
_ERROR = re.compile(r"^((\w+\.)*\w*(Error|Exception)(:|$)|zoo: |error: )")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r(?=[^\n]))")  # a lone \r rewrites the line
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
    date: str = ""  # UTC, of its start
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.code is not None and self.code != 0


def work(jobs: list[Job], count: int, ended: Callable[[Job], None], environment: Callable[[int], dict[str, str]]) -> None:
    """Run the jobs, `count` at a time, in order as far as their needs allow; `ended(job)` is called after each.

    environment(place) is added to that of the process in place 0 … count - 1. A job whose need failed is not started: its code is
    1 and its error says which need. Whatever ends this function (Ctrl-C, a signal) ends the processes first.
    """
    waiting, running = list(jobs), list[_Process]()
    view = View(jobs, count)
    try:
        while waiting or running:
            for job in [job for job in waiting if any(need.failed for need in job.needs)]:
                lost = next(need for need in job.needs if need.failed)
                waiting.remove(job)
                job.code, job.error = 1, f"it needs {lost.name}, which failed: {lost.error}"
                view.ended(job)
                ended(job)
            for job in [job for job in waiting if all(need.code == 0 for need in job.needs)][: count - len(running)]:
                waiting.remove(job)
                view.started(job)
                place = min(set(range(count)) - {other.place for other in running})
                running.append(_Process(job, place, environment(place)))
            time.sleep(0.2)
            for process in list(running):
                over = process.process.poll() is not None  # asked before the log is read: then nothing of it is missed
                for text in process.news(over):
                    view.line(process.job, text)
                if over:
                    running.remove(process)
                    process.end()
                    view.ended(process.job)
                    ended(process.job)
            view.tick()
    finally:
        for process in running:
            process.end()


class _Process:
    """A job that runs. It writes into its log, which is read along: what becomes of the reader is nothing to it."""

    def __init__(self, job: Job, place: int, environment: dict[str, str]):
        self.job, self.place, self.lines, self.last = job, place, Lines(), ""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self.process = subprocess.Popen(
                job.command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,  # Ctrl-C reaches the sweep only, which then ends its runs
            )  # fmt: skip
        self.reader = job.log.open("rb")
        job.started, job.date = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="microseconds")

    def news(self, over: bool) -> list[str]:
        """What the log has gained, as lines; at the end the last one too."""
        job, new = self.job, self.lines.feed(self.reader.read() + (b"\n" if over else b""))
        for text in new:
            self.last, job.error = text, text if _ERROR.match(text) else job.error
            if step := _STEP.match(text):
                job.done = int(step[1]) / max(1, int(step[2]))
        return new

    def end(self) -> None:
        """Kill what is left of the process and its children, and say on the job how it went."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.reader.close()
        if code < 0:
            out_of_memory = " (what the kernel sends when memory runs out)" if code == -signal.SIGKILL else ""
            self.job.error = f"killed by signal {-code}{out_of_memory}"
        elif code and not self.job.error:
            self.job.error = self.last or f"ended with code {code}"
        self.job.code, self.job.seconds = code, time.monotonic() - self.job.started


class Lines:
    """Lines of a stream without colours; of a progress bar that rewrites its line, one each `every` seconds."""

    def __init__(self, every: float = 5.0):
        self.every, self.pending, self.shown = every, b"", -float("inf")

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete."""
        self.pending += data
        whole, found = 0, []
        for match in _LINE.finditer(self.pending):
            whole = match.end()
            text = _ESCAPE.sub("", match[1].decode(errors="replace")).rstrip()
            if match[2] == b"\r":
                if time.monotonic() - self.shown < self.every:
                    continue
                self.shown = time.monotonic()
            found += [text] if text else []
        self.pending = self.pending[whole:]
        return found


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
