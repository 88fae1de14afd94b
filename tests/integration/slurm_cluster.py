"""A real Slurm on this machine: a controller and two nodes on the loopback device, for tests.

Each cluster has its own munge, ports, files and configuration: it neither needs nor disturbs an
installed cluster. The nodes claim 8 cores and 64 GB each. Their GPUs are only device files: Slurm
hands them out, but nothing can run on them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NODES = ("n1", "n2")
GPUS = 2  # of each node

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/socket,cred_expire=6
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
KillWait=3
ReturnToService=2
MpiDefault=none
GresTypes=gpu
DefMemPerCPU=500
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=8 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=normal Nodes=n1,n2 Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 State=UP
"""


def why_not() -> str:
    """Return why no cluster can be started here; empty if one can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
    if os.getuid() != 0:
        return "only root can make the device files of the GPUs"
    return ""


class Cluster:
    """A running Slurm; use it in a ``with`` statement."""

    def __init__(self) -> None:
        # A socket's path has at most 107 bytes: pytest's directories may be too deep.
        self.root = Path(tempfile.mkdtemp(prefix="slurm."))
        self.daemons: dict[str, subprocess.Popen] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process finds this cluster."""
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": PATH}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in sorted(self.daemons, reverse=True):  # slurmd, slurmctld, munged
            self.stop(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self) -> None:
        root, host = self.root, socket.gethostname().partition(".")[0]
        for name in ("munge", "state", "spool.n1", "spool.n2"):
            (root / name).mkdir(mode=0o755)
        root.chmod(0o755)
        key = root / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        devices = []
        for index in range(GPUS):
            device = root / f"gpu{index}"
            os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))  # another /dev/null
            devices.append(f"Name=gpu File={device}\n")
        (root / "gres.conf").write_text("".join(devices))
        ports = dict(zip(("ctld_port", "n1_port", "n2_port"), _free_ports(3), strict=True))
        text = CONFIGURATION.format(root=root, host=host, user=_user(), **ports)
        (root / "slurm.conf").write_text(text)
        self.start("munged")
        self.start("slurmctld", "-c")
        for node in NODES:
            self.start(node)
        self.wait_until(lambda: self.nodes() == dict.fromkeys(NODES, "idle"))

    def start(self, name: str, *more: str) -> None:
        """Start a daemon: munged, slurmctld, or slurmd of a node."""
        root = self.root
        command = {
            "munged": [
                *("munged", "--foreground", "--force", f"--key-file={root}/munge/key"),
                *(f"--socket={root}/munge/socket", f"--pid-file={root}/munge/pid"),
                *(f"--log-file={root}/munge/log", f"--seed-file={root}/munge/seed"),
            ],
            "slurmctld": ["slurmctld", "-D", "-f", f"{root}/slurm.conf"],
        }.get(name, ["slurmd", "-D", "-N", name, "-f", f"{root}/slurm.conf"])
        with (root / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [*command, *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def stop(self, name: str, signum: int = signal.SIGTERM) -> None:
        """Stop a daemon."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(signum)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def lose(self, node: str) -> None:
        """Kill a node's daemon and all its processes, like a power cut."""
        self.stop(node, signal.SIGKILL)
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.root}/slurm.conf"}
        running, daemons = [], set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if marks <= set((entry / "environ").read_text().split("\0")):
                    running.append(int(entry.name))
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if Path("/proc", parent, "cmdline").read_text().startswith("slurmstepd: "):
                        daemons.add(int(parent))
            except (OSError, ValueError):
                continue  # the process has just ended
        # Step daemons first: they would report how their jobs ended.
        for pid in [*daemons, *running]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ask(self, *command: str) -> str:
        """Return the output of a Slurm command."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def jobs(self) -> list[str]:
        """Return ``id state`` of every job that has not ended."""
        return self.ask("squeue", "-h", "--array", "-o", "%i %T").splitlines()

    def nodes(self) -> dict[str, str]:
        """Return node -> state."""
        listing = self.ask("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %t")
        return dict(line.split() for line in listing.splitlines())

    def wait_until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "".join(
                    f"--- {path}\n{path.read_text(errors='replace')[-2000:]}\n"
                    for path in [*self.root.glob("*.log"), *self.root.glob("*.out")]
                )
                raise AssertionError(f"waited too long\n{self.ask('squeue', '-a')}\n{logs}")
            time.sleep(0.1)


def _user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
