"""The jail: an interpreter of its own that encloses itself and then runs programs one after another, each in a cell.

`zoo.evals.sandbox` starts it and describes what holds. Standard library only, one thread, no state of the caller: it gets no
environment and no descriptor but its control socket, and never reads a program or a test itself.

The walls, outside in: the jail leaves the namespaces of mounts, network, IPC and host name, and makes the standard library of
this Python, read-only, its whole world. A ward process per program leaves the namespaces of users, processes and mounts once
more, mounts the one writable folder (in memory, of limited size), and forks the inmate, who sets his limits, gives up all rights,
puts on the filter of system calls, and only then reads the program. The ward ends him, and with him whatever he started.
"""

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time

from zoo.evals import kernel, trial

PLACE = "/tmp"  # of the new world while it is built, and of the writable folder in it
NOBODY = 65534
KILLED = '{"code": -9, "late": false, "stopped": false, "seconds": 0}'  # what a ward cannot report of himself


def enclose() -> tuple[int, int, int]:
    """Leave the namespaces of the caller and make the standard library the whole world, read-only.

    Returns the folder /proc of outside, open, and the user and group of programs as they are called in this user namespace.
    """
    user, group = os.geteuid(), os.getegid()
    walls = kernel.NEW_NS | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if user:
            raise PermissionError
        kernel.unshare(walls)  # the superuser needs no namespace of users, and may read what only he may
        place = (proc, NOBODY, NOBODY) if mapped(NOBODY) else (proc, 0, 0)
    except PermissionError:
        if user == 0:  # the superuser of a container who may not do it, or not as himself: nobody counts his processes
            user, group = NOBODY, NOBODY
            become(user, group)
        kernel.unshare(walls | kernel.NEW_USER)
        kernel.map_user(proc, 0, user, group)
        place = (proc, 0, 0)
    kernel.mount(None, "/", None, kernel.REC | kernel.PRIVATE)
    folders = list(dict.fromkeys(p for p in sys.path if os.path.isdir(p) and os.path.isabs(p)))
    folders = [p for p in folders if not any(p.startswith(other + "/") for other in folders)]  # lib-dynload lies inside
    sources = [os.open(folder, os.O_PATH) for folder in folders]
    os.umask(0o022)
    kernel.mount("tmpfs", PLACE, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=755,size=1m")
    os.mkdir(PLACE + PLACE)
    for folder, source in zip(folders, sources, strict=True):
        os.makedirs(PLACE + folder, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{source}", PLACE + folder, None, kernel.BIND | kernel.REC)
        for packages in ("site-packages", "dist-packages"):  # other people's, with test answers among them
            if os.path.isdir(hidden := f"{PLACE}{folder}/{packages}"):
                kernel.mount("tmpfs", hidden, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=755,size=4k")
        os.close(source)
    kernel.read_only(PLACE)
    kernel.enter_root(PLACE)
    return place


def mapped(user: int) -> bool:
    """Whether there is such a user in this user namespace."""
    with open("/proc/self/uid_map") as file:
        return any(int(first) <= user < int(first) + int(count) for first, _, count in map(str.split, file))


def become(user: int, group: int) -> None:
    """Give up being the superuser, whose processes are not counted and from whom his files are not safe."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to the superuser


def confine(limits: dict, proc: int, user: int, group: int) -> None:
    """The ward's part: a user namespace without a superuser outside of it, new processes, and the writable folder."""
    if user:
        become(user, group)
    score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    os.write(score, b"1000")  # where memory runs out, programs go first
    os.close(score)
    kernel.unshare(kernel.NEW_USER | kernel.NEW_NS | kernel.NEW_PID | kernel.NEW_IPC)
    kernel.map_user(proc, 1000, user, group)
    size = f"mode=700,size={limits['file_mib']}m,nr_inodes=1000"
    kernel.mount("tmpfs", PLACE, "tmpfs", kernel.NOSUID | kernel.NODEV, size)
    os.chdir(PLACE)


def inmate(role: str, limits: dict, fds: list[int]) -> None:
    """The process that meets the program (or its test): limits first, then rights, then the filter."""
    os.setsid()
    for target, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]):
        os.dup2(source, target)
    os.closerange(len(fds), 1 << 16)
    whole = 1 << 20
    for name, value in (
        ("AS", limits["memory_mib"] * whole),
        ("FSIZE", limits["file_mib"] * whole),
        ("CPU", limits["seconds"]),
        ("NPROC", limits["processes"] + 1),  # the ward is the same user
        ("NOFILE", 64),
        ("CORE", 0),
        ("MSGQUEUE", 0),
        ("MEMLOCK", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.forbid_calls()
    {"program": trial.program, "functions": trial.functions, "test": trial.test}[role]()


def ward(role: str, limits: dict, fds: list[int], everyone: list[int], place: tuple, stop: int, report: int) -> None:
    """Run one inmate until he ends, his time is up, or nobody waits any more (`stop` hangs up); report how it ended."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    confine(limits, *place)
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            inmate(role, limits, fds)
        finally:
            os._exit(3)
    for fd in everyone:  # else the two sides of a line would never see each other go
        os.close(fd)
    poll = select.poll()
    handle = os.pidfd_open(pid)
    poll.register(handle, select.POLLIN)
    poll.register(stop, 0)  # a hang-up is always told
    late = not (ready := poll.poll(limits["clock"] * 1000))
    if late or handle not in dict(ready):
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)  # returns when all his processes are gone
    spent = used.ru_utime + used.ru_stime
    end = {
        "code": os.waitstatus_to_exitcode(status),
        "late": late or (os.WIFSIGNALED(status) and spent > 0.9 * limits["seconds"]),
        "stopped": not late and handle not in dict(ready),
        "seconds": round(time.monotonic() - began, 3),
    }
    os.write(report, json.dumps(end).encode())


def cell(role: str, limits: dict, fds: list[int], everyone: list[int], place: tuple) -> tuple[int, int, int]:
    """Start a ward: his pid, the descriptor whose closing stops him, and the one that brings his report."""
    watched, stop = os.pipe()
    report, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(stop)
            os.close(report)
            ward(role, limits, fds, everyone, place, watched, answer)
        except OSError as error:
            os.write(answer, json.dumps({"broken": str(error)}).encode())
        finally:
            os._exit(0)
    os.close(watched)
    os.close(answer)
    return pid, stop, report


def await_reports(control: socket.socket, cells: dict[str, tuple[int, int, int]]) -> dict[str, dict]:
    """Reports of all cells; the first that ends ends the others, but a test may finish after its program has."""
    ends = {}
    while waiting := {report: name for name, (_, _, report) in cells.items() if name not in ends}:
        ready, _, _ = select.select([control, *waiting], [], [])
        if control in ready:  # the caller is gone: so are the wards, when this process ends
            os._exit(0)
        for report in ready:
            ends[waiting[report]] = json.loads(os.read(report, 4096) or KILLED)
            if waiting[report] == "test" or "broken" in ends[waiting[report]]:
                for name, (_, stop, _) in cells.items():
                    if name not in ends:
                        os.close(stop)
                        cells[name] = (cells[name][0], -1, cells[name][2])
    for pid, stop, report in cells.values():
        os.waitpid(pid, 0)
        os.close(report)
        if stop >= 0:
            os.close(stop)
    return ends


def main(control: int) -> None:
    """Serve jobs from the control socket until it closes: {"cells": {role: number of descriptors}, "limits"}, with them."""
    channel = socket.socket(fileno=control)
    place = None
    try:
        kernel.machine()
        trial.preload()
        place = enclose()
        channel.sendall(b'{"ready": true}')
    except (OSError, AttributeError) as error:
        channel.sendall(json.dumps({"broken": str(error)}).encode())
        return
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 16, 32)
        if not message:
            return
        job = json.loads(message)
        left, cells = list(fds), {}
        for role, count in job["cells"].items():
            cells[role] = cell(role, job["limits"], [left.pop(0) for _ in range(count)], fds, place)
        for fd in fds:
            os.close(fd)
        channel.sendall(json.dumps(await_reports(channel, cells)).encode())
