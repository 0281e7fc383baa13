"""Files that are never found half-written."""

import threading

import pytest

from speechbrain_ext.utils.files import replacing


def test_two_threads_may_write_one_file(tmp_path):
    """Both inside at the same time: each has a temporary file of its own."""
    path = tmp_path / "x.json"
    both = threading.Barrier(2, timeout=10)

    def write(text):
        with replacing(path) as temporary:
            both.wait()
            temporary.write_text(text)
            both.wait()
            assert temporary.read_text() == text

    threads = [threading.Thread(target=write, args=(t,)) for t in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in ("a", "b")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
