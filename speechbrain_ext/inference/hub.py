"""Uploading an export to the Hugging Face hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from speechbrain_ext.inference.model_card import read_card
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.utils.errors import InputError

# Files of an export beside its card. Nothing else of a folder is sent.
FILES = ("hyperparams.yaml", "*.ckpt", "*.onnx", "LICEN?E*")


def push_to_hub(
    folder,
    repo_id,
    *,
    licence=None,
    private=False,
    revision=None,
    commit_message=None,
    token=None,
    trust=False,
):
    """Upload an export to the Hugging Face hub, in one commit.

    Weights of an earlier export there that are no longer in the folder are
    deleted in the same commit; what lies in folders there stays.

    Arguments
    ---------
    folder : str or Path
        The export, with its card ``README.md``.
    repo_id : str
        Where to, ``user/name`` or ``organisation/name``; made if it is not
        there.
    licence : str
        The hub's id of the licence that the head is given, e.g. "cc-by-4.0",
        for the card. Default: that of the card; without one nothing is sent.
        An encoder that is packed into the export has a licence of its own.
    private : bool
        Whether only you may see it, where it is made.
    revision : str
        A branch, made if it is not there. Default: the main one.
    commit_message : str
        Default: what the export is.
    token : str
        Of a user who may write there. Default: the one of ``hf auth login``,
        or of the variable ``HF_TOKEN``.
    trust : bool
        For an export of your own that runs code of its own, see
        :meth:`~speechbrain_ext.inference.SubspaceEncoder.from_hparams`.

    Returns
    -------
    str
        ``user/name@commit``, which
        :func:`~speechbrain_ext.inference.subspaces.load_export` takes.

    Raises
    ------
    InputError
        If the id, the export, its card, a licence or a token is missing or
        wrong, before anything is sent; or if the hub refuses.

    Example
    -------
    >>> push_to_hub("results/export", "a name")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: 'a name' is not an id of the ...
    """
    _check_id(repo_id)
    if not Path(folder).is_dir():
        raise InputError(f"No folder {folder}: expected that of an export")
    token = token or huggingface_hub.get_token()
    if not token:
        raise InputError(
            "No token for the Hugging Face hub: call hf auth login once, or "
            "set the variable HF_TOKEN, with a token that may write"
        )
    model = load_export(folder, "cpu", trust)
    card = _licensed(model.card, licence, folder)
    paths = [path for pattern in FILES for path in Path(folder).glob(pattern)]
    sent = [CommitOperationAdd(path.name, str(path)) for path in paths]
    sent.append(CommitOperationAdd("README.md", str(card).encode()))
    hparams = model.hparams
    message = f"{hparams.name}: subspaces of {hparams.encoder_label}"
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        names = {path.name for path in paths}
        stale = [
            CommitOperationDelete(name)
            for name in api.list_repo_files(repo_id, revision=revision)
            if name.endswith((".ckpt", ".onnx"))
            and name not in names
            and "/" not in name
        ]
        commit = api.create_commit(
            repo_id,
            [*sent, *stale],
            commit_message=commit_message or message,
            revision=revision,
        )
    # The kinds of network errors depend on the version of the hub.
    except Exception as error:
        reason = " ".join((str(error).strip() or repr(error)).split())
        raise InputError(
            f"Cannot push to '{repo_id}' on {api.endpoint} "
            f"({type(error).__name__}: {reason}): nothing is there in part; "
            "check that the token may write there and that the hub can be "
            "reached, and call again"
        )
    return f"{repo_id}@{commit.oid}"


def _check_id(repo_id):
    """Refuse what is not the id of a repository."""
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
        if "/" in str(repo_id):
            return
    except huggingface_hub.utils.HFValidationError:
        pass
    raise InputError(
        f"{repo_id!r} is not an id of the Hugging Face hub: expected "
        "user/name, of letters, digits, '-', '_' and '.'"
    )


def _licensed(text, licence, folder):
    """The card with a licence, or an error."""
    if not text:
        raise InputError(
            f"{folder} has no card README.md: write what the model is, what it "
            "was trained on and where it fails"
        )
    card = read_card(text)
    card.data.license = licence or card.data.license
    if not card.data.license:
        raise InputError(
            f"The card of {folder} names no licence: give the head one that "
            "its training data and encoder allow, as in licence='cc-by-4.0'"
        )
    return card
