"""launch/local.sh, horovod.sh, mpi.sh and slurm.sbatch: the commands that they build."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from command import HOROVODRUN, ROOT
from launching import LAUNCH, clean, needs_mpi

SCRIPTS = ["local.sh", "horovod.sh", "mpi.sh", "slurm.sbatch"]
RUN = [sys.executable, "-m", "disttrain"]


@pytest.fixture
def programs(tmp_path):
    """Makes stand-ins for programs, a few lines of bash, first in PATH; by default nvidia-smi finds no GPU."""

    def make(name, text):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return path

    make("nvidia-smi", "exit 9")
    return make


@pytest.fixture
def launch(tmp_path, programs):
    """Runs a script of launch/ in an empty folder."""

    def run(script, *arguments, **settings):
        return subprocess.run(
            [str(LAUNCH / script), *map(str, arguments)],
            cwd=tmp_path,
            env=clean(tmp_path, **settings),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def planned(done):
    """The words of the command that a dry run prints, less the environment that it begins with."""
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done
    words = shlex.split(done.stdout)
    assert words[:2] == ["env", f"PYTHONPATH={ROOT}"]
    return [word for word in words[2:] if not word.startswith("OMPI_ALLOW_RUN_AS_ROOT")]


def complaint(done):
    """The one line that a script says of a mistake."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


# -- what all have in common


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_how_to_call_it(launch, script):
    told = launch(script, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"launch/{script}" in told.stdout.splitlines()[0]
    assert "--dry-run" in told.stdout


@pytest.mark.parametrize("script", [*SCRIPTS, "arguments.sh", "workers.sh", "supervise.py", "discovery/job.sh"])
def test_a_script_is_short_and_names_no_machine(script):
    text = (LAUNCH / script).read_text()
    assert len(text.splitlines()) < (140 if script.endswith(".py") else 60)
    assert not re.search(r"/(home|work|tmp)/", text)


@pytest.mark.parametrize("script", ["local.sh", "horovod.sh", pytest.param("mpi.sh", marks=needs_mpi)])
def test_what_stands_after_two_hyphens_reaches_disttrain_as_it_is(launch, script):
    arguments = ["--data", "my file's $(name).csv", "--hidden", "8,4", "--", "-np"]
    words = planned(launch(script, "--dry-run", "--", *arguments))
    assert words[-len(RUN) - len(arguments) :] == [*RUN, *arguments]


@pytest.mark.parametrize("script", ["local.sh", "horovod.sh"])
def test_the_repositorys_environment_comes_before_another_python(launch, tmp_path, script):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "horovodrun"):
        (tmp_path / ".venv/bin" / name).symlink_to(sys.executable)
    told = launch(tmp_path / "launch" / script, "--dry-run", PYTHON="")
    assert f"{tmp_path}/.venv/bin/python -m disttrain" in told.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "said"),
    [
        ("local.sh", ["--data", "x.csv"], {}, "'--data' (arguments for disttrain go after --)"),
        ("local.sh", ["-np", "2"], {}, "'-np'"),
        ("mpi.sh", ["--min-np", "2"], {}, "'--min-np'"),  # elastic is horovodrun's
        ("horovod.sh", ["--nonsense"], {}, "'--nonsense'"),
        ("horovod.sh", ["-np"], {}, "-np needs a value"),
        ("horovod.sh", ["-np", "two"], {}, "a whole number from 1, not 'two'"),
        ("horovod.sh", [], {"DISTTRAIN_NP": "0"}, "DISTTRAIN_NP must be a whole number from 1, not '0'"),
        ("horovod.sh", ["-H", "a,b"], {}, "HOST:SLOTS,HOST:SLOTS,..., found 'a,b'"),
        ("horovod.sh", ["-H", "a:2,b:2", "-np", "5"], {}, "-np 5 is more than the 4 slots of a:2,b:2"),
        ("horovod.sh", ["--hostfile", "none.txt"], {}, "none.txt: there is no such file"),
        ("horovod.sh", ["--max-np", "2"], {}, "need --discovery SCRIPT"),
        ("horovod.sh", ["--discovery", "s", "-np", "3", "--max-np", "2"], {}, "-np 3 is more than --max-np 2"),
        ("horovod.sh", ["--discovery", "s", "-np", "3", "--min-np", "4"], {}, "-np 3 is less than --min-np 4"),
        ("horovod.sh", [], {"LSB_JOBID": "1"}, "name them: -H HOST:SLOTS"),
        ("horovod.sh", [], {"PBS_NODEFILE": "none"}, "there is no none"),
        ("local.sh", [], {"PYTHON": "no-python"}, "there is no no-python"),
        ("slurm.sbatch", [], {}, "submit it: sbatch launch/slurm.sbatch"),
        ("slurm.sbatch", [], {"SLURM_JOB_ID": "1"}, "submit the job in the repository's root"),
        ("slurm.sbatch", [], {"SLURM_JOB_ID": "1", "DISTTRAIN_LAUNCHER": "sh"}, "must be mpi or horovod, not 'sh'"),
    ],
)
def test_a_mistake_is_one_line(launch, script, arguments, settings, said):
    assert said in complaint(launch(script, *arguments, **settings))


