"""The exception tree of attviz.

    AttvizError
    ├── CaptureError            a capture that cannot be trusted or was misused
    │   ├── UnknownLayerError   a layer name, pattern or index that the model does not have
    │   ├── RaggedLayersError   layers of different shapes read as one tensor
    │   └── ReadingError        a reading that a layer's attention cannot provide
    ├── ShapeError              (also ValueError) a tensor whose shape breaks a rule
    ├── DtypeError              (also TypeError) a tensor whose dtype or device breaks a rule
    ├── ArgumentError           (also ValueError) an invalid argument
    ├── FormatError             (also ValueError) a malformed file or document, with the path of the error inside it
    ├── MetricError             a metric fed or merged with incompatible data
    │   ├── EmptyMetricError    a metric read before it saw any data
    │   └── AttentionAlarmError what AttentionHealth raises under on_alarm="raise"
    └── MissingExtraError       (also ImportError) an optional dependency that is not installed

Every message names what was found, where, and the cure.
"""

from attviz.spelling import printable


class AttvizError(Exception):
    """Base class of every error that attviz raises on purpose. Control characters in quoted text are made visible."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n\t")


class CaptureError(AttvizError, RuntimeError):
    """A capture saw less than the model has, or was used outside its rules."""


class UnknownLayerError(CaptureError, KeyError):
    """A layer name, glob pattern or index that matches no attention module."""

    def __str__(self) -> str:
        return printable(str(self.args[0]), keep="\n\t") if self.args else ""  # KeyError would print the repr of the message


class RaggedLayersError(CaptureError):
    """Layers whose diagonals differ in shape were requested as one tensor."""


class ReadingError(CaptureError):
    """A reading that an attention call cannot provide; the message says why."""


class CaptureWarning(UserWarning):
    """What ``strict=False`` emits instead of raising :class:`CaptureError`."""


class ShapeError(AttvizError, ValueError):
    """Tensors whose shapes break a rule; the message lists every size by name."""


class DtypeError(AttvizError, TypeError):
    """A tensor whose dtype or device the operation does not support."""


class ArgumentError(AttvizError, ValueError):
    """An invalid argument; the message lists the valid choices."""


class FormatError(AttvizError, ValueError):
    """A malformed file or document; the message says where in it the error is."""


class MetricError(AttvizError, RuntimeError):
    """A metric fed from two models, merged with an incompatible state, or read from a damaged one."""


class EmptyMetricError(MetricError):
    """A metric was read before it, or any process it is pooled with, saw any data."""


class AttentionAlarmError(MetricError):
    """Attention in training crossed a threshold; ``alarms`` says which."""

    def __init__(self, message: str, alarms: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.alarms = alarms


class AttentionAlarmWarning(UserWarning):
    """Attention in training crossed a threshold, under ``on_alarm="warn"``."""


class MissingExtraError(AttvizError, ImportError):
    """An optional dependency is missing; the message is the pip command that installs it."""
