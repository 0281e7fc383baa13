"""Schedules of the learning rate: any of torch, by one interface."""

import inspect

from torch.optim.lr_scheduler import ReduceLROnPlateau

from speechbrain_ext.utils.errors import InputError


class Schedule:
    """A schedule of torch, which goes on by steps, epochs or validations.

    Arguments
    ---------
    make : callable
        (optimizer) -> a schedule of ``torch.optim.lr_scheduler``. One with an
        argument ``total_steps`` is told how often it goes on.
    optimizer : torch.optim.Optimizer
        Whose learning rate it sets.
    interval : str
        ``"step"`` or ``"epoch"``: when it goes on. ReduceLROnPlateau goes by
        the loss of each validation instead.
    steps, epochs : int
        Length of the training.

    Attributes
    ----------
    scheduler : torch.optim.lr_scheduler.LRScheduler
        The schedule itself, for checkpoints.

    Raises
    ------
    InputError
        If there is no such schedule of this length.

    Example
    -------
    >>> from functools import partial
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    >>> make = partial(ReduceLROnPlateau, patience=0)
    >>> schedule = Schedule(make, optimizer, "step", steps=20, epochs=5)
    >>> for loss in (2.0, 1.0, 1.0):
    ...     schedule.after_validation(loss)
    >>> optimizer.param_groups[0]["lr"]
    0.1
    """

    def __init__(self, make, optimizer, interval, steps, epochs):
        self.interval = interval
        self.length = steps if interval == "step" else epochs
        known = inspect.signature(make).parameters
        told = {"total_steps": self.length} if "total_steps" in known else {}
        try:
            self.scheduler = make(optimizer, **told)
        # Of arguments, or of a length that the schedule cannot be of.
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"lr_scheduler: no schedule of torch for {steps} steps in "
                f"{epochs} epochs: {error}"
            )
        self.by_loss = isinstance(self.scheduler, ReduceLROnPlateau)

    def after_step(self):
        """The optimiser has made a step."""
        if self.interval == "step" and not self.by_loss:
            self._go_on()

    def after_validation(self, loss):
        """An epoch is over, with this loss of its validation."""
        if self.by_loss:
            self.scheduler.step(loss)
        elif self.interval == "epoch":
            self._go_on()

    def _go_on(self):
        """Up to the last value: a one-cycle schedule has no further one."""
        if self.scheduler.last_epoch + 1 < self.length:
            self.scheduler.step()
