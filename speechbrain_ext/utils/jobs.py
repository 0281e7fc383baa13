"""Many runs of the recipes' scripts: planned, resumed, side by side."""

import itertools
import json
import os
import queue
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_json
from speechbrain_ext.utils.hparams import run_label

logger = get_logger(__name__)

FINISHED = "finished.json"
# Options that tell the runs apart.
OF_A_RUN = {"encoder", "encoder_source", "encoder_revision", "encoder_pooling"}
OF_A_RUN |= {"layers", "seed", "output_folder"}


@dataclass(frozen=True)
class Job:
    """One call of a script that leaves its results in a folder of its own.

    Arguments
    ---------
    folder : Path
        Its ``output_folder``.
    command : list of str
        Arguments of Python, that of the folder among them.
    after : sequence of Job
        Those whose results it reads.
    exports : sequence of str
        Folders in its own that it is evaluated by.
    """

    folder: Path
    command: list
    after: tuple = ()
    exports: tuple = ()

    def done(self):
        """The command that this folder was finished with; None if not yet.

        Nor if a job before it was finished later, because its folder was
        deleted and it was run again.
        """
        marker = Path(self.folder) / FINISHED
        if not marker.is_file():
            return None
        time = marker.stat().st_mtime_ns
        others = [Path(job.folder) / FINISHED for job in self.after]
        if any(o.is_file() and o.stat().st_mtime_ns > time for o in others):
            return None
        return json.loads(marker.read_text(encoding="utf-8"))


def as_arguments(options):
    """Options as arguments of a script.

    Arguments
    ---------
    options : dict
        Name -> value. A string is passed as it stands, anything else as
        JSON, which is YAML too.

    Returns
    -------
    list of str

    Example
    -------
    >>> as_arguments({"seed": 1, "layers": [12], "encoder": "log_mel"})
    ['--seed=1', '--layers=[12]', '--encoder=log_mel']
    """
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
    ]


