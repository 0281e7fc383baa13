"""VoxCeleb1's test folder, in its real layout, as a manifest."""

import pytest
from conftest import ROOT, load_script

from speechbrain_ext.utils.errors import InputError

script = load_script(ROOT / "recipes/VoxCeleb/voxceleb1_trials_prepare.py")
voxceleb_rows = script.voxceleb_rows
UTTERANCES = {
    "id10270": ["5r0dWxy17C8/00001", "5r0dWxy17C8/00002", "GWXujl-xAVM/00017"],
    "id10271": ["1gtz-CUIygI/00001", "37nktPRUJ58/00001"],
    "id11251": ["0a_ExAmPlE1/00003"],  # of the development set: not listed
}
CLEANED = """\
1 id10270/5r0dWxy17C8/00001.wav id10270/GWXujl-xAVM/00017.wav
0 id10270/5r0dWxy17C8/00001.wav id10271/1gtz-CUIygI/00001.wav
"""
META = """\
VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10270\tEartha_Kitt\tf\tUSA\ttest
id10271\tEd_Westwick\tm\tUK\ttest
"""


@pytest.fixture
def folder(tmp_path):
    """Folder of one release, lists above the folder of the recordings."""
    root = tmp_path / "vox1_test_wav"
    for speaker, names in UTTERANCES.items():
        for name in names:
            path = root / "wav" / speaker / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "veri_test2.txt").write_text(CLEANED)
    (tmp_path / "vox1_meta.csv").write_text(META)
    return root


@pytest.mark.parametrize("level", ["", "wav"])
def test_rows(folder, level):
    if level:  # lists beside the recordings' folder
        for name in ("veri_test2.txt", "vox1_meta.csv"):
            (folder.parent / name).rename(folder / name)
    rows, [trials] = voxceleb_rows(folder / level)
    assert trials.name == "veri_test2.txt"
    for row in rows:
        assert (folder / level / row.pop("wav")).is_file()
    assert rows == [  # also those in no trial, of listed speakers
        {"ID": f"{speaker}/{name}", "speaker": speaker, "gender": gender}
        for speaker, gender in (("id10270", "f"), ("id10271", "m"))
        for name in UTTERANCES[speaker]
    ]


def test_given_and_original_lists(folder):
    original = folder.parent / "veri_test.txt"
    original.write_text(CLEANED.splitlines()[0])
    assert voxceleb_rows(folder)[1] == [folder.parent / "veri_test2.txt"]
    rows, trials = voxceleb_rows(folder, trials=[str(original)])
    assert trials == [original] and len(rows) == 3  # of its one speaker
    (folder.parent / "veri_test2.txt").unlink()
    assert voxceleb_rows(folder)[1] == [original]
    (folder.parent / "vox1_meta.csv").unlink()
    assert "gender" not in voxceleb_rows(folder)[0][0]


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="No file .*mine.txt"):
        voxceleb_rows(folder, trials=[tmp_path / "mine.txt"])
    meta = tmp_path / "vox1_meta.csv"
    meta.write_bytes("\n".join(META.splitlines()[:2]).encode() + b" \xe9")
    with pytest.raises(InputError, match="no gender of 1 speakers.*id10271"):
        voxceleb_rows(folder)
    for text in (META.replace("\t", ","), ""):
        meta.write_text(text)
        with pytest.raises(InputError, match="tab-separated table"):
            voxceleb_rows(folder)
    (folder / "wav/id10271/1gtz-CUIygI/00001.wav").unlink()
    with pytest.raises(InputError, match="1 of 3 .*1gtz-CUIygI/00001.wav"):
        voxceleb_rows(folder)
    (tmp_path / "veri_test2.txt").write_text("id10270 id10271\n")
    with pytest.raises(InputError, match="line 1: expected 'label"):
        voxceleb_rows(folder)
    (tmp_path / "veri_test2.txt").unlink()
    with pytest.raises(
        InputError, match="No veri_test2.txt or veri_test.txt or list"
    ):
        voxceleb_rows(folder)


def test_lists_over_all_speakers(folder, caplog):
    """E and H need the development speakers, of whom O has none."""
    names = "list_test_all.txt", "list_test_hard2.txt"
    other = "id11251/0a_ExAmPlE1/00003.wav"
    for name in names:
        (folder.parent / name).write_text(
            f"0 id10270/5r0dWxy17C8/00001.wav {other}\n"
        )
    (folder.parent / "vox1_meta.csv").unlink()
    rows, lists = voxceleb_rows(folder)
    assert [path.name for path in lists] == ["veri_test2.txt", *names]
    assert len(rows) == len({row["ID"] for row in rows}) == 6
    assert {row["speaker"] for row in rows} == set(UTTERANCES)
    rows, lists = voxceleb_rows(folder, tests=["O"])
    assert [path.name for path in lists] == ["veri_test2.txt"] and len(
        rows
    ) == 5
    # A speaker with all folders but this recording: the data set is damaged.
    (folder / "wav" / other).unlink()
    with pytest.raises(InputError, match="1 of 2 .*list_test_all.*00003.wav"):
        voxceleb_rows(folder)
    # Without the development speakers O alone is left, and that is said.
    (folder / "wav/id11251/0a_ExAmPlE1").rmdir()
    (folder / "wav/id11251").rmdir()
    rows, lists = voxceleb_rows(folder)
    assert [path.name for path in lists] == ["veri_test2.txt"]
    assert len(rows) == 5
    for name in names:
        assert f"{name} is left out: recordings of its" in caplog.text
    with pytest.raises(InputError, match="1 of 2 .*list_test_hard2"):
        voxceleb_rows(folder, trials=[folder.parent / names[1]])