def test_a_missing_horovodrun_is_said_with_the_command_that_builds_it(launch, tmp_path, programs):
    python = programs("python", f'exec "{sys.executable}" "$@"')
    for tool in ("bash", "env", "dirname", "basename", "head"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    told = complaint(launch("horovod.sh", PATH=str(tmp_path / "bin"), PYTHON=str(python)))
    assert told.endswith(f"run: launch/install-horovod.sh {python}\n")
    told = complaint(launch("mpi.sh", PATH=str(tmp_path / "bin"), PYTHON=str(python)))
    assert "apt-get install openmpi-bin" in told


@pytest.mark.parametrize("version", ["HYDRA build details: Version: 4.1", "mpirun (Open MPI) 5.0.7", ""])
def test_another_mpirun_than_that_of_open_mpi_4_is_refused(launch, programs, version):
    mpirun = programs("mpirun", f"echo '{version}'")
    said = complaint(launch("mpi.sh"))
    assert "expected Open MPI 4" in said
    assert f"found {mpirun} of '{version}'; or use launch/horovod.sh" in said


# -- one machine


def test_one_machine_is_one_process_however_many_gpus_it_has(launch, programs):
    assert planned(launch("local.sh", "--dry-run", "--", "--data", "x.csv")) == [*RUN, "--data", "x.csv"]
    programs("nvidia-smi", "echo 'GPU 0: NVIDIA H100'; echo 'GPU 1: NVIDIA H100'; echo 'GPU 2: NVIDIA H100'")
    assert planned(launch("local.sh", "--dry-run")) == RUN


def test_each_gpu_gets_a_worker_and_no_slice_of_one_does(launch, programs):
    programs("nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo '  MIG 1g.10gb Device 0: (UUID: MIG-1)'")
    assert "-np 1 " in launch("horovod.sh", "--dry-run").stdout
    programs("nvidia-smi", "echo 'GPU 0: NVIDIA H100'; echo 'GPU 1: NVIDIA H100'; echo 'GPU 2: NVIDIA H100'")
    assert "-np 3 " in launch("horovod.sh", "--dry-run").stdout


# -- several workers


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        ([], {}, "-np 2 -H localhost:2"),
        (["-np", "4"], {}, "-np 4 -H localhost:4"),
        (["-H", "a:2,b:3"], {}, "-np 5 -H a:2,b:3"),
        (["-np", "3", "-H", "a:2,b:2"], {}, "-np 3 -H a:2,b:2"),
        (["--hostfile", "hosts.txt"], {}, "-np 3 -H node-1:2,node-2:1"),
        ([], {"DISTTRAIN_HOSTS_FILE": "hosts.txt"}, "-np 3 -H node-1:2,node-2:1"),
        ([], {"DISTTRAIN_HOSTS": "a:1", "DISTTRAIN_NP": "1"}, "-np 1 -H a:1"),
        # What is asked for comes before the environment, and both before the scheduler.
        (["--hostfile", "hosts.txt"], {"DISTTRAIN_HOSTS": "a:1"}, "-np 3 -H node-1:2,node-2:1"),
        (["-H", "b:2"], {"PBS_NODEFILE": "nodes"}, "-np 2 -H b:2"),
        ([], {"PBS_NODEFILE": "nodes"}, "-np 3 -H n2:2,n1:1"),
        ([], {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "8(x2),4"}, "-np 20 -H n1:8,n2:8,n3:4"),
        (["--ssh-port", "2222", "--ssh-key", "k"], {}, "-np 2 -H localhost:2 -p 2222 -i k"),
        (["--network-interface", "eth0"], {}, "-np 2 -H localhost:2 --network-interface eth0"),
        (
            [],
            {"DISTTRAIN_HOROVODRUN_FLAGS": "--verbose --start-timeout 90"},
            "-np 2 -H localhost:2 --verbose --start-timeout 90",
        ),
        (
            ["--discovery", "hosts.sh", "--min-np", "2", "--max-np", "8"],
            {},
            "-np 2 --host-discovery-script hosts.sh --min-np 2 --max-np 8",
        ),
        (["--discovery", "hosts.sh", "-np", "4"], {}, "-np 4 --host-discovery-script hosts.sh"),
    ],
)
def test_horovodrun_is_called_with(launch, tmp_path, programs, arguments, settings, expected):
    programs("scontrol", '[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"')
    (tmp_path / "hosts.txt").write_text("# two\nnode-1 slots=2\n\nnode-2\n")
    (tmp_path / "nodes").write_text("n2\nn1\nn2\n")
    words = planned(launch("horovod.sh", "--dry-run", *arguments, **settings))
    if "--host-discovery-script" in expected:
        assert words.pop(0).startswith(f"PATH={LAUNCH}/horovod/bin:")
    assert words == [str(HOROVODRUN), "--gloo", *expected.split(), *RUN]


