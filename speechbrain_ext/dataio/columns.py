"""Rows of a manifest, kept as columns.

A dict for each of a million utterances takes more than a gigabyte. Here a
value that repeats is kept once, numbers and paths in arrays.
"""

import array
import copy
import itertools
from collections.abc import Mapping

import numpy as np

# What a row has where it lacks a column; itself also in another process.
ABSENT = ...


class Text:
    """Strings that rarely repeat, in one piece of memory.

    Has of a NumPy array what columns need.

    Arguments
    ---------
    values : iterable of str
        The first of them, see :meth:`extend`.

    Example
    -------
    >>> text = Text(["a.wav", "\u00e9.wav"])
    >>> text.item(1), text[[1, 0, 1]].tolist()
    ('\u00e9.wav', ['\u00e9.wav', 'a.wav', '\u00e9.wav'])
    """

    def __init__(self, values=()):
        # In UTF-8; where each begins and ends in that.
        self.content, self.starts = bytearray(), array.array("q")
        self.stops = array.array("q")
        self.extend(values)

    def extend(self, values):
        """Add more; not after rows were taken."""
        # Names of files need not be text.
        parts = [value.encode("utf-8", "surrogatepass") for value in values]
        begin = len(self.content)
        ends = list(itertools.accumulate(map(len, parts), initial=begin))
        self.starts.extend(ends[:-1])
        self.stops.extend(ends[1:])
        self.content += b"".join(parts)

    def item(self, row):
        """One of them."""
        part = self.content[self.starts[row] : self.stops[row]]
        return part.decode("utf-8", "surrogatepass")

    def __getitem__(self, rows):
        taken = copy.copy(self)
        taken.starts = np.asarray(self.starts)[rows]
        taken.stops = np.asarray(self.stops)[rows]
        return taken

    def tolist(self):
        """All of them."""
        return list(map(self.item, range(len(self.starts))))


def pack(values):
    """A column of any values.

    Arguments
    ---------
    values : list
        Of each row, ``ABSENT`` where it has none.

    Returns
    -------
    numpy.ndarray
        Shape [N], of float64 if all are floats, else of objects.

    Example
    -------
    >>> pack([1.0, 2.5]), pack(["a", ABSENT])
    (array([1. , 2.5]), array(['a', Ellipsis], dtype=object))
    """
    kind = float if all(type(one) is float for one in values) else object
    return np.fromiter(values, kind, len(values))


class Columns(Mapping):
    """ID -> row, a dict that is made when it is asked for.

    To write into such a row changes nothing, see :func:`set_values`.

    Arguments
    ---------
    ids : iterable of str
        ID of each row.
    columns : dict
        Name -> what :func:`pack` gives, or another array, or Text, shape [N].

    Example
    -------
    >>> rows = {"u1": {"speaker": "ann", "start": 5}, "u2": {"speaker": "bob"}}
    >>> data = Columns.of(rows)
    >>> data["u1"], data["u2"]
    ({'speaker': 'ann', 'start': 5}, {'speaker': 'bob'})
    >>> data.values_of("speaker"), data.values_of("start", default=0)
    (['ann', 'bob'], [5, 0])
    >>> data.take(["u2"]) == {"u2": {"speaker": "bob"}}
    True
    """

    def __init__(self, ids, columns):
        self._row_of = {key: row for row, key in enumerate(ids)}
        self.columns = columns

    @classmethod
    def of(cls, rows):
        """Those of a dict, ID -> row; Columns as they are."""
        if isinstance(rows, cls):
            return rows
        names = dict.fromkeys(name for row in rows.values() for name in row)
        return cls(
            rows,
            {
                name: pack([row.get(name, ABSENT) for row in rows.values()])
                for name in names
            },
        )

    def __len__(self):
        return len(self._row_of)

    def __iter__(self):
        return iter(self._row_of)

    def __contains__(self, key):
        return key in self._row_of

    def __getitem__(self, key):
        row = self._row_of[key]
        found = ((n, column.item(row)) for n, column in self.columns.items())
        return {name: value for name, value in found if value is not ABSENT}

    def rows_of(self, ids):
        """Row numbers of some IDs, shape [N]."""
        return np.fromiter(map(self._row_of.__getitem__, ids), int, len(ids))

    def take(self, ids):
        """Some of the rows, in that order, each once."""
        ids = list(dict.fromkeys(ids))
        rows = self.rows_of(ids)
        return Columns(ids, {n: one[rows] for n, one in self.columns.items()})

    def values_of(self, name, ids=None, default=ABSENT):
        """Values of a column, those of some IDs if they are given.

        Raises
        ------
        KeyError
            If there is none, and no default.
        """
        if name in self.columns:
            column = self.columns[name]
            values = column if ids is None else column[self.rows_of(ids)]
            values = values.tolist()
        else:
            values = [ABSENT] * len(self if ids is None else ids)
        if ABSENT not in values:
            return values
        if default is ABSENT:
            raise KeyError(name)
        return [default if value is ABSENT else value for value in values]


def columns_of(dataset):
    """Columns of a dataset, of what a filter of SpeechBrain left, in its order.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Any.

    Returns
    -------
    Columns

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> dataset = DynamicItemDataset({"a": {"n": 2}, "b": {"n": 1}})
    >>> list(columns_of(dataset.filtered_sorted(sort_key="n")))
    ['b', 'a']
    """
    data = Columns.of(dataset.data)
    return data if dataset.data_ids == [*data] else data.take(dataset.data_ids)


def set_values(data, name, found):
    """Set a column of some rows.

    Arguments
    ---------
    data : Columns or dict
        Of a dataset.
    name : str
        The column.
    found : dict
        ID -> its value.

    Example
    -------
    >>> data = Columns.of({"a": {}, "b": {}})
    >>> set_values(data, "duration", {"b": 1.5})
    >>> dict(data)
    {'a': {}, 'b': {'duration': 1.5}}
    """
    if isinstance(data, Columns):
        column = data.columns.get(name)
        values = [ABSENT] * len(data) if column is None else column.tolist()
        for row, value in zip(data.rows_of(found), found.values()):
            values[row] = value
        data.columns[name] = pack(values)
        return
    for key, value in found.items():
        data[key][name] = value
