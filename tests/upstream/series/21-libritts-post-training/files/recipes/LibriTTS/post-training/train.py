#!/usr/bin/env python3
"""Recipe for interventional post-training of a frozen speech encoder.

In a grid every speaker says every sentence. A frozen encoder makes one vector
of each utterance; a small network maps it to one subspace per factor (speaker,
content). In the subspace of a factor, utterances with the same value attract
and all others repel each other. At the end, held-out speakers and sentences are
verified in each subspace.

The method: J. Cox and J. Barker, "Learning task-specific subspaces via
interventional post-training of speech foundation models", Interspeech 2026,
https://arxiv.org/abs/2606.17967

To run this recipe, do the following:
> python train.py hparams/log_mel.yaml --data_folder /path/to/LibriTTS
> python train.py hparams/wavlm.yaml --data_folder /path/to/LibriTTS

Authors
 * @AUTHORS@
"""

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
import torchaudio
from hyperpyyaml import load_hyperpyyaml
from tqdm import tqdm

import speechbrain as sb
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.factor_grid import BlockSampler, Grid, GridFeatures
from speechbrain.lobes.models.subspaces import SubspaceEmbedding
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import EER, minDCF

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
CHUNK = 2**16  # trials that are scored at a time


class InterventionalBrain(sb.Brain):
    """Trains the network on blocks of pooled features.

    ``total_steps`` has to be set before ``fit``.
    """

    def compute_forward(self, batch, stage):
        """Features of a block, [B, layers, dim] -> subspaces, [B, D] each."""
        features, _ = batch
        return self.modules.network(features.to(self.device))

    def compute_objectives(self, predictions, batch, stage):
        """Contrastive loss of each factor in its subspace + orthogonality."""
        _, codes = batch
        codes = {factor: code.to(self.device) for factor, code in codes.items()}
        # Weights may change over epochs; validation losses have to compare.
        train = stage == sb.Stage.TRAIN
        epoch = self.hparams.epoch_counter.current if train else None
        loss, parts = self.hparams.compute_cost(predictions, codes, epoch)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss

    def init_optimizers(self):
        """The optimizer, and the schedule of its learning rate."""
        super().init_optimizers()
        self.scheduler = self.hparams.lr_scheduler(
            self.optimizer, total_steps=self.total_steps
        )
        self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The learning rate changes with each step."""
        if should_step:
            self.scheduler.step()

    def on_stage_start(self, stage, epoch=None):
        """Start the means of the parts of the loss."""
        self.parts = {}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, keep the last and the best checkpoints."""
        stats = {"loss": stage_loss}
        for name, values in self.parts.items():
            stats[name] = torch.stack(values).mean().item()
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.checkpointer.save_and_keep_only(
            meta={"loss": stage_loss}, min_keys=["loss"]
        )

    def verify(self, test_set, trials):
        """Error rates of each factor in the features and in each subspace.

        Arguments
        ---------
        test_set : GridFeatures
            Features with their factors.
        trials : tuple
            What make_trials returns.
        """
        if self.checkpointer.find_checkpoint(min_key="loss") is None:
            raise ValueError("An untrained network is not tested")
        self.on_evaluate_start(min_key="loss")
        network = self.hparams.network.eval()
        features = test_set.features.to(self.device)
        with torch.no_grad(), self.evaluation_ctx:
            # What the network makes of its input is compared with its input.
            vectors = {"pooled": network.standardiser(features).flatten(1)}
            vectors.update(network(features))
        first, second, shared = (x.to(self.device) for x in trials)
        for name, vector in vectors.items():
            scores = cosine_scores(vector.float(), first, second)
            stats = {}
            for i, factor in enumerate(test_set.grid.factors):
                same, other = split_trials(shared, i)
                eer, _ = EER(scores[same], scores[other])
                min_dcf, _ = minDCF(scores[same], scores[other])
                stats[f"{factor} EER%"] = 100 * eer
                stats[f"{factor} minDCF"] = min_dcf
            self.hparams.train_logger.log_stats(
                {"vectors": name}, test_stats=stats
            )