@pytest.mark.parametrize(("nodes", "tasks"), [("n[1-3]", "2"), ("n[1-3]", "two"), ("n[1-3]", "")])
def test_a_slurm_job_that_does_not_add_up_is_refused(launch, programs, nodes, tasks):
    programs("scontrol", 'printf "n1\\nn2\\nn3\\n"')
    assert "SLURM_TASKS_PER_NODE" in complaint(
        launch("horovod.sh", SLURM_JOB_NODELIST=nodes, SLURM_TASKS_PER_NODE=tasks)
    )


BASIC = "--bind-to none --map-by slot -mca pml ob1 -mca btl ^openib"
PASSED = "-x PATH -x PYTHONPATH"


@needs_mpi
@pytest.mark.parametrize(
    ("arguments", "settings", "hosts", "rest"),
    [
        ([], {}, "-np 2 -H localhost:2", f"-mca plm_rsh_args|-o BatchMode=yes|{PASSED}"),
        (
            ["-H", "a:2,b:2", "--network-interface", "eth0", "--ssh-port", "2222", "--ssh-key", "k"],
            {},
            "-np 4 -H a:2,b:2",
            "-mca btl_tcp_if_include eth0 -mca oob_tcp_if_include eth0 -x NCCL_SOCKET_IFNAME=eth0 "
            f"-mca plm_rsh_args|-o BatchMode=yes -p 2222 -i k|{PASSED}",
        ),
        (  # names alone: a secret's value is on no command line
            [],
            {"AWS_SECRET_ACCESS_KEY": "s", "DISTTRAIN_BATCH_SIZE": "9", "NCCL_DEBUG": "INFO", "SECRET": "s"},
            "-np 2 -H localhost:2",
            "-mca plm_rsh_args|-o BatchMode=yes|-x AWS_SECRET_ACCESS_KEY -x DISTTRAIN_BATCH_SIZE -x NCCL_DEBUG "
            + PASSED,
        ),
        (
            [],
            {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_HOME": "c", "XLA_FLAGS": "--xla_gpu_cuda_data_dir=c"},
            "-np 2 -H localhost:2",
            f"-mca plm_rsh_args|-o BatchMode=yes|-x CUDA_VISIBLE_DEVICES {PASSED} -x XLA_FLAGS",
        ),
        (
            [],
            {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x3)", "CUDA_VISIBLE_DEVICES": "0,1"},
            "-np 6",  # mpirun knows the job's nodes, and each node its own GPUs
            f"-mca plm_rsh_args|-o BatchMode=yes|{PASSED}",
        ),
    ],
)
def test_mpirun_is_called_with(launch, programs, arguments, settings, hosts, rest):
    programs("scontrol", 'printf "n1\\nn2\\nn3\\n"')
    words = planned(launch("mpi.sh", "--dry-run", *arguments, **settings))
    first, ssh, last = rest.split("|")
    agent = ["-mca", "orte_launch_agent", f"{sys.executable} {LAUNCH}/supervise.py orted"] if "-H" in hosts else []
    expected = [
        shutil.which("mpirun"),
        *hosts.split(),
        *agent,
        *BASIC.split(),
        *first.split(),
        ssh,
        *last.split(),
        *RUN,
    ]
    assert words == expected


# -- Slurm: its own programs are stand-ins here


@pytest.fixture
def job(launch, tmp_path, programs):
    """Runs slurm.sbatch in a job of two nodes, with a stand-in for mpirun; records the calls of scontrol."""

    def run(does, *arguments, **settings):
        told = tmp_path / "told"
        programs("scontrol", f'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "$@" >>{told}; fi')
        programs("mpirun", f'if [ "$*" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi\n{does}')
        job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "4(x2)"}
        done = launch("slurm.sbatch", *arguments, SLURM_SUBMIT_DIR=str(ROOT), **job, **settings)
        return done, told.read_text() if told.exists() else ""

    return run


