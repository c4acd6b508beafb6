"""The system calls that untrusted code may not make, as BPF programs that a worker installs with one `prctl`.

A deny list: Python needs hundreds of calls, and what is dangerous for siblings and for the host is known. Denied calls
fail with EPERM, so that a tool sees a PermissionError and not its death.
"""

import contextlib
import errno
import tempfile

_ESCAPE = """
    ptrace process_vm_readv process_vm_writev kcmp pidfd_open pidfd_getfd pidfd_send_signal process_madvise
    process_mrelease tkill rt_sigqueueinfo rt_tgsigqueueinfo setpriority ioprio_set sched_setscheduler sched_setparam
    sched_setattr sched_setaffinity migrate_pages move_pages setsid setpgid unshare setns mount umount2 mount_setattr
    move_mount fsopen fsmount fsconfig fspick open_tree pivot_root chroot open_by_handle_at name_to_handle_at bpf
    perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl kexec_load
    kexec_file_load init_module finit_module delete_module acct quotactl swapon swapoff reboot syslog personality
    fanotify_init lookup_dcookie nfsservctl vhangup iopl ioperm modify_ldt
"""  # tracing, other processes, namespaces, mounts, kernel surface
_REACH = """
    socket sendmsg sendmmsg shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semtimedop semctl mq_open
    mq_unlink memfd_create memfd_secret execve execveat mknod mknodat
"""  # the network, devices, files on their way to nobody, and memory or messages that outlive a process
_MODES = """
    chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat setxattr lsetxattr fsetxattr setxattrat removexattr
    lremovexattr fremovexattr removexattrat
"""  # modes (access lists too) keep the same user's sessions out of each other's folders
_TIMES = " utime utimes futimesat utimensat"  # of a library's file they would be a note to other sessions
_TMPFILE = 0o20000000  # of O_TMPFILE: a file that never had a name
_SHARED_MEMORY = 0x21  # MAP_SHARED and MAP_ANONYMOUS: sessions would share what their source mapped as it loaded
_THREAD = 0x00010000  # CLONE_THREAD
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def filters() -> tuple[bytes, bytes]:
    """(for a template, what a session adds to it): the template may still fork. A session is held by both.

    Raises ImportError or OSError where libseccomp is missing.
    """
    return _export(template=True), _export(template=False)


def _export(*, template: bool) -> bytes:
    import pyseccomp as seccomp

    denied = seccomp.ERRNO(errno.EPERM)
    program = seccomp.SyscallFilter(seccomp.ALLOW)
    with contextlib.suppress(OSError):  # before libseccomp 2.5 a list, which says the same
        program.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a tree: the kernel tries a program on every call it knows

    def deny(names: str, action: int = denied, *conditions: object) -> None:
        for name in names.split():
            try:
                program.add_rule(action, name, *conditions)
            except (OSError, ValueError):  # a call that this libseccomp or this machine does not have
                continue

    if template:
        deny(_ESCAPE + _REACH + _MODES + _TIMES)
        deny("clone3 openat2", seccomp.ERRNO(errno.ENOSYS))
        deny("mmap", denied, seccomp.Arg(3, seccomp.MASKED_EQ, _SHARED_MEMORY, _SHARED_MEMORY))
        for name, flags in (("open", 1), ("openat", 2)):
            unsupported = seccomp.ERRNO(errno.EOPNOTSUPP)
            deny(name, unsupported, seccomp.Arg(flags, seccomp.MASKED_EQ, _TMPFILE, _TMPFILE))
        deny("prlimit64", denied, seccomp.Arg(0, seccomp.NE, 0))
        deny("clone", denied, seccomp.Arg(0, seccomp.MASKED_EQ, _THREAD, _THREAD))
        for bit in range(32):
            if _NAMESPACES >> bit & 1:
                deny("clone", denied, seccomp.Arg(0, seccomp.MASKED_EQ, 1 << bit, 1 << bit))
        deny("kill tgkill")
    else:
        deny("fork vfork clone")
        for option in (_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE):
            deny("prctl", denied, seccomp.Arg(0, seccomp.EQ, option))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
