"""Embedding and verifying utterances in the subspaces of an export."""

import contextlib
import copy
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import AudioDataset, check_audio
from speechbrain_ext.dataio.feature_cache import in_windows
from speechbrain_ext.dataio.manifest import find_recordings, recordings_name
from speechbrain_ext.dataio.remote import tidy
from speechbrain_ext.inference.export import NAME, export_subspaces
from speechbrain_ext.inference.model_card import adapted_card, read_card
from speechbrain_ext.inference.recordings import embed_recordings
from speechbrain_ext.lobes.encoders import choose_layers
from speechbrain_ext.lobes.model_files import SPEECHBRAIN_FILES, find_model
from speechbrain_ext.lobes.trust import EXPORT, check_constructors, trusted
from speechbrain_ext.metrics.calibration import cllr, fit_calibration
from speechbrain_ext.metrics.trials import cosine_scores
from speechbrain_ext.metrics.verification import check_trials
from speechbrain_ext.models import packaged_model
from speechbrain_ext.processing.adaptation import RATES, check_rate
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest, file_digest
from speechbrain_ext.utils.options import (
    check_options,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    whole,
)
from speechbrain_ext.utils.windows import mean_of_windows

logger = get_logger(__name__)

# Options of an export that decisions are made by, beside its thresholds.
DECISIONS = ("threshold_origin", "false_accepts", "calibration")


