"""A Slurm of one node for tests, driven by its daemons: a low partition, and a high one over it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.requirements import require

START_TIMEOUT_S = 60
SAVE_S = 10
"""The controller keeps what changed a few seconds later; what did not change is kept already."""
CPUS = 3
"""Cores that the node declares, whatever the machine has."""
GRACE_S = 10
"""How long a preempted job may go on."""
PREEMPTED_PARTITION, PREEMPTING_PARTITION = "low", "high"

CONFIGURATION = """\
ClusterName=headsweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime={grace_s}
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


@dataclass
class Slurm:
    """A controller and a node daemon in a folder of their own."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    @property
    def configuration(self) -> Path:
        """What `$SLURM_CONF` must name."""
        return self.folder / "slurm.conf"

    @property
    def state(self) -> Path:
        """What the controller keeps of jobs: their scripts and environments among it."""
        return self.folder / "state"

    def start(self) -> None:
        """Makes key and configuration, starts all daemons, and waits until the node is idle."""
        for folder in (self.folder, self.state, self.folder / "spool"):
            folder.mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            controller_port=_free_port(),
            node_port=_free_port(),
            cpus=CPUS,
            grace_s=GRACE_S,
        )
        self.configuration.write_text(text)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._start("munged", "--force", "--foreground", *options)
        self._until((self.folder / "munge.socket").exists, "munged")
        self.start_controller()
        self._start("slurmd", "-D")
        self._until(lambda: "idle" in self.tell("sinfo", "--noheader"), "slurmd")

    def start_controller(self) -> None:
        """Starts the controller and waits until it answers."""
        self._start("slurmctld", "-D")
        self._until(lambda: bool(self.tell("squeue")), "slurmctld")

    def kill_controller(self) -> None:
        """Ends the controller as a power cut would, soon after it kept its state; jobs go on."""
        begun = time.time()
        while (self.state / "job_state").stat().st_mtime < begun and time.time() < begun + SAVE_S:
            time.sleep(0.1)
        controller = self.processes.pop("slurmctld")
        controller.kill()
        controller.wait()

    def tell(self, *command: str) -> str:
        """What a command of Slurm prints; nothing while Slurm does not answer."""
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        return ended.stdout if ended.returncode == 0 else ""

    def stop(self) -> None:
        """Ends all jobs and daemons."""
        deadline = time.monotonic() + 20
        while self.tell("squeue", "--noheader") and time.monotonic() < deadline:
            self.tell("scancel", "--signal=KILL", "--full", "--user=root")
            self.tell("scancel", "--state=PENDING", "--user=root")
            time.sleep(0.2)
        for process in self.processes.values():
            process.kill()  # in order they would wait for jobs and write what is deleted next
            process.wait()

    def _start(self, program: str, *options: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as log:
            self.processes[program] = subprocess.Popen(
                [program, *options],
                env=os.environ | {"SLURM_CONF": str(self.configuration)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _until(self, done: Callable[[], bool], program: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not done():
            process = self.processes[program]
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / f"{program}.out").read_text(errors="replace")[-2000:]
                pytest.fail(f"{program} does not start: {said}", pytrace=False)
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Start one Slurm for the session."""
    require("slurm")
    # Paths of sockets must be short.
    slurm = Slurm(Path(f"/tmp/headsweep_slurm_{uuid.uuid4().hex[:8]}"))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(slurm.folder, ignore_errors=True)
