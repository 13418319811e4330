"""Label counts are those of the owner, beside each of its examples."""

import numpy as np
import pytest

import jaxfed as jf

LABELS = np.array([0, 2, 2, 1, 1, 1], np.int32)


def data(labels=LABELS):
    arrays = {"x": np.zeros((len(labels), 2), np.float32), "y": labels}
    return jf.data.FederatedData.from_arrays(arrays, client=[0, 0, 0, 1, 1, 2])


def test_counts_are_those_of_the_owner():
    found = jf.data.with_label_counts(data(), num_classes=4)
    counts = found.arrays["label_counts"]
    assert counts.dtype == np.float32
    first, second, third = [1, 0, 2, 0], [0, 2, 0, 0], [0, 1, 0, 0]
    np.testing.assert_array_equal(counts, [first] * 3 + [second] * 2 + [third])
    assert set(found.arrays) == {"x", "y", "label_counts"}
    assert "label_counts" not in data().arrays


def test_the_sums_are_the_sizes():
    """On a real set: each row of counts sums to its client's size."""
    heart = jf.data.fed_heart()
    counts = jf.data.with_label_counts(heart, num_classes=2).arrays["label_counts"]
    sizes = np.repeat(heart.client_sizes, heart.client_sizes)
    np.testing.assert_array_equal(counts.sum(axis=1), sizes)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        (LABELS, {"num_classes": 2}, r"must be in \[0, 2\), got 0 to 2"),
        (LABELS - 1, {"num_classes": 3}, r"got -1 to 1"),
        (LABELS.astype(np.float32), {"num_classes": 3}, "one integer per example"),
        (LABELS, {"num_classes": 3, "label": "z"}, "label must be one of"),
        (LABELS, {"num_classes": 3, "name": "x"}, "name must be new"),
        (LABELS, {"num_classes": 0}, "num_classes must be an integer >= 1"),
    ],
)
def test_what_cannot_be_counted_is_refused(labels, options, match):
    with pytest.raises(ValueError, match=match):
        jf.data.with_label_counts(data(labels), **options)