def dataio_prep(hparams):
    """Creates the dataset and the grid of each split, by its name."""

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav):
        sig, rate = audio_io.load(wav)
        if rate != hparams["sample_rate"]:
            sig = torchaudio.functional.resample(
                sig, rate, hparams["sample_rate"]
            )
        return sig.mean(dim=0)

    datasets, grids = {}, {}
    for split in SPLITS:
        path = hparams[f"{split}_annotation"]
        dataset = sb.dataio.dataset.DynamicItemDataset.from_csv(
            csv_path=path,
            replacements={"data_root": hparams["grid_folder"]},
            dynamic_items=[audio_pipeline],
            output_keys=["id", "sig"],
        )
        for column in ("duration", "wav", *hparams["factors"]):
            if not all(row.get(column) for row in dataset.data.values()):
                raise ValueError(
                    f"{path} has no column '{column}', or rows without a value "
                    "of it: it needs ID, duration, wav and the factors "
                    f"{hparams['factors']}"
                )
        # In the order of their durations, so that batches need little padding.
        datasets[split] = dataset.filtered_sorted(sort_key="duration")
        rows = [dataset.data[key] for key in datasets[split].data_ids]
        labels = {f: [row[f] for row in rows] for f in hparams["factors"]}
        grids[split] = Grid(labels, name=f"{split} grid")
    for factor in hparams["factors"]:
        known = set(grids["train"].values[factor])
        known.intersection_update(grids["test"].values[factor])
        if known:
            logger.warning(
                f"{len(known)} values of '{factor}' in the test grid are "
                "trained on: error rates are not those of unseen ones."
            )
    return datasets, grids


def make_blocks(hparams, grids, n_processes):
    """Batches of training and validation: BlockSamplers of the grids."""
    train_blocks = BlockSampler(
        grids["train"],
        hparams["train_block"],
        seed=hparams["seed"],
        order=hparams["block_order"],
        multiple_of=n_processes,
    )
    valid_blocks = BlockSampler(
        grids["valid"], hparams["valid_block"], hparams["seed"], order="fixed"
    )
    return train_blocks, valid_blocks


def make_trials(grid, max_trials, seed):
    """Pairs of utterances of a grid: all, or a random draw where they are many.

    Arguments
    ---------
    grid : Grid
        The utterances.
    max_trials : int
        More pairs than this are drawn from.
    seed : int
        Of the draw.

    Returns
    -------
    first, second : torch.Tensor
        Numbers of the utterances of each pair, shape [T].
    shared : torch.Tensor
        Whether they have the same value of each factor, shape [T, factors].
    """
    n = len(grid)
    if n * (n - 1) // 2 <= max_trials:
        first, second = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        first = rng.integers(n, size=max_trials)
        second = (first + rng.integers(1, n, size=max_trials)) % n
    shared = grid.codes[first] == grid.codes[second]
    trials = tuple(torch.from_numpy(x) for x in (first, second, shared))
    for i, factor in enumerate(grid.factors):
        if not all(kind.any() for kind in split_trials(trials[2], i)):
            raise ValueError(
                f"The test grid ({n} utterances) needs pairs that share "
                f"nothing but the {factor}, and pairs that share nothing"
            )
    return trials


def split_trials(shared, i):
    """Pairs that share factor i alone, and pairs that share nothing: masks."""
    count = shared.sum(dim=1)
    return shared[:, i] & (count == 1), count == 0


def cosine_scores(vectors, first, second):
    """Cosine similarities of pairs of rows, shape [T]."""
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    pairs = zip(first.split(CHUNK), second.split(CHUNK))
    return torch.cat([(vectors[i] * vectors[j]).sum(-1) for i, j in pairs])


