"""What the mini encoder is trained to do: six tasks on its hidden states.

- *distil*: every hidden state predicts, by one linear map, the frames of a
  layer of the teacher, which heard the clip without the random channel.
- *pooled*: the same map predicts the teacher's mean over time, where what
  varies little between clips counts as well.
- *heard*: the mean over time of a layer predicts the voice (see voices.py) of
  the crop as it is heard, so that the second-order statistics which tell
  voices apart can be read linearly from a mean.
- *voice*: the mean of a layer predicts the voice of the clip as recorded,
  through the random channel.
- *speaker*: the mean of a layer tells the pseudo-speakers apart, through a
  random channel each (only for synthetic speech, whose speaker is known).
- *word*: the same for the made-up words.
"""

import torch

from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper


def padding_mask(lengths, size):
    """True for what is not padding, [B, size].

    Arguments
    ---------
    lengths : torch.Tensor
        Relative to the size, [B].
    size : int
        Samples or frames of the batch.

    Example
    -------
    >>> padding_mask(torch.tensor([0.5, 1.0]), 2).tolist()
    [[True, False], [True, True]]
    """
    return length_to_mask((lengths * size).round(), size, torch.bool)


def masked_mean(frames, mask):
    """Mean of [B, frames, dim] over the frames of the mask, [B, dim]."""
    weight = mask[..., None].to(frames)
    return (frames * weight).sum(1) / weight.sum(1)


class Distillation(torch.nn.Module):
    """Layers of the teacher from layers of the student, frame by frame.

    The linear heads start as the identity, for a student that starts from the
    teacher's weights. Differences are measured in the teacher's standard
    deviations.

    Arguments
    ---------
    dim : int
        Width of teacher and student.
    n_layers : int
        Pairs of layers.
    """

    def __init__(self, dim, n_layers):
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(dim, dim) for _ in range(n_layers)
        )
        for head in self.heads:
            torch.nn.init.eye_(head.weight)
            torch.nn.init.zeros_(head.bias)
        self.register_buffer("mean", torch.zeros(n_layers, dim))
        self.register_buffer("std", torch.ones(n_layers, dim))
        self.register_buffer("whiten", torch.zeros(n_layers, dim, dim))

    def fit_statistics(self, frames, means):
        """Take the scale of frames, and whiten means over time.

        Arguments
        ---------
        frames : torch.Tensor
            [N, layers, dim].
        means : torch.Tensor
            Of clips, [clips, layers, dim].
        """
        self.std, self.mean = torch.std_mean(frames.float(), dim=0)
        self.std.clamp_(min=1e-3)
        for number in range(means.shape[1]):
            variances, axes = torch.linalg.eigh(means[:, number].T.cov())
            ridge = 0.1 * variances.mean()
            weight = axes / torch.sqrt(variances.clamp(min=0) + ridge)
            # The total variance of the whitened means becomes one.
            total = (variances / (variances + ridge)).sum()
            self.whiten[number] = weight / torch.sqrt(total)

    def forward(self, hidden, targets, mask):
        """Losses of each layer.

        Arguments
        ---------
        hidden : list of torch.Tensor
            Student's layers, each [B, frames, dim].
        targets : torch.Tensor
            Teacher's, [B, frames, layers, dim].
        mask : torch.Tensor
            True for frames that count, [B, frames].

        Returns
        -------
        frames, pooled : torch.Tensor
            Loss of the frames and of their means, [layers]. The latter is 1
            on whole clips for a student that knows nothing but their mean.
        """
        losses, pooled = [], []
        for number, (head, frames) in enumerate(zip(self.heads, hidden)):
            mean, std = self.mean[number], self.std[number]
            ours = head(frames)
            theirs = targets[:, :, number].float()
            difference = masked_mean(ours - theirs, mask)
            whitened = difference @ self.whiten[number]
            pooled.append(whitened.square().sum(1).mean())
            ours = (ours[mask] - mean) / std
            theirs = (theirs[mask] - mean) / std
            loss = torch.nn.functional.smooth_l1_loss(ours, theirs)
            angle = 1 - torch.cosine_similarity(ours, theirs, dim=-1).mean()
            losses.append(loss + angle / 2)
        return torch.stack(losses), torch.stack(pooled)


