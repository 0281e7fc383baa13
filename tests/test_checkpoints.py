"""Checkpoints of runs that were killed, and on disks that are full."""

import resource
import signal

import pytest
import torch

from speechbrain_ext.utils.checkpoints import SafeCheckpointer
from speechbrain_ext.utils.errors import one_line_errors


def save(folder, count=2):
    """Checkpoints of a model whose weight counts them."""
    model = torch.nn.Linear(1, 1)
    checkpointer = SafeCheckpointer(folder, {"model": model})
    paths = []
    for number in range(count):
        torch.nn.init.constant_(model.weight, number)
        saved = checkpointer.save_checkpoint(meta={"loss": -number})
        paths.append(saved.path)
    return model, checkpointer, paths


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.ckpt", "CKPT.yaml", "digests.json"])
@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink()])
def test_the_one_before_a_damaged_one_is_used(tmp_path, name, damage, caplog):
    model, checkpointer, paths = save(tmp_path)
    damage(paths[1] / name)
    assert checkpointer.recover_if_possible(min_key="loss").path == paths[0]
    assert model.weight.item() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        paths[0].name,
        f"damaged+{paths[1].name}",
    ]
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1 and "set aside" in warnings[0].getMessage()


def test_the_log_names_the_folder_that_there_is(tmp_path, caplog):
    with caplog.at_level("INFO"):
        _, _, (path,) = save(tmp_path, 1)
    (said,) = [r.getMessage() for r in caplog.records if "Saved" in r.msg]
    assert said == f"Saved a checkpoint in {path}"


def test_all_are_damaged(tmp_path):
    _, checkpointer, paths = save(tmp_path)
    for path in paths:
        cut(path / "model.ckpt")
    assert checkpointer.recover_if_possible() is None


def test_what_was_not_finished_is_not_found(tmp_path, monkeypatch):
    _, checkpointer, paths = save(tmp_path, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("speechbrain_ext.utils.checkpoints.write_json", killed)
        checkpointer.save_checkpoint()
    assert checkpointer.recover_if_possible().path == paths[0]
    second = checkpointer.save_checkpoint().path
    assert {path for path in tmp_path.iterdir() if any(path.iterdir())} == {
        paths[0],
        second,
    }


def test_a_full_disk_leaves_the_others(tmp_path, capsys):
    _, checkpointer, paths = save(tmp_path, 1)
    checkpointer.add_recoverable("large", torch.nn.Linear(500, 500))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SystemExit), one_line_errors():
            checkpointer.save_checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ") and line.endswith("it goes on")
    assert checkpointer.list_checkpoints()[0].path == paths[0]
    assert checkpointer.checkpoints_dir == tmp_path