@needs_mpi
@pytest.mark.parametrize(
    ("does", "code", "told"),
    [
        ("exit 0", 0, ""),
        ("exit 3", 3, ""),  # bad data would be bad again
        ("exit 75", 75, "requeue Incomplete 42\n"),
        # The signal before the time limit goes to the batch script, here the grandparent of mpirun.
        (
            "trap 'exit 75' TERM; kill -TERM $(cut -d ' ' -f 4 /proc/$PPID/stat); sleep 20 &>/dev/null & wait",
            75,
            "requeue Incomplete 42\n",
        ),
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_with_a_checkpoint(job, does, code, told):
    done, said = job(does)
    assert (done.returncode, said) == (code, told), done.stderr


@needs_mpi
def test_a_slurm_job_has_the_same_output_whenever_it_starts(job):
    done, _ = job('echo "$DISTTRAIN_OUTPUT" "$@"', "--", "--data", "x.csv")
    assert done.stdout.startswith("runs/slurm-42 -np 8 --bind-to none")
    assert done.stdout.endswith("disttrain --data x.csv\n")
    assert job("echo $DISTTRAIN_OUTPUT", DISTTRAIN_OUTPUT="mine")[0].stdout == "mine\n"


def test_a_slurm_job_can_use_horovodrun(job):
    done, _ = job("", "--dry-run", "--", "--data", "x.csv", DISTTRAIN_LAUNCHER="horovod")
    assert planned(done) == [str(HOROVODRUN), "--gloo", "-np", "8", "-H", "n1:4,n2:4", *RUN, "--data", "x.csv"]
