"""Encoders as a user would add them: `_target_: tests.toy_encoders.Brightness`. No model, no weights."""

import numpy as np

from medretrieval.encoders.base import Encoder


class Brightness(Encoder):
    """Mean and spread of an image's brightness; notes what it was asked for."""

    def __init__(self, name="brightness", batch_size=4, weights=0):
        super().__init__(name, batch_size)
        self.weights = weights
        self.batches = []
        self.identified = 0

    def signature(self):
        return {"kind": "toy", "weights": self.weights}

    def identity(self):
        self.identified += 1
        return {**self.signature(), "preprocessing": {"size": (28, 28)}}

    def encode(self, images):
        self.batches.append(len(images))
        flat = images.reshape(len(images), -1).astype(np.float32)
        return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


class Streaming(Brightness):
    """Has a stream of its own, which is what embedding asks for."""

    def stream(self, images):
        self.batches.append("stream")
        yield from super().stream(images)


class NotFinite(Brightness):
    """The embedding of one image, counted from 0 over all batches, holds `value`."""

    def __init__(self, at, value="nan", **kwargs):
        super().__init__(**kwargs)
        self.at, self.value = at, float(value)

    def encode(self, images):
        begin = sum(self.batches)
        vectors = super().encode(images)
        if begin <= self.at < begin + len(images):
            vectors[self.at - begin, 1] = self.value
        return vectors


class Misshapen(Brightness):
    """Correct vectors put through `shape`, a function of vectors and the number of the batch."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape

    def encode(self, images):
        vectors = super().encode(images)
        return self.shape(vectors, len(self.batches) - 1)


class Interrupted(Brightness):
    """As if Ctrl-C were pressed while batch `at` is embedded; its signature is Brightness's."""

    def __init__(self, at=1, **kwargs):
        super().__init__(**kwargs)
        self.at = at

    def encode(self, images):
        if len(self.batches) == self.at:
            raise KeyboardInterrupt
        return super().encode(images)


class Neighborly(Brightness):
    """Vectors that depend, in their last bits, on the batch an image is in, as those of some runtimes do.

    Notes each image it embeds, by the number in its first pixels (see `numbered`).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def encode(self, images):
        self.seen += numbers(images)
        vectors = super().encode(images)
        return vectors * np.float32(1 + 1e-6 * len(images)) + vectors.mean() * np.float32(1e-6)


def numbered(which, side=6):
    """Images, each with its number in its first two pixels and noise of its own (uint8 [n, side, side])."""
    images = np.stack([np.random.default_rng(i).integers(0, 256, (side, side)) for i in which])
    images[:, 0, 0], images[:, 0, 1] = np.array(which) // 256, np.array(which) % 256
    return images.astype(np.uint8)


def numbers(images):
    return [int(image[0, 0]) * 256 + int(image[0, 1]) for image in images]


class Worded(Brightness):
    """Images of `conftest.painted` on an axis of their class; a sentence on that of the class it names.

    `words` are what the classes are called, in the order of their labels. A sentence with several names is
    the sum of their axes. Axes are one-hot; `offset` is added to every image, `text_offset` to every text.
    """

    def __init__(self, words, offset=(), text_offset=(), **kwargs):
        super().__init__(**kwargs)
        self.words = list(words)
        self.offset = np.resize(np.array(list(offset) or [0.0], np.float32), len(self.words))
        self.text_offset = np.resize(np.array(list(text_offset) or [0.0], np.float32), len(self.words))
        self.asked = []

    def signature(self):
        return {
            "kind": "worded",
            "words": self.words,
            "offset": self.offset.tolist(),
            "text_offset": self.text_offset.tolist(),
        }

    def encode(self, images):
        self.batches.append(len(images))
        classes = ((images.reshape(len(images), -1).mean(axis=1) - 20) // 40).astype(int)
        return np.eye(len(self.words), dtype=np.float32)[classes] + self.offset

    def encode_text(self, texts):
        self.asked += list(texts)
        named = [[word in text for word in self.words] for text in texts]
        return np.array(named, np.float32) + self.text_offset


class Described(Brightness):
    """Images and their captions on one axis each: that of the number that `numbered` writes into an image.

    A caption ends with the number of the image it names, "a scan, 17"; `shift` is added to that number, so
    that every caption names another image.
    """

    def __init__(self, count, shift=0, **kwargs):
        super().__init__(**kwargs)
        self.count, self.shift = count, shift

    def signature(self):
        return {"kind": "described", "count": self.count, "shift": self.shift}

    def encode(self, images):
        return np.eye(self.count, dtype=np.float32)[numbers(images)]

    def encode_text(self, texts):
        named = [(int(text.split()[-1]) + self.shift) % self.count for text in texts]
        return np.eye(self.count, dtype=np.float32)[named]