class SubspaceEncoder(Pretrained):
    """Subspaces of utterances, from an export of a post-training recipe.

    Made by ``SubspaceEncoder.from_hparams(source=FOLDER_OR_HUB_ID)``; see
    ``speechbrain.inference.interfaces.Pretrained`` for the other arguments.

    Example
    -------
    >>> from speechbrain_ext.inference.export import export_subspaces
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> from speechbrain_ext.lobes.subspaces import SubspaceNetwork
    >>> encoder = load_encoder("log_mel")
    >>> head = SubspaceNetwork(
    ...     [1, encoder.dim],
    ...     ["speaker", "content"],
    ...     {"speaker": 8, "content": 8},
    ... )
    >>> folder = str(getfixture("tmp_path") / "export")
    >>> export_subspaces(folder, encoder, head, layers=[-1])
    >>> model = SubspaceEncoder.from_hparams(source=folder)
    >>> model.subspaces
    ['speaker', 'content']
    >>> model.encode_batch(torch.randn(2, 16000), subspace="content").shape
    torch.Size([2, 1, 8])
    """

    MODULES_NEEDED = ["embedding_model"]
    HPARAMS_NEEDED = ["subspace", "sample_rate"]
    warned = False  # of a threshold from a grid
    card = ""  # the export's README.md

    @classmethod
    def from_hparams(
        cls,
        source,
        hparams_file="hyperparams.yaml",
        trust=False,
        savedir=None,
        fetch_config=FetchConfig(),  # noqa: B008, it is frozen
        **kwargs,
    ):
        """Load an export.

        SpeechBrain's own classes load it too, but cannot be made safe: they
        run whatever is in it.

        Arguments
        ---------
        source : str or Path
            A folder, or a hub id such as ``user/name`` or
            ``user/name@revision``.
        hparams_file : str
            Name of its file of options.
        trust : bool
            Whether to run what the export names, whatever it is. Without, one
            that is not made of a short list of classes is refused.
        savedir : str or Path
            Where its files are copied to; needless.
        fetch_config : speechbrain.utils.fetching.FetchConfig
            With the ``revision`` of a hub id.
        **kwargs : object
            See ``speechbrain.inference.interfaces.Pretrained``.

        Returns
        -------
        SubspaceEncoder

        Raises
        ------
        InputError
            If there is nothing, it would run something else, its weights are
            not its own, its options do not fit its encoder or head, or
            ``savedir`` holds another export.
        """
        check_options({"trust": trust}, {"trust": flag()})
        files = find_model(
            source,
            fetch_config.revision,
            SPEECHBRAIN_FILES,
            ["README.md"],
            "source=FOLDER",
        )
        path = files.folder / hparams_file
        text = _read_options(path)
        if not trust:
            check_constructors(text, EXPORT, path, kwargs.get("overrides"))
        for name in {hparams_file, *files.files} if savedir else ():
            there = Path(savedir) / name
            if there.is_file() and file_digest(there) != file_digest(
                files.folder / name
            ):
                raise InputError(
                    f"savedir {savedir} holds the {name} of another export: "
                    "give another, or none"
                )
        # Links cannot be made everywhere.
        kwargs.setdefault("local_strategy", LocalStrategy.COPY)
        before = trusted.set(trust)
        try:
            model = super().from_hparams(
                str(files.folder), hparams_file, savedir=savedir, **kwargs
            )
        except InputError:
            raise
        # What damaged files raise depends on where the damage is.
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise InputError(f"Cannot load the export '{source}': {reason}")
        finally:
            trusted.reset(before)
        if model is not None:  # with download_only
            model._check(path)
            card = files.folder / "README.md"
            if card.is_file():
                model.card = card.read_text(encoding="utf-8", errors="replace")
        return model

    @classmethod
    def from_packaged(cls, **kwargs):
        """The export that comes with this package: nothing is downloaded.

        A closed form on the encoder ``mini``, fitted to a synthetic grid and to
        unlabelled recordings; see its card, ``README.md`` in
        ``speechbrain_ext/models/mini_subspaces``.

        Arguments
        ---------
        **kwargs : object
            See :meth:`from_hparams`.

        Returns
        -------
        SubspaceEncoder
        """
        return cls.from_hparams(packaged_model("mini_subspaces"), **kwargs)

    def _check(self, path):
        """Refuse options that do not fit the encoder or the head."""
        hparams, module = self.hparams, self.mods.embedding_model
        encoder, n = module.encoder, module.encoder.n_layers
        # What older exports do not have.
        older = {
            "name": "subspaces",
            "seed": None,
            "encoder_label": encoder.identity.get("name"),
            "threshold_origin": "grid",
            "false_accepts": {},
            "calibration": {},
        }
        vars(hparams).update(older | vars(hparams))
        options = {
            "layers": module.layers,
            "sample_rate": hparams.sample_rate,
            "thresholds": getattr(hparams, "thresholds", None),
        }
        options |= {name: getattr(hparams, name) for name in DECISIONS}
        rules = {
            "layers": list_of(whole(-n, n - 1)),
            "sample_rate": one_of(encoder.sample_rate),
            "thresholds": optional(mapping(self.subspaces, number(-1, 1))),
            "threshold_origin": one_of("grid", "recordings", "pairs"),
            "false_accepts": mapping(
                self.subspaces, mapping(RATES, number(-1, 1))
            ),
            "calibration": mapping(self.subspaces, list_of(number(), 2)),
        }
        check_options(options, rules, f"{path}: ")
        hparams.thresholds = getattr(hparams, "thresholds", None) or {}
        module.layers = choose_layers(encoder, module.layers)
        if hasattr(hparams, "sources"):
            module.network.sources = hparams.sources

    @property
    def subspaces(self):
        """Names of the subspaces."""
        return list(self.mods.embedding_model.network.subspaces)

    def encode_batch(self, wavs, wav_lens=None, subspace=None):
        """Embeddings of a batch in one subspace.

        Those above 30 s are encoded in windows, see
        :mod:`speechbrain_ext.utils.windows`.

        Arguments
        ---------
        wavs : torch.Tensor, numpy.ndarray or list
            Waveforms in [-1, 1], shape [B, time] or [time], at
            ``hparams.sample_rate``; or a list of some of shape [time].
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: all full.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, D].

        Raises
        ------
        InputError
            If there is no such subspace, or the waveforms are not that.
        """
        model = self.mods.embedding_model
        name = model.choose_subspace(subspace)
        if isinstance(wavs, (list, tuple)) and wav_lens is None and len(wavs):
            wavs = [_waveforms(wav) for wav in wavs]
            if any(wav.dim() != 1 for wav in wavs):
                raise InputError(
                    "encode_batch takes a list of waveforms of shape [time], "
                    f"got {[list(wav.shape) for wav in wavs]}"
                )
            samples = torch.tensor([len(wav) for wav in wavs])
            wav_lens = samples / samples.max().clamp(min=1)
            wavs = pad_sequence(wavs, batch_first=True)
        wavs = _waveforms(wavs)
        wavs = wavs.unsqueeze(0) if wavs.dim() == 1 else wavs
        if wavs.dtype == torch.float64:  # not every accelerator has it
            wavs = wavs.float()
        wavs = wavs.to(self.device)
        return model.embed(wavs, wav_lens)[name].unsqueeze(1)

    def forward(self, wavs, wav_lens=None, subspace=None):
        """The same as :meth:`encode_batch`."""
        return self.encode_batch(wavs, wav_lens, subspace)

    def encode_file(self, path, subspace=None):
        """Embedding of a file, or of several, in one subspace.

        Of files above 30 s windows are read and encoded, one after the other,
        see :mod:`speechbrain_ext.utils.windows`.

        Arguments
        ---------
        path : str, Path or list
            An audio file, or some; other rates are resampled, channels
            averaged.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        torch.Tensor
            Shape [files, 1, D].

        Raises
        ------
        InputError
            If a file cannot be read or there is no such subspace.
        """
        model = self.mods.embedding_model
        name = model.choose_subspace(subspace)
        paths = list(path) if isinstance(path, (list, tuple)) else [path]
        for one in paths:
            if not isinstance(one, (str, Path)):
                raise InputError(
                    f"encode_file takes paths of audio files, got {one!r}; "
                    "waveforms go to encode_batch"
                )
        dataset = find_recordings(paths)
        pooled = self._pooled_files(dataset)
        vectors = dict(zip(dataset.data, model.network(pooled)[name]))
        return torch.stack([vectors[tidy(one)] for one in paths]).unsqueeze(1)

    @torch.no_grad()
    def _pooled_files(self, dataset):
        """Features of recordings that the head takes, [N, layers, dim]."""
        rate = self.hparams.sample_rate
        check_audio(dataset, rate)
        cut, spans = in_windows(dataset)
        pooled = [
            self.mods.embedding_model.pooled(item["sig"][None].to(self.device))
            for item in AudioDataset(cut, rate)
        ]
        return mean_of_windows(
            torch.cat(pooled),
            [*Counter(utterance for utterance, *_ in spans).values()],
            [row["duration"] for row in cut.data.values()],
        )

    def verify_files(self, path_a, path_b, subspace=None, false_accepts=None):
        """Whether two files agree in the factor of a subspace.

        Arguments
        ---------
        path_a, path_b : str or Path
            Two audio files.
        subspace : str
            Which one. Default: the export's ``subspace``.
        false_accepts : float
            Wanted rate of false acceptance, of those that :meth:`adapt` keeps
            thresholds for, e.g. 0.05. Default: the export's threshold.

        Returns
        -------
        score : torch.Tensor
            Cosine similarity, shape [1].
        decision : torch.Tensor
            Whether it exceeds the threshold, shape [1]. As long as that is
            from the validation grid of the training, the first call warns.

        Raises
        ------
        InputError
            If there is no threshold for it.
        """
        threshold = self.threshold(subspace, false_accepts)
        score = self._score(path_a, path_b, subspace)
        return score, score > threshold

    def verify_batch(
        self,
        wavs1,
        wavs2,
        wav1_lens=None,
        wav2_lens=None,
        subspace=None,
        false_accepts=None,
    ):
        """Whether the pairs of two batches agree in the factor of a subspace.

        Arguments
        ---------
        wavs1, wavs2, wav1_lens, wav2_lens
            As of :meth:`encode_batch`, B of both.
        subspace, false_accepts
            As of :meth:`verify_files`.

        Returns
        -------
        score : torch.Tensor
            Cosine similarity, shape [B].
        decision : torch.Tensor
            Whether it exceeds the threshold, shape [B].

        Raises
        ------
        InputError
            If there is no threshold for it.
        """
        threshold = self.threshold(subspace, false_accepts)
        score = torch.cosine_similarity(
            self.encode_batch(wavs1, wav1_lens, subspace)[:, 0],
            self.encode_batch(wavs2, wav2_lens, subspace)[:, 0],
        )
        return score, score > threshold

    def threshold(self, subspace=None, false_accepts=None):
        """The score above which two utterances are called the same.

        Arguments
        ---------
        subspace, false_accepts
            As of :meth:`verify_files`.

        Returns
        -------
        float

        Raises
        ------
        InputError
            If there is none.
        """
        name = self.mods.embedding_model.choose_subspace(subspace)
        thresholds = self.hparams.thresholds
        if false_accepts is not None:
            known = self.hparams.false_accepts.get(name)
            if not known:
                raise InputError(
                    f"This export has no thresholds of false acceptance for "
                    f"subspace '{name}': adapt it to recordings, or leave out "
                    "false_accepts"
                )
            check_options(
                {"false_accepts": false_accepts},
                {"false_accepts": one_of(*known)},
            )
            return known[false_accepts]
        if (
            self.hparams.threshold_origin == "grid"
            and name not in self.hparams.calibration
            and not self.warned
        ):
            self.warned = True  # said once
            logger.warning(
                "The threshold of this export is that of its training's "
                "validation grid: on other recordings it may accept strangers. "
                "Adapt it to unlabelled recordings like yours, or calibrate it "
                "on labelled pairs"
            )
        if name not in thresholds:
            raise InputError(
                f"This export has no threshold for subspace '{name}': adapt "
                "it to recordings, calibrate it on pairs, or compare the "
                "vectors of both files"
            )
        return thresholds[name]

    def _score(self, path_a, path_b, subspace=None):
        """Cosine similarity of two files, shape [1]."""
        one, other = self.encode_file([path_a, path_b], subspace)
        return torch.cosine_similarity(one, other)

    def log_likelihood_ratio(self, path_a, path_b, subspace=None):
        """How much likelier two files are if they agree than if not.

        Arguments
        ---------
        path_a, path_b : str or Path
            Two audio files.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        torch.Tensor
            Natural logarithm of the ratio, shape [1].

        Raises
        ------
        InputError
            If :meth:`calibrate` was not called for it.
        """
        name = self.mods.embedding_model.choose_subspace(subspace)
        if name not in self.hparams.calibration:
            raise InputError(
                f"Subspace '{name}' is not calibrated: call calibrate(pairs)"
            )
        scale, offset = self.hparams.calibration[name]
        return scale * self._score(path_a, path_b, name) + offset

    def adapt(
        self,
        source,
        data_root=None,
        *,
        name=None,
        false_accepts=0.01,
        cache_folder=None,
        progress=True,
        **extraction,
    ):
        """A model that is fitted to unlabelled recordings like yours.

        Each recording is encoded as it is and after interventions on it (parts
        of it, random channels, other speeds), the closed form is fitted to
        what they change, and thresholds are estimated. A few hundred recordings
        of many speakers are good, best a few of each; this model stays as it
        is.

        Arguments
        ---------
        source : str, Path, list or DynamicItemDataset
            See :func:`~speechbrain_ext.dataio.manifest.find_recordings`.
        data_root : str or Path
            Of a manifest: folder that its paths start from.
        name : str
            What the recordings are called. Default: the name of the folder.
        false_accepts : float
            Rate of false acceptance of the new thresholds, one of
            :data:`~speechbrain_ext.processing.adaptation.RATES`.
        cache_folder : str or Path
            Keeps the features, so that a second call is fast; of very many
            recordings they are large. Default: a temporary folder.
        progress : bool
            Show a progress bar.
        **extraction : object
            As of :func:`~speechbrain_ext.dataio.feature_cache.
            extract_features`: ``batch_size``, ``num_workers``, ...

        Returns
        -------
        SubspaceEncoder
            Another one; :meth:`save` writes it.

        Raises
        ------
        InputError
            If this is not an export of a closed form, or there are too few
            recordings, or some cannot be read.
        """
        module, hparams = self.mods.embedding_model, self.hparams
        rules = {"false_accepts": one_of(*RATES), "name": optional(NAME)}
        check_options({"false_accepts": false_accepts, "name": name}, rules)
        if getattr(hparams, "adaptation", None) is None:
            raise InputError(
                f"'{hparams.name}' is not a closed form that was exported with "
                "what it was fitted to: train the recommended head, give "
                "export_subspaces its adaptation, or call estimate_statistics"
            )
        name, card = name or recordings_name(source), read_card(self.card)
        dataset = find_recordings(source, data_root)
        check_audio(dataset, hparams.sample_rate)
        with contextlib.ExitStack() as stack:
            folder = cache_folder or stack.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            )
            planned = hparams.adaptation.plan(
                dataset,
                module.encoder,
                self.subspaces,
                name,
                cache_folder=folder,
                device=self.device,
                progress=progress,
                **extraction,
            )
            check_rate(false_accepts, planned)
            adapted = hparams.adaptation.fit(
                module.network,
                {view: extract() for view, extract in planned.items()},
                module.layers,
                name,
            )
        # A subspace of which recordings tell nothing keeps its own.
        thresholds = {
            subspace: threshold
            for subspace, threshold in hparams.thresholds.items()
            if subspace not in adapted.thresholds
        }
        for subspace, known in adapted.thresholds.items():
            thresholds[subspace] = known[false_accepts]
        model = self._copy(adapted.head.to(self.device))
        vars(model.hparams).update(
            name=f"{hparams.name.removesuffix('_adapted')}_adapted",
            sources=adapted.head.sources,
            threshold_origin="recordings",
            false_accepts=adapted.thresholds,
            thresholds=thresholds,
            calibration={},
        )
        own = adapted.head.sources[-1]
        hours = sum(row["duration"] for row in dataset.data.values()) / 3600
        model.card = adapted_card(card, own, hours, adapted, false_accepts)
        return model

    def _copy(self, head=None):
        """The same model with the same encoder, and perhaps another head."""
        module = self.mods.embedding_model
        shared = [module.encoder, getattr(self.hparams, "sources", None)]
        memo = {id(one): one for one in shared}
        if head is not None:
            memo[id(module.network)] = head
        return copy.deepcopy(self, memo)

    def calibrate(self, pairs, subspace=None, **extraction):
        """A model with a threshold and likelihood ratios from labelled pairs.

        Arguments
        ---------
        pairs : list of tuple
            (path, other path, whether they agree), of both kinds.
        subspace : str
            Which one. Default: the export's ``subspace``.
        **extraction : object
            As of :func:`~speechbrain_ext.inference.recordings.
            embed_recordings`.

        Returns
        -------
        SubspaceEncoder
            Another one. Its threshold is where both kinds are as likely;
            :meth:`log_likelihood_ratio` compares two files.

        Raises
        ------
        InputError
            If the pairs are of one kind, or cannot be told apart.
        """
        name = self.mods.embedding_model.choose_subspace(subspace)
        pairs = list(pairs)
        for pair in pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 3:
                raise InputError(
                    f"The pair {pair} is not (path, other path, whether they "
                    "agree)"
                )
        labels = [agree for *_, agree in pairs]
        check_trials([0.0] * len(pairs), labels)
        paths = [path for pair in pairs for path in pair[:2]]
        made = embed_recordings(
            self, find_recordings(paths), name, **extraction
        )
        row = {key: i for i, key in enumerate(made.ids)}
        enrol, test = (
            [row[str(Path(p[side]))] for p in pairs] for side in (0, 1)
        )
        scores = cosine_scores(made.vectors, enrol, test)
        scale, offset = fit_calibration(scores, labels)
        if not -1 <= -offset / scale <= 1:
            raise InputError(
                f"These {len(pairs)} pairs cannot be told apart in subspace "
                f"'{name}': give more, or another subspace"
            )
        model = self._copy()
        hparams = model.hparams
        hparams.calibration = hparams.calibration | {name: [scale, offset]}
        hparams.thresholds = hparams.thresholds | {name: -offset / scale}
        if set(hparams.thresholds) <= set(hparams.calibration):
            hparams.threshold_origin = "pairs"
        ratios = scale * scores + offset
        model.card += (
            f"\n## Calibration\n\nSubspace `{name}`, on {len(pairs)} pairs: "
            f"Cllr {cllr(ratios, labels):.3f} bits on these pairs.\n"
        )
        return model

    def save(self, folder):
        """Write this model as an export, complete or not at all.

        Arguments
        ---------
        folder : str or Path
            Where to. An earlier export there is replaced.
        """
        module, hparams = self.mods.embedding_model, self.hparams
        export_subspaces(
            folder,
            module.encoder,
            module.network,
            module.layers,
            name=hparams.name,
            encoder_label=hparams.encoder_label,
            seed=hparams.seed,
            subspace=module.subspace,
            thresholds=hparams.thresholds,
            threshold_origin=hparams.threshold_origin,
            false_accepts=hparams.false_accepts,
            calibration=hparams.calibration,
            adaptation=getattr(hparams, "adaptation", None),
            card=self.card or None,
        )

    def push_to_hub(self, repo_id, **options):
        """Upload this model to the Hugging Face hub.

        Arguments
        ---------
        repo_id : str
            Where to, ``user/name``.
        **options : object
            See :func:`~speechbrain_ext.inference.hub.push_to_hub`.

        Returns
        -------
        str
            ``user/name@commit``, which :meth:`from_hparams` takes.
        """
        # It loads what it is given, by this class.
        from speechbrain_ext.inference.hub import push_to_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save(f"{folder}/export")
            return push_to_hub(
                f"{folder}/export", repo_id, trust=True, **options
            )

    def estimate_statistics(self, manifest, data_root=None):
        """Replace the input statistics by those of a target domain.

        Unlabelled audio suffices. Works on exports whose head was trained on
        standardised features. Thresholds of recordings or pairs are dropped.

        Arguments
        ---------
        manifest, data_root
            See :func:`~speechbrain_ext.dataio.manifest.find_recordings`.

        Returns
        -------
        SubspaceEncoder
            Itself.

        Raises
        ------
        InputError
            If the head uses no statistics, or the audio cannot be read.
        """
        model = self.mods.embedding_model
        if not model.network.standardise:
            raise InputError(
                "This export takes features as they are (standardise: False "
                "in its training): there are no statistics to estimate"
            )
        manifest = find_recordings(manifest, data_root)
        model.network.fit_statistics(self._pooled_files(manifest))
        # Those of other statistics hold no longer; of a grid's one is warned.
        hparams = self.hparams
        hparams.false_accepts, hparams.calibration = {}, {}
        if getattr(hparams, "threshold_origin", "grid") != "grid":
            hparams.thresholds = {}
        return self


