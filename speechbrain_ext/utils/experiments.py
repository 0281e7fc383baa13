"""Many runs of the recipes' scripts: planned, resumed, side by side."""

import json
import os
import queue
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing
from speechbrain_ext.utils.hparams import run_label

logger = get_logger(__name__)

FINISHED = "finished.json"


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
    """

    folder: Path
    command: list
    after: tuple = ()

    def done(self):
        """The command that this folder was finished with; None if not yet.

        Nor if a job before it was finished later, because its folder was
        deleted and it was run again.
        """
        marker = Path(self.folder) / FINISHED
        if not marker.is_file():
            return None
        time = marker.stat().st_mtime_ns
        for job in self.after:
            other = Path(job.folder) / FINISHED
            if other.is_file() and other.stat().st_mtime_ns > time:
                return None
        return json.loads(marker.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Cell:
    """The runs that share their features: one encoder, one choice of layers.

    Arguments
    ---------
    encoder : str
        Label of the encoder.
    layers : list of int
        Hidden layers.
    trainings : list of Job
        A job for each experiment and seed.
    exports : list of Path
        What they leave for the evaluation.
    """

    encoder: str
    layers: list
    trainings: list
    exports: list


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
        ``encoder_source`` and ``encoder_revision``.
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
    list of Cell

    Raises
    ------
    InputError
        On an unknown experiment, an empty list, two runs of one folder, or an
        argument that is among the options.

    Example
    -------
    >>> systems = {"joint": {"hparams": "hparams/joint.yaml"}}
    >>> cells = plan_trainings(
    ...     systems, ["joint"], ["log_mel"], [[0]], [1, 2], [], "out",
    ...     "train.py")
    >>> cells[0].layers, [str(path) for path in cells[0].exports]
    ([0], ['out/log_mel/layers_0/joint/1/export', \
'out/log_mel/layers_0/joint/2/export'])
    """
    _check_lists(
        experiments=experiments, encoders=encoders, layers=layers, seeds=seeds
    )
    for one in [*layers, *sweep]:
        if not isinstance(one, list):
            raise InputError(
                f"'{one}' is no choice of layers: each is a list, as in "
                "--layers='[[0], [6], [0, 6]]'"
            )
    unknown = set(experiments) - set(systems)
    if unknown:
        raise InputError(
            f"Unknown experiment '{min(unknown)}': the systems are "
            f"{', '.join(systems)}"
        )
    hparams = Path(script).parent
    wanted = [(one, seeds) for one in layers]
    wanted += [(one, seeds[:1]) for one in sweep if one not in layers]
    cells = {}
    for encoder in encoders:
        if isinstance(encoder, str):
            encoder = {"encoder": encoder}
        label = run_label(encoder["encoder"], encoder.get("encoder_source"))
        for experiment in experiments:
            system = systems[experiment]
            own = system.get("layers")
            for chosen, chosen_seeds in [(own, seeds)] if own else wanted:
                name = "_".join(map(str, chosen))
                folder = Path(output_folder, label, f"layers_{name}")
                cell = cells.setdefault(folder, Cell(label, chosen, [], []))
                for seed in chosen_seeds[: system.get("seeds")]:
                    job = _training(
                        folder / experiment / str(seed),
                        [str(script), str(hparams / system["hparams"])],
                        encoder
                        | {"layers": chosen, "seed": seed}
                        | (options or {})
                        | system.get("options", {}),
                        arguments,
                    )
                    cell.trainings.append(job)
                    cell.exports.extend(
                        job.folder / export
                        for export in system.get("exports", ["export"])
                    )
    folders = [job.folder for cell in cells.values() for job in cell.trainings]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(
                f"Two runs have the folder {folder}: something is listed "
                "twice, or two encoders have folders of one name"
            )
    return list(cells.values())


def _check_lists(**given):
    """Raises if an option is no list, or empty."""
    for name, values in given.items():
        if not isinstance(values, (list, tuple)):
            raise InputError(
                f"{name} is '{values}': give a list, as in --{name}='[...]'"
            )
        if not values:
            raise InputError(f"The list {name} is empty: name at least one")


def _training(folder, script, options, arguments):
    options = options | {"output_folder": str(folder)}
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        if name in options:
            raise InputError(
                f"{argument} is set for {folder} already, and cannot stand "
                f"after '--': give it as --train_options='{{{name}: ...}}', "
                "which yields to what an experiment needs, or in the lists"
            )
    return Job(folder, script + as_arguments(options) + list(arguments))


def plan_evaluations(cells, evaluations, script, hparams, output_folder):
    """An evaluation of all systems of a cell, for each set of recordings.

    Arguments
    ---------
    cells : list of Cell
        Of :func:`plan_trainings`.
    evaluations : dict
        Name of a set -> options of the evaluation script. One without a
        ``data_folder`` is left out.
    script, hparams : str or Path
        The evaluation script and its option file, from the script's folder.
    output_folder : str or Path
        Of everything.

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
    >>> cell = Cell("log_mel", [0], [], ["a/export"])
    >>> wavs = str(getfixture("tmp_path"))
    >>> jobs = plan_evaluations(
    ...     [cell], {"real": {"data_folder": wavs}}, "evaluate.py",
    ...     "evaluate.yaml", "out")
    >>> str(jobs["real", 0].folder)
    'out/log_mel/layers_0/evaluation_real'
    """
    known = {
        name: options
        for name, options in evaluations.items()
        if options.get("data_folder")
    }
    if not known:
        raise InputError(
            "No recordings to evaluate on: give the data folder of "
            f"{' or '.join(evaluations)}"
        )
    for name in evaluations.keys() - known.keys():
        logger.warning(f"No data folder for {name}: left out")
    # Now, rather than after all trainings.
    for name, options in known.items():
        if not Path(options["data_folder"]).is_dir():
            raise InputError(
                f"There is no folder {options['data_folder']}, the data folder "
                f"of {name}"
            )
    start = [str(script), str(Path(script).parent / hparams)]
    jobs = {}
    for name, options in known.items():
        for number, cell in enumerate(cells):
            layers = "_".join(map(str, cell.layers))
            folder = Path(
                output_folder, cell.encoder, f"layers_{layers}"
            ).joinpath(f"evaluation_{name}")
            options = options | {
                "export_folder": [str(path) for path in cell.exports],
                "output_folder": str(folder),
            }
            jobs[name, number] = Job(
                folder, start + as_arguments(options), tuple(cell.trainings)
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
        If a folder is of another command, there is no device, or jobs failed:
        names the first and the last line that it wrote.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> code = f"open('{folder}/a.txt', 'a').write('x')"
    >>> for _ in range(2):
    ...     run_jobs([Job(folder, ["-c", code])])
    >>> (folder / "a.txt").read_text()
    'x'
    """
    _check_lists(devices=devices)
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
    output = job.folder / "output.txt"
    command = [sys.executable, *job.command]
    if device is not None:
        command.append(f"--device={device}")
    with open(output, "w", encoding="utf-8") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        ).returncode
    if code == 0:
        with replacing(job.folder / FINISHED) as temporary:
            temporary.write_text(json.dumps(job.command), encoding="utf-8")
        return None
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{job.folder}: {last.strip()} (see {output})"
