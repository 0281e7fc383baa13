"""Enrolled speakers (or values of another factor): who is it, if any?"""

import hashlib
from pathlib import Path

import numpy as np

from speechbrain_ext.metrics.arrays import unit_rows
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest, replacing


class Enrolment:
    """Vectors of enrolled clips, several of each name.

    A name is scored by the cosine to the mean of its unit vectors. At a
    threshold for pairs the mean of five clips misses its speaker a third as
    often as one clip, and accepts strangers twice as often (speechocean762,
    packaged export).

    Arguments
    ---------
    model : str
        What the vectors are of, see :func:`fingerprint`.
    names : sequence of str
        [N] name of each clip.
    clips : sequence of str
        [N] what each clip is called.
    vectors : numpy.ndarray
        Shape [N, D].

    Example
    -------
    >>> enrolment = Enrolment("model")
    >>> enrolment.enrol("ann", ["a1", "a2"], [[1.0, 0.1], [1.0, -0.1]])
    >>> enrolment.enrol("bob", ["b1"], [[0.0, 1.0]])
    >>> names, scores = enrolment.identify([[2.0, 0.1], [1.0, -9.0]], 0.5)
    >>> names, scores.round(2).tolist()
    (['ann', None], [1.0, 0.11])
    """

    def __init__(self, model, names=(), clips=(), vectors=()):
        self.model = model
        self.names, self.clips = list(names), list(clips)
        self.vectors = list(vectors)

    def enrol(self, name, clips, vectors):
        """Add clips of a name; one that is there already is replaced.

        Arguments
        ---------
        name : str
            Whose they are.
        clips : sequence of str
            [N] what they are called.
        vectors : array
            Shape [N, D].

        Raises
        ------
        InputError
            If the name is empty, or a clip is that of another name.
        """
        if not name.strip() or not name.isprintable():
            raise InputError(f"'{name}' is not a name in one line")
        owners = dict(zip(self.clips, self.names))
        for clip in clips:
            if owners.get(clip, name) != name:
                raise InputError(
                    f"{clip} is enrolled as '{owners[clip]}': it cannot be "
                    f"'{name}' too"
                )
        kept = [n for n, clip in enumerate(self.clips) if clip not in clips]
        for column in ("names", "clips", "vectors"):
            known = getattr(self, column)
            setattr(self, column, [known[n] for n in kept])
        self.names += [name] * len(clips)
        self.clips += clips
        self.vectors += list(unit_rows(np.asarray(vectors)))

    def identify(self, vectors, threshold):
        """The enrolled name of each vector, if any.

        With many names the best of them exceeds a threshold more often: N
        strangers are accepted about N times as often as one.

        Arguments
        ---------
        vectors : array
            Shape [N, D].
        threshold : float
            Cosine that a score is to exceed.

        Returns
        -------
        names : list of str
            [N], None where no score exceeds the threshold.
        scores : numpy.ndarray
            [N], the best.

        Raises
        ------
        InputError
            If nobody is enrolled.
        """
        if not self.names:
            raise InputError("Nobody is enrolled: call enrol first")
        names, owner = np.unique(self.names, return_inverse=True)
        sums = np.zeros((len(names), len(self.vectors[0])))
        np.add.at(sums, owner, self.vectors)
        scores = unit_rows(np.asarray(vectors)) @ unit_rows(sums).T
        best, score = scores.argmax(axis=1), scores.max(axis=1)
        found = [
            str(names[n]) if one > threshold else None
            for n, one in zip(best, score)
        ]
        return found, score

    def save(self, path):
        """Write it to a ``.npz`` file, complete or not at all."""
        with replacing(path) as temporary:
            np.savez(
                temporary,
                model=self.model,
                names=self.names,
                clips=self.clips,
                vectors=np.array(self.vectors),
            )

    @classmethod
    def load(cls, path, model):
        """Enrolled clips of a file, none if there is no such file yet.

        Arguments
        ---------
        path : str or Path
            A file of :meth:`save`.
        model : str
            What its vectors should be of.

        Returns
        -------
        Enrolment

        Raises
        ------
        InputError
            If it is another file, or the vectors are of another model.
        """
        if Path(path).suffix != ".npz":
            raise InputError(
                f"{path}: a store of enrolled clips is a .npz file"
            )
        if not Path(path).exists():
            return cls(model)
        try:
            with np.load(path) as arrays:
                made = cls(
                    str(arrays["model"]),
                    arrays["names"].tolist(),
                    arrays["clips"].tolist(),
                    arrays["vectors"],
                )
        # What damaged files raise depends on where the damage is.
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise InputError(
                f"{path} is not a store of enrolled clips ({reason})"
            )
        if not len(made.names) == len(made.clips) == len(made.vectors):
            raise InputError(f"{path} is damaged: enrol in another file")
        if made.model != model:
            raise InputError(
                f"The clips in {path} were enrolled with another export or "
                "subspace: give that one, or enrol in another file"
            )
        return made


def fingerprint(model, subspace=None):
    """What the vectors of a subspace of an export depend on, as a digest.

    Arguments
    ---------
    model : speechbrain_ext.inference.subspaces.SubspaceEncoder
        An export.
    subspace : str
        Which one. Default: the export's ``subspace``.

    Returns
    -------
    str
    """
    module = model.mods.embedding_model
    weights = hashlib.sha256()
    for value in module.network.state_dict().values():
        weights.update(value.cpu().numpy().tobytes())
    name = module.choose_subspace(subspace)
    made = [module.encoder.identity, module.layers, weights.hexdigest()]
    return digest([*made, name])
