"""What the options of the scripts in this folder may be, a table per script.

See :mod:`speechbrain_ext.utils.options`. What is not here may be anything that
the class that takes it allows.
"""

import inspect

from speechbrain_ext.dataio.splits import DIVISION, SPLITS
from speechbrain_ext.evaluation.score_files import FORMS
from speechbrain_ext.lobes.pooling import POOLINGS
from speechbrain_ext.processing.adaptation import RULES
from speechbrain_ext.processing.choice import (
    RULES as CHOICE,
    Choice,
)
from speechbrain_ext.processing.rivals import RIVALS
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.options import (
    MayLack,
    check_name,
    check_options,
    either,
    flag,
    folder,
    list_of,
    made,
    mapping,
    number,
    one_of,
    optional,
    some_of,
    text,
    whole,
)
from speechbrain_ext.utils.shards import SHARD

# Systems of a training beside the network.
OTHER_HEADS = ("baseline", "baseline_standardised", "recommended", "grid_lda")
OTHER_HEADS += ("pca", "random_projection", *RIVALS)
TASKS = ("verification", "content", "keywords", "leakage")
WIDTH = whole(1, 65536)  # many times what an encoder gives
LAYERS = list_of((lambda layer: type(layer) is int, "a whole number"))
WEIGHT = number(0, 1e6)


def null(reason):
    """No value, for this reason."""
    return lambda value: value is None, f"null, as {reason}"


ENCODER = ("encoder", "encoder_source", "encoder_revision", "encoder_pooling")


def named_encoder(names):
    """The name of an encoder, or a mapping of some options with it."""
    some = mapping(names, text())
    return either(
        text(),
        (
            lambda given: some[0](given) and "encoder" in given,
            f"{some[1]}, encoder among them",
        ),
    )


# A speaker encoder pools by itself.
SPEAKER_ENCODER = named_encoder(ENCODER[:3])


def factor(options):
    """A factor of the grid."""
    return one_of(*options["grid_factors"])


def content_factor(options):
    """A factor of the grid that is not verified."""
    others = [*options["grid_factors"]]
    others.remove(options["verification_factor"])
    return one_of(*others)


def widths(options):
    """A width for each subspace that is trained, and perhaps for more."""
    fits, words = mapping(options["grid_factors"], WIDTH)
    return (
        lambda given: fits(given) and set(options["factors"]) <= set(given),
        f"{words}; {' and '.join(options['factors'])} are trained",
    )


def dims(options):
    """Dimensions of the subspaces, or candidates for them."""
    return mapping(options["grid_factors"], either(WIDTH, list_of(WIDTH)))


def block(options):
    """Values of each factor in a block, as many as the grid is to have."""
    sizes = dict.fromkeys(options["grid_factors"])
    if "n_train_voices" in options and not options["skip_prep"]:
        # Else the manifest tells.
        sizes["speaker"] = options["n_train_voices"]
        sizes["content"] = options["n_train_sentences"]
        sizes |= {"rate": len(options["rates"])} if "rates" in options else {}
    fits, words = mapping(sizes, optional(whole(1)))
    planned = {name: size for name, size in sizes.items() if size}
    return (
        lambda given: (
            fits(given)
            and all((given.get(f) or 1) <= n for f, n in planned.items())
        ),
        f"{words}, at most {planned}" if planned else words,
    )


def system_name(options):
    """A name that no other head has, where a network is trained."""
    if not options["number_of_epochs"]:
        return text()
    return (
        lambda name: text()[0](name) and name not in OTHER_HEADS,
        f"a name of the network that is not one of {', '.join(OTHER_HEADS)}",
    )


def exported(options):
    """A head that is fitted to factors."""
    recommended = ["recommended"] if options["recommended"] is not None else []
    return one_of(options["system_name"], *recommended)


def rival_encoder(options):
    """An encoder for the rival that takes one."""
    if "regression_removal" in options["rivals"]:
        return optional(SPEAKER_ENCODER)
    return null("regression_removal is not among rivals")


def augmented_takes(options):
    """As many as the network takes, where both heads share them."""
    shared = options["recommended"] is not None
    return whole(options["network_takes"] if shared else 0)


def unlabelled(options):
    """Recordings need something that is adapted to them."""
    for name in ("adaptation", "recommended"):
        if options[name] is None:
            return null(f"{name} is null")
    if options["exported"] != "recommended":
        return null("only the head recommended is adapted, not the exported")
    return optional(either(text(), list_of(text())))


def network_views(options):
    """Views need recordings."""
    if options["unlabelled"] is not None:
        return flag()
    return lambda value: value is False, "False, as unlabelled is null"


