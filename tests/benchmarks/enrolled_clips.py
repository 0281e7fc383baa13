"""How to score a clip against several enrolled ones of a speaker.

    python tests/benchmarks/enrolled_clips.py MANIFEST [SPLIT [DATA_FOLDER]]

Of each speaker K clips, drawn at random, are enrolled and the others are
compared, with all speakers, by the packaged export: by the cosine to the mean
of the unit vectors, as ``Enrolment`` does, and by the mean of the cosines to
each. Printed are the equal error rate, and what the export's threshold for 1 %
of false acceptance does.
"""

import sys

import numpy as np

from speechbrain_ext.dataio.manifest import load_manifest, subset
from speechbrain_ext.dataio.splits import in_split
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.recordings import embed_recordings
from speechbrain_ext.metrics.arrays import unit_rows
from speechbrain_ext.metrics.verification import equal_error_rate

DRAWS = 10  # of enrolled clips


def main(manifest, split=None, data_folder=None):
    """Measure and print."""
    dataset = load_manifest(manifest, data_folder, ["speaker"])
    dataset = subset(dataset, in_split(dataset, split))
    model = SubspaceEncoder.from_packaged()
    made = embed_recordings(model, dataset)
    vectors = unit_rows(made.vectors)
    speakers = np.array([dataset.data[key]["speaker"] for key in made.ids])
    threshold = model.threshold(false_accepts=0.01)
    rng = np.random.default_rng(0)
    for clips in (1, 3, 5):
        scores, labels = {"mean vector": [], "mean score": []}, []
        for speaker in np.repeat(np.unique(speakers), DRAWS):
            own = rng.permutation(np.flatnonzero(speakers == speaker))
            center = vectors[own[:clips]].mean(axis=0)
            heard = np.setdiff1d(np.arange(len(vectors)), own[:clips])
            scores["mean score"].append(vectors[heard] @ center)
            center /= np.linalg.norm(center)
            scores["mean vector"].append(vectors[heard] @ center)
            labels.append(speakers[heard] == speaker)
        same = np.concatenate(labels)
        for name, parts in scores.items():
            found = np.concatenate(parts)
            accepted = found > threshold
            print(
                f"{clips} clips, {name}: EER "
                f"{100 * equal_error_rate(found, same)[0]:.1f} %, at the "
                f"threshold {100 * accepted[~same].mean():.1f} % false accepts "
                f"and {100 * (~accepted)[same].mean():.1f} % false rejects"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