def pool_features(split, dataset, hparams, device):
    """Pooled features of a split, made once and kept in the save folder.

    Returns a tensor of shape [utterances, layers, dim], in the order of the
    dataset.
    """
    path = os.path.join(hparams["save_folder"], f"{split}_features.pt")
    encoder = hparams["encoder"]
    rows = {key: dataset.data[key] for key in dataset.data_ids}
    origin = {
        "encoder": encoder.identity,
        "layers": hparams["layers"],
        # Checkpoints do not say whose slice is whose.
        "factors": hparams["factors"],
        # The grid may be moved between calls.
        "utterances": [
            (
                key,
                row["duration"],
                os.path.relpath(row["wav"], hparams["grid_folder"]),
            )
            for key, row in rows.items()
        ],
    }
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        if saved["origin"] == origin:
            return saved["features"]
        # Checkpoints would not fit, either.
        raise ValueError(
            f"{path} is of another encoder, other layers, factors or "
            "utterances: choose another output_folder, or delete this one"
        )
    encoder.to(device)
    features = []
    loader = make_dataloader(dataset, **hparams["dataloader_opts"])
    for batch in tqdm(loader, desc=f"Encoding ({split})", dynamic_ncols=True):
        wavs, lens = batch.to(device).sig
        features.append(encoder(wavs, lens)[:, hparams["layers"]].cpu())
    features = torch.cat(features)
    # Never found half-written
    torch.save({"origin": origin, "features": features}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
    return features


if __name__ == "__main__":
    # CLI:
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # Load hyperparameters file with command-line overrides
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)

    # Create experiment directory
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Synthesize the grid, and write its annotation
    from libritts_grid_prepare import prepare_libritts_grid  # noqa

    run_on_main(
        prepare_libritts_grid,
        kwargs={
            "data_folder": hparams["data_folder"],
            "grid_folder": hparams["grid_folder"],
            "grid_sizes": hparams["grid_sizes"],
            "annotations": {
                split: hparams[f"{split}_annotation"] for split in SPLITS
            },
            "sample_rate": hparams["sample_rate"],
            "seed": hparams["grid_seed"],
            "skip_prep": hparams["skip_prep"],
        },
    )

    # Datasets, blocks and trials: what does not fit is refused now
    datasets, grids = dataio_prep(hparams)
    n_processes = dist.get_world_size() if dist.is_initialized() else 1
    train_blocks, valid_blocks = make_blocks(hparams, grids, n_processes)
    trials = make_trials(grids["test"], hparams["max_trials"], hparams["seed"])

    # Brain class initialization
    brain = InterventionalBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )

    # Pooled features: made by the main process, read by all
    sets = {}
    for split in SPLITS:
        args = [split, datasets[split], hparams, brain.device]
        run_on_main(pool_features, args=args)
        features = GridFeatures(pool_features(*args), grids[split])
        sets[split] = features.on(brain.device)
    hparams["network"].fit_statistics(sets["train"].features)

    # Training. The sampler is told the epoch; with several processes,
    # SpeechBrain's distributed sampler takes its place and deals blocks out.
    brain.train_sampler = train_blocks
    steps = len(train_blocks) // n_processes // brain.grad_accumulation_factor
    brain.total_steps = steps * hparams["number_of_epochs"]
    loader_opts = {"collate_fn": GridFeatures.collate}
    brain.fit(
        brain.hparams.epoch_counter,
        sets["train"],
        sets["valid"],
        train_loader_kwargs={"batch_sampler": train_blocks, **loader_opts},
        valid_loader_kwargs={"batch_sampler": valid_blocks, **loader_opts},
    )

    # Test
    brain.verify(sets["test"], trials)

    # The best network, for other recipes
    embedding = SubspaceEmbedding(
        hparams["encoder"], hparams["network"], hparams["layers"]
    )
    path = os.path.join(hparams["save_folder"], "embedding_model.ckpt")
    run_on_main(embedding.save, args=[path])