def loss_weights(options):
    """Numbers, or ramps that the training comes to the end of."""
    # Without epochs it takes none.
    epoch = whole(1, options["number_of_epochs"] or None)
    ramp = (
        lambda ramp: (
            isinstance(ramp, (list, tuple))
            and len(ramp) == 4
            and all(map(WEIGHT[0], ramp[:2]))
            and all(map(epoch[0], ramp[2:]))
            and ramp[2] < ramp[3]
        ),
        "a ramp [weight before, weight after, first epoch, last epoch], each "
        f"epoch {epoch[1]}",
    )
    names = [*options["grid_factors"], "orthogonality"]
    return mapping(names, either(WEIGHT, ramp))


def block_order(options):
    """Between recordings in views, blocks have no order."""
    if options["network_views"]:
        return one_of("shuffled")
    return one_of("shuffled", "grouped")


def cohort(options):
    """Of a scoring that takes one."""
    if options["scoring"] == "cosine":
        return null("scoring is cosine")
    return optional(text())


def layers_of_heads(options):
    """Layers by numbers, or to be chosen where something can choose them."""
    if options["choice"] is None:
        return LAYERS[0], f"{LAYERS[1]}, as choice is null"
    return either(one_of("auto"), LAYERS)


def check_choice(choice, recommended):
    """Refuse what cannot choose, and a head that cannot take the choice."""
    if not isinstance(choice, (Choice, type(None))):
        raise InputError(
            f"choice is {choice!r}: expected null or an object that "
            "!new:speechbrain_ext.processing.choice.Choice makes"
        )
    if choice and recommended:
        for name in ("layers", "shrinkage", "dims"):
            known = inspect.signature(recommended).parameters
            check_name("choice is given, but recommended takes no", name, known)


def check_positions(layers, recommended):
    """Refuse positions that are not among the layers."""
    positions = getattr(recommended, "keywords", {}).get("layers") or {}
    rule = list_of(whole(-len(layers), len(layers) - 1))
    options = {
        f"recommended: layers: {name}": p for name, p in positions.items()
    }
    check_options(options, dict.fromkeys(options, rule))


