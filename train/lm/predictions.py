"""What ``earlyfusion lm predict`` writes."""

from typing import Any

import numpy as np

from ..callbacks.predictions import PredictionFiles


class LossFiles(PredictionFiles):
    """RUN/predictions/losses.jsonl: a line per window, with the mean loss and that of each token."""

    file = "losses.jsonl"

    def lines(self, prediction: Any) -> list[dict[str, Any]]:
        lines = []
        for window, losses in zip(prediction["windows"].tolist(), prediction["losses"].cpu().numpy()):
            counted = losses[losses > 0]
            mean = float(counted.mean()) if len(counted) else None
            lines.append({"window": window, "loss": mean, "tokens": np.round(losses, 4).tolist()})
        return lines
