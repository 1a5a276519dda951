"""The Linux calls that a jail is made of: namespaces, mounts, capabilities and a filter of system calls, through ctypes.

Everything here changes the process that calls it, and for good. Standard library only: it runs in an interpreter of its own.
"""

import ctypes
import os
import platform
import struct

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NEW_ANYTHING = 0x7E020000  # every CLONE_NEW… flag that clone(2) takes
NOSUID, NODEV, BIND, REC, PRIVATE = 2, 4, 4096, 16384, 1 << 18
DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38

# What a Python program that computes something never asks for: (x86_64, aarch64).
FORBIDDEN = {
    "socket": (41, 198),  # also the kinds that no network namespace holds: vsock, netlink, AF_ALG
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279),  # memory that no limit of a process counts, as are the next four
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "semget": (64, 190),
    "io_uring_setup": (425, 425),  # would do what this filter forbids
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
}
CLONE, CLONE3, PRCTL, IOCTL = (56, 220), (435, 435), (157, 167), (16, 29)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the numbers; the kernel's name of the machine

_libc = ctypes.CDLL(None, use_errno=True)


def machine() -> tuple[int, int]:
    """Column of the tables above and AUDIT_ARCH of this machine. Raises OSError for one whose numbers are not known here."""
    if platform.machine() not in MACHINES or struct.calcsize("P") != 8:
        raise OSError(0, f"system call numbers of {platform.machine()} are not known here (x86_64 and aarch64 are)")
    return MACHINES[platform.machine()]


def _call(name: str, *arguments) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _bytes(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    """Leave the namespaces of the parent; a new pid namespace starts with the next child."""
    _call("unshare", flags)


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    _call("mount", _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(options))


def _number(number: int, *arguments) -> None:
    """A system call that libc has no function for."""
    if _libc.syscall(ctypes.c_long(number), *arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")


def read_only(path: str) -> None:
    """Make a mount and all mounts below it read-only, without devices and set-user-id files. Linux 5.12."""
    attributes = struct.pack("=QQQQ", 1 | 2 | 4, 0, 0, 0)
    try:
        _number(442, -100, os.fsencode(path), 0x8000, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)))
    except OSError as error:
        raise OSError(error.errno, f"mount_setattr: {os.strerror(error.errno)}, it needs Linux 5.12") from None


def enter_root(path: str) -> None:
    """Make a mount the root folder, and let go of the old one."""
    os.chdir(path)
    _number(FORBIDDEN["pivot_root"][machine()[0]], b".", b".")  # the old root now lies on top of the new one
    _call("umount2", b".", DETACH)
    os.chdir("/")


def prctl(option: int, *arguments: int) -> None:
    _call("prctl", option, *(ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]))


def map_user(proc: int, inside: int, user: int, group: int) -> None:
    """In a new user namespace: user and group of outside are called `inside` here. proc: the folder /proc, open."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {user} 1"), ("gid_map", f"{inside} {group} 1")):
        file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(file, text.encode())
        os.close(file)


def drop_capabilities() -> None:
    """Give up every right of the superuser of this user namespace, and any way back to one."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # the kernel knows no more
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _call("capset", ctypes.c_char_p(header), ctypes.c_char_p(nothing))


def forbid_calls() -> None:
    """A filter that ends the process at a call of FORBIDDEN (signal SIGSYS) and lets all others pass.

    New namespaces cannot be asked of clone; clone3, whose flags a filter cannot see, does not exist for the caller. Nor may one
    wish to outlive one's parent, or ask a socket that came from outside for the network there (SIOCGIFCONF and its like).
    """
    column, arch = machine()
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, no_such_call = 0x80000000, 0x7FFF0000, 0x00050000 | 38
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (answer, 0, 0, kill), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, kill)]  # the second set of numbers that x86_64 has
    for numbers in FORBIDDEN.values():
        code += [(equal, 0, 1, numbers[column]), (answer, 0, 0, kill)]
    code += [(equal, 0, 1, CLONE3[column]), (answer, 0, 0, no_such_call)]
    code += [(equal, 0, 4, PRCTL[column]), (load, 0, 0, 16), (equal, 0, 1, PR_SET_PDEATHSIG), (answer, 0, 0, kill)]
    code += [(answer, 0, 0, allow), (equal, 0, 5, IOCTL[column]), (load, 0, 0, 24), (at_least, 0, 2, 0x8900)]
    code += [(at_least, 1, 0, 0x8C00), (answer, 0, 0, kill), (answer, 0, 0, allow)]
    code += [(equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, NEW_ANYTHING), (answer, 0, 0, kill)]
    code += [(answer, 0, 0, allow)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(packed)))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))