# Of these columns each utterance has its own value.
NO_FACTORS = ("ID", "wav", "start", "stop", "duration", "id")
COLUMN = (
    lambda name: text()[0](name) and name not in NO_FACTORS,
    f"not one of {', '.join(NO_FACTORS)}",
)
GIVEN = (lambda value: isinstance(value, dict), "{key: value}")
EXTRACTION = {
    "extraction": GIVEN,
    "extraction.dtype": one_of("float32", "float16"),
    "extraction.precision": one_of("fp32", "bf16", "fp16"),
    "extraction.batch_size": whole(1),
    "extraction.batch_seconds": number(above=0),
    "extraction.num_workers": optional(whole(0)),
}
COLUMNS = (
    lambda names: all(map(text()[0], [*names, *names.values()])),
    "{our name: the name in the file}",
)
DATA = {
    "seed": whole(0),
    "data_folder": folder(),
    "output_folder": folder(),
    "cache_folder": folder(),
    "manifest": text(),
    "columns": COLUMNS,
    "resample": flag(),
    "channel": made(),
    "channel_seed": whole(0),
    "score_files": optional(some_of(*FORMS)),
    "shard": SHARD,
    **EXTRACTION,
}
OBJECTS = ("encoder_model", "network", "loss", "opt_class", "lr_scheduler")
OBJECTS += ("epoch_counter", "train_logger", "checkpointer")
TRAIN = {
    **DATA,
    **dict.fromkeys(OBJECTS, made()),
    "recommended": optional(made()),
    "release": MayLack(one_of("paper", "july", "june")),
    "encoder": MayLack(text()),
    "encoder_source": MayLack(optional(text())),
    "encoder_revision": MayLack(optional(text())),
    "encoder_pooling": MayLack(optional(one_of(*POOLINGS))),
    "encoder_label": text(),
    "save_folder": folder(),
    "skip_prep": MayLack(flag()),
    **{f"n_{split}_voices": MayLack(whole(2)) for split in SPLITS},
    **{f"n_{split}_sentences": MayLack(whole(2)) for split in SPLITS},
    "grid_seed": MayLack(whole(0)),
    "rates": MayLack(list_of(whole(1), 2)),
    "grid_factors": (
        lambda names: len(names) == len(set(names))
        and list_of(COLUMN, 2)[0](names),
        f"a list of two or more different columns, each {COLUMN[1]}",
    ),
    "verification_factor": factor,
    "content_factor": content_factor,
    "split.by": factor,
    "split.held_out": lambda options: optional(factor(options)),
    "split": GIVEN,
    **{f"split.{name}": rule for name, rule in DIVISION.items()},
    "split.split_names": mapping(SPLITS, text()),
    "layers": layers_of_heads,
    "choice": optional(made()),
    **{f"choice.{name}": rule for name, rule in CHOICE.items()},
    "choice.dims": dims,
    "network_takes": whole(0),
    "network_views": network_views,
    "augmented_takes": augmented_takes,
    "factors": lambda options: some_of(*options["grid_factors"]),
    "subspace_widths": widths,
    "train_block": block,
    "valid_block": lambda options: mapping(
        options["grid_factors"], optional(whole(1))
    ),
    "block_order": block_order,
    "ddp_blocks": one_of("shared", "own"),
    "number_of_epochs": whole(0),
    # Without epochs there is nothing to wait for.
    "patience": lambda options: whole(min(1, options["number_of_epochs"])),
    "optimizer_step_limit": optional(whole(1)),
    "lr_interval": one_of("step", "epoch"),
    "max_lr": MayLack(number(above=0, most=1e6)),
    "max_grad_norm": MayLack(number(above=0)),
    "checkpoint": one_of("last", "best"),
    "system_name": system_name,
    "recommended.dims": lambda options: either(
        WIDTH, mapping(options["grid_factors"], WIDTH)
    ),
    "recommended.channel_weight": number(0, 1e6),
    "recommended.shrinkage": number(0, 1),
    "recommended.layers": lambda options: optional(
        mapping(options["grid_factors"], LAYERS)
    ),
    "rivals": either((lambda names: names == [], "[]"), some_of(*RIVALS)),
    "rival_encoder": rival_encoder,
    "exported": exported,
    "unlabelled": unlabelled,
    "adaptation": optional(made()),
    "adaptation.interventions": (
        lambda given: given and all(map(made()[0], given.values())),
        "{factor: !name:module.Class}",
    ),
    "adaptation.differ_in": factor,
    **{f"adaptation.{name}": rule for name, rule in RULES.items()},
    "adaptation.dims": dims,
    "network.hidden": list_of(WIDTH, 0),
    "network.projection": optional(WIDTH),
    "network.residual_width": either(one_of(0), WIDTH),
    "network.layer_mixture": flag(),
    "network.standardise": flag(),
    "loss.temperature": number(above=0, most=1e6),
    "loss.margin": number(-2, 2),
    "loss.orthogonality": one_of("published", "published_batch", "cka"),
    "loss.weights": loss_weights,
    "opt_class.weight_decay": number(0, 1e6),
    "lr_scheduler.total_steps": null("it is the length of the training"),
    "lr_scheduler.pct_start": number(above=0, most=1),
    "lr_scheduler.div_factor": number(above=0, most=1e9),
    "lr_scheduler.final_div_factor": number(above=0, most=1e12),
}
EVALUATE = {
    **DATA,
    "export_folder": optional(either(text(), list_of(text()))),
    "export_names": optional(either(text(), list_of(text()))),
    "speaker_encoders": list_of(SPEAKER_ENCODER, 0),
    "trust": flag(),
    "speech_commands": flag(),
    "voxceleb1": flag(),
    "voxceleb1_meta": optional(text()),
    "protocol": optional(text()),
    "conditions": optional(
        either(one_of("recorded", "channels"), some_of("recorded", "channels"))
    ),
    "verification_factor": COLUMN,
    "content_factor": optional(COLUMN),
    "gender_factor": optional(COLUMN),
    "leakage_factors": optional(
        (
            lambda names: len(set(names)) > 1 and list_of(COLUMN, 2)[0](names),
            "two different columns or more, as in [speaker, content, rate], "
            f"each {COLUMN[1]}",
        )
    ),
    "evaluated_split": optional(text()),
    "keyword_split": text(),
    "tasks": either(one_of(*TASKS), some_of(*TASKS)),
    "trials": optional(either(text(), list_of(text()))),
    "different_content": flag(),
    "same_gender": flag(),
    "max_targets": optional(whole(1)),
    "max_nontargets": optional(whole(1)),
    "scoring": text(),
    "cohort_split": cohort,
    "cohort_data": cohort,
    "cohort_columns": lambda options: (
        COLUMNS
        if options["cohort_data"]
        else (lambda names: not names, "{}, as cohort_data is null")
    ),
    "domain_statistics": one_of("grid", "target"),
    "resamples": either(one_of(0), whole(2)),
    "reference": lambda options: (
        optional(text()) if options["resamples"] else null("resamples is 0")
    ),
    "probe_folds": whole(2),
}
SEVERAL_LAYERS = list_of(LAYERS, 0)
EXPERIMENTS = {
    "systems": GIVEN,
    "train_options": optional(GIVEN),
    "evaluations": GIVEN,
    "output_folder": folder(),
    "cache_folder": folder(),
    "experiments": lambda options: some_of(*options["systems"]),
    "encoders": list_of(named_encoder(ENCODER)),
    "layers": list_of(LAYERS),
    "sweep": SEVERAL_LAYERS,
    "seeds": list_of(whole(0)),
    "devices": list_of(optional(text())),
    "evaluate_hparams": text(),
}