def plan_trainings(
    systems,
    experiments,
    encoders,
    layers,
    seeds,
    sweep,
    output_folder,
    script,
    options=None,
    arguments=(),
):
    """All trainings: experiments x encoders x layers x seeds.

    Arguments
    ---------
    systems : dict
        Experiment -> {``hparams``: its YAML file, from the script's folder[,
        ``options``: dict for the script, ``layers``: its own layers in place
        of all others, ``seeds``: how many of the seeds it takes, ``exports``:
        names of the folders that it is evaluated by]}.
    experiments : list of str
        Which of them to run.
    encoders : list
        Names of ``hparams/encoders``, or dicts of ``encoder``,
        ``encoder_source``, ``encoder_revision`` and ``encoder_pooling``.
    layers : list of list of int
        Choices of layers, each with all seeds.
    seeds : list of int
        Training seeds.
    sweep : list of list of int
        Further choices of layers, with the first seed only.
    output_folder : str or Path
        Of everything.
    script : str or Path
        The training script.
    options : dict
        For every training; a system's own options come first.
    arguments : sequence of str
        Further arguments of every training, as on its command line.

    Returns
    -------
    dict of list
        Folder of the runs that share their features, of one encoder and one
        choice of layers -> a Job for each experiment and seed.

    Raises
    ------
    InputError
        On two runs of one folder, an argument that is among the options, or an
        option that tells the runs apart.

    Example
    -------
    >>> systems = {"joint": {"hparams": "hparams/joint.yaml"}}
    >>> options = (["log_mel"], [[0]], [1, 2], [], "out", "train.py")
    >>> cells = plan_trainings(systems, ["joint"], *options)
    >>> [str(job.folder) for job in cells[Path("out/log_mel/layers_0")]]
    ['out/log_mel/layers_0/joint/1', 'out/log_mel/layers_0/joint/2']
    """
    for name in OF_A_RUN & (options or {}).keys():
        raise InputError(
            f"train_options sets {name}, which differs from run to run: give "
            "the lists encoders, layers and seeds, or output_folder"
        )
    wanted = [(one, seeds) for one in layers]
    wanted += [(one, seeds[:1]) for one in sweep if one not in layers]
    cells = {}
    for encoder, experiment in itertools.product(encoders, experiments):
        encoder = {"encoder": encoder} if isinstance(encoder, str) else encoder
        named = ("encoder", "encoder_source", "encoder_pooling")
        label = run_label(*map(encoder.get, named))
        system = systems[experiment]
        own = system.get("layers")
        for chosen, chosen_seeds in [(own, seeds)] if own else wanted:
            name = f"layers_{'_'.join(map(str, chosen))}"
            folder = Path(output_folder, label, name)
            for seed in chosen_seeds[: system.get("seeds")]:
                settings = encoder | {"layers": chosen, "seed": seed}
                job = _training(
                    folder / experiment / str(seed),
                    [str(script), str(Path(script).parent / system["hparams"])],
                    settings | (options or {}) | system.get("options", {}),
                    arguments,
                    system.get("exports", ["export"]),
                )
                cells.setdefault(folder, []).append(job)
    folders = [job.folder for jobs in cells.values() for job in jobs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(
                f"Two runs have the folder {folder}: something is listed "
                "twice, or two encoders have folders of one name"
            )
    return cells


def _training(folder, script, options, arguments, exports):
    """Job of one training."""
    options = options | {"output_folder": str(folder)}
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        if name in options:
            raise InputError(
                f"{argument} is set for {folder} already, and cannot stand "
                f"after '--': give it as --train_options='{{{name}: ...}}', "
                "which yields to what an experiment needs, or in the lists"
            )
    command = script + as_arguments(options) + list(arguments)
    return Job(folder, command, exports=tuple(exports))


def plan_evaluations(cells, evaluations, script, hparams):
    """An evaluation of all systems of a cell, for each set of recordings.

    Arguments
    ---------
    cells : dict of list
        Of :func:`plan_trainings`.
    evaluations : dict
        Name of a set -> options of the evaluation script. One without a
        ``data_folder`` is left out.
    script, hparams : str or Path
        The evaluation script and its option file, from the script's folder.

    Returns
    -------
    jobs : dict
        (name of the set, number of the cell) -> Job.

    Raises
    ------
    InputError
        If no set has a data folder, or one is not there.

    Example
    -------
    >>> folder = Path("out/log_mel/layers_0")
    >>> cells = {folder: [Job(folder / "joint/1", [], exports=("export",))]}
    >>> sets = {"real": {"data_folder": str(getfixture("tmp_path"))}}
    >>> jobs = plan_evaluations(cells, sets, "evaluate.py", "evaluate.yaml")
    >>> str(jobs["real", 0].folder)
    'out/log_mel/layers_0/evaluation_real'
    """
    start = [str(script), str(Path(script).parent / hparams)]
    jobs = {}
    for name, options in evaluations.items():
        recordings = options.get("data_folder")
        if not recordings:
            logger.warning(f"No data folder for {name}: left out")
            continue
        # Now, rather than after all trainings.
        if not Path(recordings).is_dir():
            raise InputError(
                f"There is no folder {recordings}, the data folder of {name}"
            )
        for number, (folder, trainings) in enumerate(cells.items()):
            folder = folder / f"evaluation_{name}"
            exports = [
                str(job.folder / export)
                for job in trainings
                for export in job.exports
            ]
            own = {"export_folder": exports, "output_folder": str(folder)}
            command = start + as_arguments(options | own)
            jobs[name, number] = Job(folder, command, tuple(trainings))
    if not jobs:
        raise InputError(
            "No recordings to evaluate on: give the data folder of "
            f"{' or '.join(evaluations)}"
        )
    return jobs


def run_jobs(jobs, devices=(None,), renew=False, description="runs"):
    """Run what is not finished, one job on each device at a time.

    The output of a job goes to ``output.txt`` in its folder. A job that
    fails does not stop the others.

    Arguments
    ---------
    jobs : list of Job
        Calls of scripts.
    devices : sequence of str or None
        E.g. ``["cuda:0", "cuda:1"]``; ``["cpu", "cpu"]`` runs two at a time.
        None leaves the choice to the script.
    renew : bool
        Whether a job that was finished with another command is run again
        (for evaluations) rather than refused (for trainings).
    description : str
        What the progress bar is called.

    Raises
    ------
    InputError
        If a folder is of another command, or jobs failed: names the first and
        the last line that it wrote.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> code = f"open('{folder}/a.txt', 'a').write('x')"
    >>> for _ in range(2):
    ...     run_jobs([Job(folder, ["-c", code])])
    >>> (folder / "a.txt").read_text()
    'x'
    """
    waiting = []
    for job in jobs:
        before = job.done()
        if before is not None and before != job.command and not renew:
            raise InputError(
                f"{job.folder} was made by another command ("
                f"{_difference(before, job.command)}): give another "
                "--output_folder, or delete it"
            )
        if before != job.command:
            waiting.append(job)
    free = queue.Queue()
    for device in devices:
        free.put(device)
    # Cores are shared out, unless the user has said how.
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ

    def run(job):
        """Run a job on the next device that is free."""
        device = free.get()
        try:
            return _run(job, device, environment)
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as executor:
        bar = tqdm(
            executor.map(run, waiting),
            desc=description,
            total=len(jobs),
            initial=len(jobs) - len(waiting),
            disable=not waiting,
            dynamic_ncols=True,
        )
        failed = [failure for failure in bar if failure]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(waiting)} jobs failed, first {failed[0]}"
        )


def _difference(before, command):
    """What two commands do not share, in words."""
    new = [part for part in command if part not in before]
    old = [part for part in before if part not in command]
    return f"{shlex.join(old) or 'less'}, now {shlex.join(new) or 'less'}"


def _run(job, device, environment):
    """Run a job; returns None, or what went wrong in one line."""
    job.folder.mkdir(parents=True, exist_ok=True)
    # A job that fails half-way has overwritten what was finished.
    (job.folder / FINISHED).unlink(missing_ok=True)
    output = job.folder / "output.txt"
    command = [sys.executable, *job.command]
    if device is not None:
        command.append(f"--device={device}")
    with open(output, "w", encoding="utf-8") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        ).returncode
    if code == 0:
        write_json(job.folder / FINISHED, job.command)
        return None
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{job.folder}: {last.strip()} (see {output})"
