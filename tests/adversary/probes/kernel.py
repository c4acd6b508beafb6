"""Attacks on the kernel: mounts, namespaces, programs, settings, devices, another user or root folder."""

from adversary.arenas import Arena
from adversary.probing import Topic, any_done

probe = Topic("the kernel")


@probe
async def mounting(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            os.makedirs("m", exist_ok=True)
            done = _succeeds(_libc.mount, b"tmpfs", b"m", b"tmpfs", 0, None)
            _libc.umount2(b"m", 2)
            return done
        """,
    )


@probe
async def namespaces_of_its_own(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            return [flag for flag in (0x10000000, 0x20000, 0x40000000) if _succeeds(_libc.unshare, flag)]
        """,
    )


@probe
async def programs_in_the_kernel(arena: Arena) -> bool:
    """bpf, perf events, userfaultfd, io_uring."""
    return await any_done(
        arena,
        """
        def attack(facts):
            attributes = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1).ljust(128, b"\\0"), 128)
            event = ctypes.create_string_buffer(struct.pack("II", 1, 112).ljust(112, b"\\0"), 112)
            tried = {"bpf": (321, 0, attributes, 128), "userfaultfd": (323, 1), "io_uring": (425, 4, attributes),
                     "perf": (298, event, 0, -1, -1, 0)}
            return [name for name, call in tried.items() if _succeeds(_libc.syscall, *call)]
        """,
    )


@probe
async def system_settings(arena: Arena) -> bool:
    """Writes a setting's own value back: what can write can change."""
    return await any_done(
        arena,
        """
        def attack(facts):
            done = []
            for name in ("sys/kernel/domainname", "sys/vm/overcommit_memory", "self/oom_score_adj"):
                path = "/proc/" + name
                value = _read(path)
                try:
                    with open(path, "wb", buffering=0) as file:
                        file.write(value)
                    done.append(path)
                except OSError:
                    continue
            return done
        """,
    )


@probe
async def devices(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            try:
                os.mknod("memory", 0o20600, os.makedev(1, 1))
                return True
            except OSError:
                names = ("mem", "kmsg", "vda", "ptmx", "zero")
                return [name for name in names if _read(f"/dev/{name}", 1)]
        """,
    )


@probe
async def other_programs(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            if os.fork() == 0:
                os.execv("/bin/sh", ["sh", "-c", "exit 7"])
            return os.waitstatus_to_exitcode(os.wait()[1]) == 7
        """,
    )


@probe
async def another_user(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            before = os.getuid()
            for user in (0, 1, 12345):
                if user != before and _succeeds(_libc.setresuid, user, user, user):
                    break
            else:
                _libc.unshare(0x10000000)  # in a user namespace of its own it is nobody at first
            return os.getuid() != before
        """,
    )


@probe
async def another_root_folder(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            os.makedirs("r", exist_ok=True)
            _libc.unshare(0x10000000)
            return _succeeds(_libc.chroot, b"r")
        """,
    )
