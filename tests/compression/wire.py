"""Messages as bytes: what `num_bits` claims, written and read bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import compression
from jaxfed.compression import _rotated, _vector


class Writer:
    """Bits one after another, the highest of each number first."""

    def __init__(self):
        self.bits = []

    def integer(self, value, width):
        self.bits += [int(value) >> i & 1 for i in reversed(range(width))]

    def float(self, value):
        self.integer(np.float32(value).view(np.uint32), 32)

    def message(self):
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


class Reader:
    """The same, back."""

    def __init__(self, message):
        self.bits = np.unpackbits(np.frombuffer(message, np.uint8)).tolist()

    def integer(self, width):
        taken, self.bits = self.bits[:width], self.bits[width:]
        return int("".join(map(str, taken)) or "0", 2)

    def float(self):
        return np.uint32(self.integer(32)).view(np.float32)


def encode(compressor, update, key):
    """What a client would send for an update."""
    writer = Writer()
    _write(writer, compressor, update, key)
    return writer.message()


def decode(compressor, message, like):
    """What a server would read out of it; it knows shapes and settings alone."""
    return _read(Reader(message), compressor, like)


def _seed_of(writer, key):
    for word in np.asarray(jax.random.key_data(key)):
        writer.integer(word, 32)


def _key_of(reader):
    words = jnp.array([reader.integer(32), reader.integer(32)], jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _again(key):
    return jax.random.clone(key)


def _write(writer, compressor, update, key):
    if isinstance(compressor, compression.Rotated):
        _seed_of(writer, _again(key))
        turned, inner_key = _turned(update, key)
        _write(writer, compressor.inner, turned, inner_key)
        return
    sent = compressor.compress(update, key=_again(key))
    if isinstance(compressor, compression.StochasticQuantization):
        _write_levels(writer, compressor.bits, sent)
        return
    vector = np.asarray(_vector.flat(sent))
    kept = _vector.count(compressor.fraction, update)
    if isinstance(compressor, compression.RandomK):
        _seed_of(writer, _again(key))
        places, factor = _places(key, vector.size, kept), 1.0
        if compressor.unbiased:
            factor = np.float32(vector.size / kept)
        whole = np.asarray(_vector.flat(update))
        np.testing.assert_array_equal(vector[places], whole[places] * factor)
        for place in places:
            writer.float(whole[place])
        return
    places = np.flatnonzero(vector)
    spare = np.setdiff1d(np.arange(vector.size), places)
    places = np.sort(np.append(places, spare[: kept - len(places)]))
    width = (vector.size - 1).bit_length()
    if kept * width < vector.size:
        for place in places:
            writer.integer(place, width)
    else:
        for i in range(vector.size):
            writer.integer(i in places, 1)
    for place in places:
        writer.float(vector[place])


def _read(reader, compressor, like):
    if isinstance(compressor, compression.Rotated):
        key = _key_of(reader)
        length = _rotated._padded(sum(a.size for a in jax.tree.leaves(like)))
        signs_key, inner_key = jax.random.split(key)
        signs = _rotated._signs(signs_key, length)
        del inner_key  # the inner message holds the seed that it needs
        padded = jax.ShapeDtypeStruct((length,), jnp.float32)
        turned = jnp.asarray(_read(reader, compressor.inner, padded))
        return _vector.unflat(signs * _rotated._hadamard(turned), like)
    if isinstance(compressor, compression.StochasticQuantization):
        leaves, structure = jax.tree.flatten(like)
        return structure.unflatten(
            [_read_levels(reader, compressor.bits, leaf) for leaf in leaves]
        )
    size = sum(a.size for a in jax.tree.leaves(like))
    kept = _vector.count(compressor.fraction, like)
    vector = np.zeros(size, np.float32)
    if isinstance(compressor, compression.RandomK):
        places = _places(_key_of(reader), size, kept)
        factor = np.float32(size / kept) if compressor.unbiased else 1.0
        vector[places] = [reader.float() * factor for _ in places]
        return _vector.unflat(jnp.asarray(vector), like)
    width = (size - 1).bit_length()
    if kept * width < size:
        places = [reader.integer(width) for _ in range(kept)]
    else:
        places = np.flatnonzero([reader.integer(1) for _ in range(size)])
    vector[places] = [reader.float() for _ in places]
    return _vector.unflat(jnp.asarray(vector), like)


def _turned(update, key):
    signs_key, inner_key = jax.random.split(key)
    vector = _vector.flat(update)
    length = _rotated._padded(vector.size)
    padded = jnp.pad(vector, (0, length - vector.size))
    return _rotated._hadamard(_rotated._signs(signs_key, length) * padded), inner_key


def _places(key, size, kept):
    from jaxfed.compression import _random_k

    return np.asarray(_random_k._places(key, size, kept))


def _write_levels(writer, bits, sent):
    for leaf in map(np.asarray, jax.tree.leaves(sent)):
        if 64 + bits * leaf.size >= 32 * leaf.size:
            for value in leaf.reshape(-1):
                writer.float(value)
            continue
        low, high = leaf.min(), leaf.max()
        writer.float(low)
        writer.float(high)
        share = (leaf.astype(np.float64) - low) / max(float(high) - low, 1e-300)
        for level in np.rint(share * (2**bits - 1)).reshape(-1):
            writer.integer(level, bits)


def _read_levels(reader, bits, leaf):
    if 64 + bits * leaf.size >= 32 * leaf.size:
        values = [reader.float() for _ in range(leaf.size)]
        return np.array(values, np.float32).reshape(leaf.shape)
    low, high = reader.float(), reader.float()
    levels = np.array([reader.integer(bits) for _ in range(leaf.size)], np.float64)
    values = low + (np.float64(high) - low) * (levels / (2**bits - 1))
    return values.astype(np.float32).reshape(leaf.shape)