def _waveforms(wavs):
    """Waveforms as a tensor."""
    if isinstance(wavs, torch.Tensor):
        return wavs
    try:
        # A copy, of a reversed or read-only array too.
        return torch.from_numpy(np.array(wavs))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            "encode_batch takes waveforms of shape [B, time] as tensor or "
            "array, or a list of waveforms; files go to encode_file"
        )


def _read_options(path):
    """Text of the options of an export."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text in UTF-8: {error}")


def load_exports(folders, names=None, device=None, trust=False):
    """Several exports, to be compared.

    Arguments
    ---------
    folders : str or list
        An export, or several.
    names : list of str
        What to call them, in place of ``hparams.name``.
    device : str
        Where they run. Default: a GPU where there is one.
    trust : bool
        See :meth:`SubspaceEncoder.from_hparams`.

    Returns
    -------
    list of SubspaceEncoder
        Of each the name, seed and encoder in tables are ``hparams.name``,
        ``hparams.seed`` and ``hparams.encoder_label``.

    Raises
    ------
    InputError
        If a folder holds no export, there are more or fewer names than
        exports, a name is none, or two exports cannot be told apart.

    Example
    -------
    >>> load_exports("a", names=["one", "two"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: 1 exports, but 2 names: ...
    """
    if isinstance(folders, (str, Path)) or not folders:
        folders = [folders or None]
    if isinstance(names, str):
        names = [names]
    if names is not None and len(names) != len(folders):
        raise InputError(
            f"{len(folders)} exports, but {len(names)} names: give each a "
            "name, as in --export_names='[a, b]'"
        )
    rule = optional(list_of(NAME))
    check_options({"export_names": names}, {"export_names": rule})
    models = [load_export(folder, device, trust) for folder in folders]
    known = {}
    for i, model in enumerate(models):
        hparams, module = model.hparams, model.mods.embedding_model
        if names is not None:
            hparams.name = names[i]
        check_options(vars(hparams), {"name": NAME}, f"{folders[i]}: ")
        features = digest([module.encoder.identity, module.layers])
        # Only seeds of one system may share a name: tables tell them apart.
        for folder, other, seed in known.setdefault(hparams.name, []):
            if other == features and seed != hparams.seed:
                continue
            what = "the same" if other == features else "other"
            raise InputError(
                f"The exports {folder} and {folders[i]} are both called "
                f"'{hparams.name}', of seeds {seed} and {hparams.seed}, on "
                f"{what} features: give each a name of its own, as in "
                "--export_names='[a, b]'"
            )
        known[hparams.name].append((folders[i], features, hparams.seed))
    return models


def load_export(folder, device=None, trust=False, revision=None):
    """Load an export, or say why it cannot be.

    Arguments
    ---------
    folder : str or Path
        A folder, a hub id such as ``user/name`` or ``user/name@revision``, or
        ``packaged``, see :meth:`SubspaceEncoder.from_packaged`.
    device : str
        Where it runs. Default: a GPU where there is one.
    trust : bool
        See :meth:`SubspaceEncoder.from_hparams`.
    revision : str
        Branch, tag or commit of a hub id.

    Returns
    -------
    SubspaceEncoder

    Raises
    ------
    InputError
        If there is nothing, another model, a damaged export, or one that would
        run something else.

    Example
    -------
    >>> load_export("/no/such/export")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: No export in '/no/such/export'...
    """
    if folder is None:
        raise InputError(
            "No export_folder: give --export_folder FOLDER_OR_HUB_ID, what a "
            "post-training run left in <output_folder>/export"
        )
    if folder == "packaged":
        return SubspaceEncoder.from_packaged(run_opts={"device": device})
    try:
        files = find_model(
            folder, revision, SPEECHBRAIN_FILES, ["README.md"], None
        )
    except InputError as error:
        if Path(str(folder), "hyperparams.yaml").is_file():
            raise
        raise InputError(
            f"No export in '{folder}' ({error}): --export_folder takes the "
            "folder <output_folder>/export of a finished post-training run, or "
            "its hub id, as in user/name or user/name@revision"
        )
    # Another model's file may download things while it is read.
    if "SubspaceEmbedding" not in _read_options(
        files.folder / "hyperparams.yaml"
    ):
        raise InputError(
            f"'{folder}' is a SpeechBrain model but not an export of a "
            "post-training recipe; for an encoder to compare with, give "
            "--system pooled --encoder ecapa --encoder_source FOLDER_OR_HUB_ID"
        )
    return SubspaceEncoder.from_hparams(
        source=str(files.folder), trust=trust, run_opts={"device": device}
    )