class Regression(torch.nn.Module):
    """A linear map of pooled vectors to some numbers.

    The vectors are standardised with running statistics, those of a batch of
    a dozen clips would be too noisy.

    Arguments
    ---------
    dim : int
        Width of the student.
    size : int
        How many numbers.
    """

    def __init__(self, dim, size):
        super().__init__()
        self.normalise = torch.nn.BatchNorm1d(dim, affine=False, momentum=0.02)
        self.head = torch.nn.Linear(dim, size)

    def forward(self, pooled, wanted):
        """Squared error over the variance within the batch."""
        running = self.normalise
        if self.training and len(pooled) > 1:
            running(pooled.detach())
        scale = torch.rsqrt(running.running_var + running.eps)
        vectors = (pooled - running.running_mean) * scale
        error = (self.head(vectors) - wanted).square().sum()
        variance = (wanted - wanted.mean(dim=0)).square().sum()
        # A batch of one clip, or of one speaker, has hardly any.
        return error / torch.maximum(variance, wanted.square().sum() / 10)


class Labels(torch.nn.Module):
    """Angular-margin classification of pooled vectors, where labelled.

    Arguments
    ---------
    dim : int
        Width of the student.
    n_labels : int
        Classes; 0 makes a task that is always skipped.
    """

    def __init__(self, dim, n_labels):
        super().__init__()
        # The angles are those of a linear projection to 128 dimensions.
        self.classifier = Classifier(
            dim, lin_blocks=1, lin_neurons=128, out_neurons=max(n_labels, 1)
        )
        margin = AdditiveAngularMargin(margin=0.1, scale=20.0)
        self.loss = LogSoftmaxWrapper(margin)

    def forward(self, pooled, labels):
        """Cross-entropy and accuracy of the clips whose label is not -1."""
        known = labels >= 0
        if known.sum() < 2:  # batch normalisation needs two
            return pooled.sum() * 0, None
        outputs = self.classifier(pooled[known][:, None])
        loss = self.loss(outputs, labels[known][:, None])
        correct = outputs[:, 0].argmax(1) == labels[known]
        return loss, correct.float().mean()


class Tasks(torch.nn.Module):
    """All six tasks.

    Arguments
    ---------
    dim : int
        Width of teacher and student.
    n_layers : int
        Hidden states of the student, each with a layer of the teacher.
    voice : VoiceTargets
        See ``voices.py``; fitted.
    n_speakers, n_words : int
        Labels of the synthetic speech.
    layers : dict
        Task (``heard``, ``voice``, ``speaker``, ``word``) -> hidden state.
    weights : dict
        Task -> weight of its loss.
    """

    def __init__(
        self, dim, n_layers, voice, n_speakers, n_words, layers, weights
    ):
        super().__init__()
        self.distil = Distillation(dim, n_layers)
        self.as_heard = voice
        self.heard = Regression(dim, voice.dims)
        self.voice = Regression(dim, voice.dims)
        self.speaker = Labels(dim, n_speakers)
        self.word = Labels(dim, n_words)
        self.layers, self.weights = dict(layers), dict(weights)

    def forward(self, hidden, batch):
        """Weighted sum of the losses, and its parts for the log.

        Arguments
        ---------
        hidden : list of torch.Tensor
            Hidden states, each [B, frames, dim].
        batch : speechbrain.dataio.batch.PaddedBatch
            Of what ``Crops`` give.

        Returns
        -------
        loss : torch.Tensor
            To be minimised.
        parts : dict
            Name -> float.
        """
        mask = padding_mask(batch.targets.lengths, hidden[0].shape[1])
        frames, means = self.distil(hidden, batch.targets.data, mask)
        losses = {"distil": frames.mean(), "pooled": means.mean()}
        parts = {f"distil{n}": x.item() for n, x in enumerate(frames)}
        parts |= {f"pooled{n}": x.item() for n, x in enumerate(means)}
        pooled = {
            task: masked_mean(hidden[layer], mask)
            for task, layer in self.layers.items()
        }
        losses["heard"] = self.heard(pooled["heard"], self.as_heard(*batch.wav))
        losses["voice"] = self.voice(pooled["voice"], batch.voice)
        for task in ("speaker", "word"):
            classify = getattr(self, task)
            losses[task], accuracy = classify(pooled[task], batch[task])
            if accuracy is not None:
                parts[f"{task}_accuracy"] = accuracy.item()
        parts |= {name: loss.item() for name, loss in losses.items()}
        return sum(self.weights[n] * losses[n] for n in losses), parts
